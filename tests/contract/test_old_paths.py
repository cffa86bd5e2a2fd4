"""Old import paths lead to where the names live now."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import foreblocks.darts as darts
from foreblocks.darts._compat.finder import OldPathFinder, install
from foreblocks.darts._compat.table import OLD_PATHS

ENTRIES = [(old, name, target) for old, names in OLD_PATHS.items() for name, target in names.items()]


@pytest.mark.parametrize(("old", "name", "target"), ENTRIES)
def test_an_old_name_is_the_new_object(old: str, name: str, target: str) -> None:
    module, _, attribute = target.partition(":")
    new = getattr(importlib.import_module(f"foreblocks.darts.{module}"), attribute)
    assert getattr(importlib.import_module(f"foreblocks.darts.{old}"), name) is new


@pytest.mark.parametrize("old", OLD_PATHS)
def test_no_old_path_hides_behind_a_real_module(old: str) -> None:
    path = Path(darts.__file__).parent.joinpath(*old.split("."))
    assert not path.with_suffix(".py").exists()
    assert not path.is_dir()


@pytest.mark.parametrize(
    "name", ["foreblocks.darts.config", "foreblocks.darts.nothing", "utils.io", "foreblocks.darts"]
)
def test_the_finder_answers_for_nothing_else(name: str) -> None:
    assert OldPathFinder("foreblocks.darts").find_spec(name) is None


def test_an_unknown_module_is_still_missing() -> None:
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("foreblocks.darts.utils.nothing")


def test_an_unknown_attribute_says_the_nearest() -> None:
    module = importlib.import_module("foreblocks.darts.utils.io")
    with pytest.raises(AttributeError, match="Did you mean 'save_model'"):
        module.save_modell
    assert "load_model_checkpoint" in dir(module)


def test_the_finder_is_installed_once() -> None:
    install("foreblocks.darts")
    assert sum(isinstance(finder, OldPathFinder) for finder in sys.meta_path) == 1
