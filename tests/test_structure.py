"""The shape of the source: small files and functions, one-way imports, and habits that ruff cannot see."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "foreblocks" / "darts"
MAX_FILE = 400
MAX_FUNCTION = 60
# The documented signatures are long; these hold them and no logic.
LONG_FILES = {"foreblocks/darts/trainer.py"}
LONG_FUNCTIONS = {"foreblocks/darts/architecture/network.py:TimeSeriesDARTS.__init__"}
PRINTS = "foreblocks/darts/cli/"
BROAD = {"Exception", "BaseException"}
LOG_METHODS = {"debug", "info", "warning", "error", "exception", "critical", "log", "log_once"}


@cache
def _sources() -> dict[str, str]:
    # rglob does not enter the symbolic link foreblocks/darts/kernels, so its target is listed by its own path.
    paths = [*PACKAGE.rglob("*.py"), *(ROOT / "kernels").rglob("*.py")]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(set(paths))}


SOURCES = _sources()
every_source = pytest.mark.parametrize("name", SOURCES)


def _functions(node: ast.AST, where: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield f"{where}{child.name}", child
        inner = f"{where}{child.name}." if isinstance(child, (ast.FunctionDef, ast.ClassDef)) else where
        yield from _functions(child, inner)


def _lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def _called(call: ast.Call) -> str:
    return call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")


def test_the_sources_are_found() -> None:
    assert "foreblocks/darts/config.py" in SOURCES
    assert "kernels/reference.py" in SOURCES


@every_source
def test_files_are_short(name: str) -> None:
    assert name in LONG_FILES or SOURCES[name].count("\n") < MAX_FILE


@every_source
def test_functions_are_short(name: str) -> None:
    long = [
        f"{where}: {_lines(function)} lines"
        for where, function in _functions(ast.parse(SOURCES[name]))
        if _lines(function) > MAX_FUNCTION and f"{name}:{where}" not in LONG_FUNCTIONS
    ]
    assert name in LONG_FILES or not long, long


@every_source
def test_nothing_prints_or_probes_for_attributes(name: str) -> None:
    calls = [node for node in ast.walk(ast.parse(SOURCES[name])) if isinstance(node, ast.Call)]
    banned = {"hasattr"} | (set() if name.startswith(PRINTS) else {"print"})
    assert [f"line {call.lineno}" for call in calls if isinstance(call.func, ast.Name) and call.func.id in banned] == []


@every_source
def test_a_broad_handler_raises_or_logs(name: str) -> None:
    assert _silent_handlers(ast.parse(SOURCES[name])) == []


def _silent_handlers(tree: ast.AST) -> list[int]:
    silent = []
    for handler in (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)):
        kinds = [n.id for n in ast.walk(handler.type) if isinstance(n, ast.Name)] if handler.type else ["BaseException"]
        inside = [node for statement in handler.body for node in ast.walk(statement)]
        speaks = any(
            isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and _called(node) in LOG_METHODS)
            for node in inside
        )
        if BROAD & set(kinds) and not speaks:
            silent.append(handler.lineno)
    return silent


@pytest.mark.parametrize(
    ("body", "count"), [("pass", 1), ("return None", 1), ("raise", 0), ("logger.exception('x')", 0)]
)
def test_the_check_of_handlers_can_fail(body: str, count: int) -> None:
    tree = ast.parse(f"def f():\n    try:\n        g()\n    except Exception:\n        {body}\n")
    assert len(_silent_handlers(tree)) == count


@pytest.mark.parametrize("name", [*SOURCES, *(p.relative_to(ROOT).as_posix() for p in ROOT.glob("tests/**/*.py"))])
def test_the_kernels_have_one_name(name: str) -> None:
    """``import kernels`` from the root would make a second copy of every registered operation."""
    tree = ast.parse((ROOT / name).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level == 0}
    assert not {module for module in imported if module.partition(".")[0] == "kernels"}


def test_private_modules_stay_in_their_package() -> None:
    """``_core`` is for all packages; another name with an underscore is for the folder that it lies in."""
    imports = [
        (name, node.module)
        for name, text in SOURCES.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.ImportFrom) and node.level and node.module
    ]
    assert len(imports) > 500
    assert [each for each in imports if "._" in each[1]] == []


def test_no_warning_filter_is_set_for_everybody() -> None:
    for name, text in SOURCES.items():
        calls = {_called(node) for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)}
        assert not calls & {"filterwarnings", "simplefilter"}, name


def test_imports_go_one_way() -> None:
    command = shutil.which("lint-imports", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if command is None:
        pytest.skip("import-linter is not installed")
    done = subprocess.run([command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
