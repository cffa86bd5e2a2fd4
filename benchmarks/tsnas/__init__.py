"""A tabular benchmark for architecture search in forecasting: what is in it, how it is made, and what it shows."""
