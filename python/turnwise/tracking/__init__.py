"""Who holds which connection, since when, and for which request, task or job."""
