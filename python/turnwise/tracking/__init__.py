"""Who holds which connection, since when, and from which line."""
