"""SQLAlchemy engines whose writes take turns, and whose losses are not silent."""
