"""The parts of the analyzer: records, table, correlations, patterns, findings and figures, all on plain data."""
