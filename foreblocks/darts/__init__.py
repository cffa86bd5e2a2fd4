"""Staged differentiable architecture search for time series forecasting."""
