"""Foundations that every other layer may import: errors, logging, seeds, devices, optional packages."""
