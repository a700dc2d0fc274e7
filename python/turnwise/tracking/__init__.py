"""Who holds a database session, since when, and from which line."""
