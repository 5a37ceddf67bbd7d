"""Side by side with other packages, in one process and one run: ratios, not absolute times."""
