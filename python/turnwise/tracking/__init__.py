"""The session-lifetime tracker: who holds a database session, since when, and from which line."""
