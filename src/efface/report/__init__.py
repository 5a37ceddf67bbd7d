"""Records into a tidy data frame, tables and figures. Reads files, imports no torch."""
