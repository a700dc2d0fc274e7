"""What turnwise does for applications that use SQLAlchemy."""
