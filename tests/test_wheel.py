"""What a user installs: a pure wheel built from this tree, without torch or a compiler."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE", "foreblocks", "kernels", "csrc", "tests")
BUILT_HERE = shutil.ignore_patterns("*.so", "_build_info.py", "__pycache__", "*.egg-info")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree, out = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, tree / part, symlinks=True, ignore=BUILT_HERE)
        else:
            shutil.copy(ROOT / part, tree / part)
    call = [sys.executable, "-m", "pip", "wheel", "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index",
            "--no-build-isolation", "--wheel-dir", str(out), str(tree)]  # fmt: skip
    environment = {**os.environ, "FOREBLOCKS_BUILD_EXT": "0"}
    done = subprocess.run(call, env=environment, cwd=out, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = out.glob("*.whl")
    return built


def sources() -> dict[str, bytes]:
    """Return what belongs where in a wheel: ``kernels/`` is a link in the package, but real files when installed."""
    package = {p.relative_to(ROOT).as_posix(): p for p in (ROOT / "foreblocks").rglob("*.py")}
    linked = {f"foreblocks/darts/{p.relative_to(ROOT).as_posix()}": p for p in (ROOT / "kernels").rglob("*.py")}
    return {name: p.read_bytes() for name, p in {**package, **linked}.items() if p.name != "_build_info.py"}


def test_the_wheel_holds_every_source_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if not name.endswith("/")]
        inside = {name: archive.read(name) for name in names}
        assert not any(stat.S_ISLNK(entry.external_attr >> 16) for entry in archive.infolist())
    expected = sources()
    assert len(expected) > 100
    code = {name: content for name, content in inside.items() if name.endswith(".py")}
    information = code.pop("foreblocks/darts/kernels/_build_info.py").decode()
    assert code == expected
    assert "BUILT = False" in information
    assert "FOREBLOCKS_BUILD_EXT=0" in information
    others = {name for name in inside if not name.endswith(".py") and ".dist-info/" not in name}
    data = {"py.typed", "benchmarks/tsnas.csv.gz", "evaluation/page.html.j2"}
    assert others == {f"foreblocks/darts/{name}" for name in data}


def test_the_wheel_is_pure_and_says_what_it_is(wheel: Path) -> None:
    assert wheel.name.startswith("foreblocks_darts-")
    assert wheel.name.endswith("-py3-none-any.whl")
    with zipfile.ZipFile(wheel) as archive:
        (folder,) = {name.split("/")[0] for name in archive.namelist() if ".dist-info/" in name}
        assert "foreblocks-darts = foreblocks.darts.cli:main" in archive.read(f"{folder}/entry_points.txt").decode()
        metadata = archive.read(f"{folder}/METADATA").decode()
        assert f"{folder}/licenses/LICENSE" in archive.namelist()
    assert "License-Expression: MIT" in metadata
    assert "Requires-Dist: torch>=2.6" in metadata


def test_the_wheel_imports_from_where_it_is_unpacked(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = "import foreblocks.darts.kernels as k; from foreblocks.darts import DARTSTrainer as t; print(k.__file__, t)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.startswith(str(tmp_path / "site" / "foreblocks" / "darts" / "kernels" / "__init__.py"))
