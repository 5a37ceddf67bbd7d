"""Records into a tidy data frame, tables and plots. Reads files, imports no torch."""
