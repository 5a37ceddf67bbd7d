"""One run, from configured parts to a record."""
