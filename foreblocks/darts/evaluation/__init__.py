"""Losses, metrics, baselines, the blend of forecasters, and the tables that report them."""
