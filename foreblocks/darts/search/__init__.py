"""The staged search: candidates, screening, halving, the final phase and its result."""
