"""Records into a tidy data frame, tables and plots. Reads files, imports no torch."""

from efface.extras import require

require("jinja2", "matplotlib", "pandas", "pydantic", "scipy", extra="report", what="a report")
