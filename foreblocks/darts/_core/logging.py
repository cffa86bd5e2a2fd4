"""Loggers under one root, silent unless the application configures logging."""

from __future__ import annotations

import logging

ROOT = "foreblocks.darts"
_said: set[tuple[str, str]] = set()

logging.getLogger(ROOT).addHandler(logging.NullHandler())


def get_logger(name: str) -> logging.Logger:
    """Return the logger of a module; ``name`` is its ``__name__``."""
    return logging.getLogger(name if name.startswith(ROOT) else f"{ROOT}.{name}")


def log_once(logger: logging.Logger, level: int, message: str) -> None:
    """Log ``message`` the first time only: for facts that hold for the whole process."""
    key = (logger.name, message)
    if key not in _said:
        _said.add(key)
        logger.log(level, message)
