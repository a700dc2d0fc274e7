"""Who holds a database session, since when, from which line, and what is wrong with it."""
