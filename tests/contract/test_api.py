"""The public surface: every name, parameter and default of api.json is here; more parameters may follow them."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import importlib.metadata
import inspect
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import foreblocks.darts as darts
from foreblocks.darts import config

API: dict[str, Any] = json.loads((Path(__file__).parent / "api.json").read_text())
PACKAGE = Path(darts.__file__).parent

PENDING: list[str] = []  # what raises NotImplementedError; nothing may


def _check_signature(target: Any, wanted: list[dict[str, Any]]) -> None:
    """The wanted parameters come first, in order, with their kind and default; every further one has a default."""
    own = {name: p for name, p in inspect.signature(target).parameters.items() if name != "self"}
    positional = [name for name, p in own.items() if p.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    expected = [entry["name"] for entry in wanted if entry["kind"] == "POSITIONAL_OR_KEYWORD"]
    assert positional[: len(expected)] == expected
    for entry in wanted:
        if entry["kind"] == "VAR_KEYWORD":
            assert any(p.kind is inspect.Parameter.VAR_KEYWORD for p in own.values())
            continue
        assert entry["name"] in own, f"{entry['name']} is missing"
        found = own.pop(entry["name"])
        assert found.kind.name == entry["kind"], entry["name"]
        default = None if found.default is inspect.Parameter.empty else repr(found.default)
        assert default == entry.get("default_repr"), entry["name"]
    for name, extra in own.items():
        variadic = extra.kind in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        assert variadic or extra.default is not inspect.Parameter.empty, f"extra parameter {name} needs a default"


def _resolve(dotted: str) -> Any:
    """Return the object of ``module.path.Name`` or ``module.path.Class.method`` below the package."""
    parts = dotted.split(".")
    split = next((i for i, part in enumerate(parts) if part[0].isupper()), len(parts) - 1)
    value = importlib.import_module(".".join(["foreblocks.darts", *parts[:split]]))
    for part in parts[split:]:
        value = getattr(value, part)
    return value


@pytest.mark.parametrize("name", API["exported"])
def test_every_exported_name_imports(name: str) -> None:
    expected = "MultiFidelitySearchConfig" if name == "MultiFildelitySearchConfig" else name
    assert getattr(darts, name).__name__ == expected


def test_the_public_list_is_the_exported_one() -> None:
    assert sorted(darts.__all__) == sorted(API["exported"])
    assert set(darts.__all__) <= set(dir(darts))
    assert set(API["guide_exports"]) <= set(darts.__all__)


def test_both_spellings_are_one_class() -> None:
    assert darts.MultiFildelitySearchConfig is darts.MultiFidelitySearchConfig


def test_an_unknown_name_says_the_nearest() -> None:
    with pytest.raises(AttributeError, match="Did you mean 'DARTSTrainer'"):
        darts.DARTSTraner


@pytest.mark.parametrize("name", API["constants"])
def test_constants(name: str) -> None:
    assert getattr(config, name) == API["constants"][name]


@pytest.mark.parametrize("name", API["dataclasses"])
def test_dataclasses_have_the_fields_types_and_defaults(name: str) -> None:
    wanted = API["dataclasses"][name]
    fields = dataclasses.fields(getattr(config, name))
    assert [field.name for field in fields[: len(wanted)]] == list(wanted)
    assert all(field.default is not dataclasses.MISSING for field in fields[len(wanted) :])
    for field in fields[: len(wanted)]:
        assert field.type == wanted[field.name]["type"], field.name
        default = None if field.default is dataclasses.MISSING else repr(field.default)
        assert default == wanted[field.name]["default"], field.name


@pytest.mark.parametrize("name", API["trainer"])
def test_trainer_signatures(name: str) -> None:
    _check_signature(getattr(darts.DARTSTrainer, name), API["trainer"][name])


@pytest.mark.parametrize("dotted", API["functions"])
def test_function_signatures(dotted: str) -> None:
    _check_signature(_resolve(dotted.removeprefix("foreblocks.darts.")), API["functions"][dotted])


def test_network_signature() -> None:
    _check_signature(darts.TimeSeriesDARTS.__init__, API["TimeSeriesDARTS"])


def test_nothing_is_pending() -> None:
    found = set()
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        found |= {f"{module}.{where}" for where in _raisers(ast.parse(path.read_text()), "")}
    assert found == set(PENDING)


def test_the_search_for_what_is_pending_can_fail() -> None:
    tree = ast.parse(
        "class A:\n    def f(self):\n        raise NotImplementedError('later')\n    def g(self):\n        pass\n"
    )
    assert _raisers(tree, "") == {"A.f"}


def _raisers(node: ast.AST, where: str) -> set[str]:
    found: set[str] = set()
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))
        inner = f"{where}.{child.name}".lstrip(".") if named else where
        if isinstance(child, ast.Raise) and any(
            isinstance(n, ast.Name) and n.id == "NotImplementedError" for n in ast.walk(child)
        ):
            found.add(where)
        found |= _raisers(child, inner)
    return found


def test_importing_the_package_imports_neither_torch_nor_numpy() -> None:
    code = (
        "import sys, foreblocks.darts as d; import foreblocks.darts.config; d.DARTSConfig().to_dict(); "
        "heavy = {'torch', 'numpy', 'matplotlib', 'pandas'} & set(sys.modules); sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_type_checkers_see_the_names_where_they_are_loaded_from() -> None:
    tree = ast.parse((PACKAGE / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.name: node.module for node in block.body for alias in node.names}  # type: ignore[attr-defined]
    assert sorted(seen) == sorted(darts.__all__)
    for name, module in seen.items():
        assert darts._MODULES.get(name, "config") == module


def test_the_version_is_that_of_the_distribution() -> None:
    assert darts.__version__ == importlib.metadata.version("foreblocks-darts")


def _good(a, b=1, *, c="x", extra=None, **kwargs):  # type: ignore[no-untyped-def]
    """A function with the parameters of ``WANTED`` and more."""


def _other_default(a, b=2, *, c="x"):  # type: ignore[no-untyped-def]
    """One default differs."""


def _other_order(b=1, a=None, *, c="x"):  # type: ignore[no-untyped-def]
    """Positional arguments would be mixed up."""


def _missing(a, b=1):  # type: ignore[no-untyped-def]
    """A keyword is missing."""


def _needs_more(a, b=1, *, c="x", extra):  # type: ignore[no-untyped-def]
    """An old call would fail."""


WANTED = [
    {"name": "a", "kind": "POSITIONAL_OR_KEYWORD"},
    {"name": "b", "kind": "POSITIONAL_OR_KEYWORD", "default_repr": "1"},
    {"name": "c", "kind": "KEYWORD_ONLY", "default_repr": "'x'"},
]


def test_the_check_of_signatures_passes_more_parameters() -> None:
    _check_signature(_good, WANTED)


@pytest.mark.parametrize("function", [_other_default, _other_order, _missing, _needs_more])
def test_the_check_of_signatures_can_fail(function: Any) -> None:
    with pytest.raises(AssertionError):
        _check_signature(function, WANTED)


def test_every_error_has_a_public_path() -> None:
    from foreblocks.darts import errors
    from foreblocks.darts._core import errors as defined

    raised = {name for name, value in vars(defined).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert set(errors.__all__) == raised
    assert all(issubclass(getattr(errors, name), errors.DartsError) for name in errors.__all__)


def test_the_documented_place_of_the_learning_rate_study() -> None:
    from foreblocks.darts.search.multi_fidelity import bilevel_lr_sensitivity

    assert bilevel_lr_sensitivity.__module__ == "foreblocks.darts.search.lr_sensitivity"
