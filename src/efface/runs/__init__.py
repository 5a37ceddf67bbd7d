"""Runs: from configured parts to a record."""
