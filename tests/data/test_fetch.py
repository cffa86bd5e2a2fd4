"""Fetching over a server on the loopback: resumed after a cut, checked, atomic, and clear when it cannot work."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from foreblocks.darts._core.errors import DataError, InvalidArgument
from foreblocks.darts.cli import main
from foreblocks.darts.data import CATALOG, cache_folder, fetch_dataset, load_dataset
from foreblocks.darts.data.catalog import dataset_url
from foreblocks.darts.data.fetch import fetch

BODY = ("date,a\n" + "".join(f"2024-01-{day:02d},{day}.5\n" for day in range(1, 29))).encode()
DIGEST = hashlib.sha256(BODY).hexdigest()


class Site(ThreadingHTTPServer):
    """Serves ``files``; ``cuts`` says after how many bytes the next answers break off, ``codes`` what they answer."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {"/data.csv": BODY}
        self.cuts: list[int] = []
        self.codes: list[int] = []
        self.ranges = True
        self.seen: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Site

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        site, asked = self.server, self.headers.get("Range")
        site.seen.append(asked)
        body = site.files.get(self.path)
        code = site.codes.pop(0) if site.codes else 200
        if body is None or code >= 400:
            self.send_error(404 if body is None else code)
            return
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and site.ranges else 0
        if start >= len(body):
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        self.end_headers()
        cut = site.cuts.pop(0) if site.cuts else len(body)
        self.wfile.write(body[start : start + cut])


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    monkeypatch.setenv("no_proxy", "*")
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_comes_once_and_whole(site: Site, tmp_path: Path):
    steps: list[tuple[int, int | None]] = []
    path = tmp_path / "deep" / "f.csv"
    for _ in range(2):
        assert fetch(f"{site.url}/data.csv", path, sha256=DIGEST, progress=lambda *s: steps.append(s)) == path
    assert path.read_bytes() == BODY
    assert len(site.seen) == 1
    assert steps[-1] == (len(BODY), len(BODY))
    assert names(path.parent) == ["f.csv"]


def test_cuts_are_resumed_where_they_were(site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    site.cuts = [100, 50]
    with caplog.at_level(logging.WARNING, "foreblocks.darts"):
        fetch(f"{site.url}/data.csv", tmp_path / "f.csv", sha256=DIGEST, wait=0)
    assert site.seen == [None, "bytes=100-", "bytes=150-"]
    assert (tmp_path / "f.csv").read_bytes() == BODY
    assert f"cut at 100 of {len(BODY)} bytes" in caplog.text


def test_the_next_call_goes_on_where_the_last_one_gave_up(site: Site, tmp_path: Path):
    site.cuts = [100, 10]
    with pytest.raises(DataError, match=r"2 times.*goes on from the 110 bytes"):
        fetch(f"{site.url}/data.csv", tmp_path / "f.csv", sha256=DIGEST, attempts=2, wait=0)
    assert names(tmp_path) == ["f.csv.lock", "f.csv.part"]
    fetch(f"{site.url}/data.csv", tmp_path / "f.csv", sha256=DIGEST)
    assert site.seen[-1] == "bytes=110-"
    assert (tmp_path / "f.csv").read_bytes() == BODY


def test_a_server_without_ranges_starts_anew(site: Site, tmp_path: Path):
    site.cuts, site.ranges = [100], False
    fetch(f"{site.url}/data.csv", tmp_path / "f.csv", sha256=DIGEST, wait=0)
    assert (tmp_path / "f.csv").read_bytes() == BODY


def test_without_a_hash_nothing_is_resumed(site: Site, tmp_path: Path):
    site.cuts = [100]
    fetch(f"{site.url}/data.csv", tmp_path / "f.csv", wait=0)
    assert site.seen == [None, None]
    assert (tmp_path / "f.csv").read_bytes() == BODY


@pytest.mark.parametrize("kept", [b"another beginning", b"x" * len(BODY), b"x" * (len(BODY) + 9)])
def test_a_kept_part_of_another_file_is_dropped(site: Site, tmp_path: Path, kept: bytes):
    (tmp_path / "f.csv.part").write_bytes(kept)
    fetch(f"{site.url}/data.csv", tmp_path / "f.csv", sha256=DIGEST)
    assert (tmp_path / "f.csv").read_bytes() == BODY
    assert names(tmp_path) == ["f.csv"]


def test_a_part_that_is_whole_needs_no_more_bytes(site: Site, tmp_path: Path):
    (tmp_path / "f.csv.part").write_bytes(BODY)
    fetch(f"{site.url}/data.csv", tmp_path / "f.csv", sha256=DIGEST)
    assert site.seen == [f"bytes={len(BODY)}-"]


def test_a_wrong_hash_keeps_nothing(site: Site, tmp_path: Path):
    with pytest.raises(DataError, match=f"sha256 {DIGEST} is not the expected {'0' * 64}"):
        fetch(f"{site.url}/data.csv", tmp_path / "f.csv", sha256="0" * 64)
    assert names(tmp_path) == ["f.csv.lock"]


def test_a_missing_page_is_named_and_a_busy_server_is_asked_again(site: Site, tmp_path: Path):
    with pytest.raises(DataError, match=r"/none.csv: the server answers 404"):
        fetch(f"{site.url}/none.csv", tmp_path / "f.csv", sha256=DIGEST, wait=0)
    assert len(site.seen) == 1
    site.codes = [503, 429]
    fetch(f"{site.url}/data.csv", tmp_path / "f.csv", sha256=DIGEST, wait=0)
    assert (tmp_path / "f.csv").read_bytes() == BODY


def test_no_network_and_other_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(DataError, match=r"cannot be reached .*offline\?"):
        fetch(f"{closed}/data.csv", tmp_path / "f.csv", sha256=DIGEST)
    with pytest.raises(InvalidArgument, match="must begin with http"):
        fetch("file:///etc/hostname", tmp_path / "f.csv")
    assert names(tmp_path) == ["f.csv.lock"]


def test_two_at_once_fetch_one_file(site: Site, tmp_path: Path):
    path = tmp_path / "f.csv"
    threads = [
        threading.Thread(target=fetch, args=(f"{site.url}/data.csv", path), kwargs={"sha256": DIGEST}) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == BODY
    assert len(site.seen) == 1
    assert names(tmp_path) == ["f.csv"]


# ---- the catalog -------------------------------------------------------------------------------------------------


@pytest.fixture
def cached(site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and a server with a file that passes for ETTh2."""
    monkeypatch.delenv("FOREBLOCKS_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FOREBLOCKS_DATA_URL", f"{site.url}/sets/")
    monkeypatch.setitem(CATALOG, "ETTh2", dataclasses.replace(CATALOG["ETTh2"], sha256=DIGEST))
    site.files = {"/sets/ETTh2.csv": BODY}
    return tmp_path / "cache" / "foreblocks-darts"


def test_a_known_set_is_fetched_once_into_the_cache(site: Site, cached: Path, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "foreblocks.darts"):
        first, second = load_dataset("ETTh2"), load_dataset("etth2")
    assert caplog.text.count("fetching") == 1
    assert first.values.tolist() == second.values.tolist() == [[day + 0.5] for day in range(1, 29)]
    assert len(site.seen) == 1
    assert names(cached) == ["ETTh2.csv"]


def test_a_folder_of_the_user_comes_first(site: Site, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "ETTh2.csv").write_bytes(BODY)
    monkeypatch.setenv("FOREBLOCKS_DATA", str(tmp_path))
    load_dataset("ETTh2")
    assert not site.seen
    with pytest.raises(DataError, match="not found in the folder"):
        load_dataset("ETTh2", tmp_path / "none")  # a folder that is named is the only one looked at
    assert not site.seen


def test_what_cannot_be_fetched_says_how_to_go_on(site: Site, cached: Path):
    with pytest.raises(DataError, match=r"ETTm2 could not be fetched.*404.*--data-dir.*FOREBLOCKS_DATA_URL"):
        load_dataset("ETTm2")
    with pytest.raises(DataError, match="no folder to look in"):
        load_dataset("ETTh2", download=False)
    site.files["/sets/ETTh2.csv"] = BODY + b"2024-02-01,1\n"
    with pytest.raises(DataError, match="is not the expected"):
        load_dataset("ETTh2")
    assert all(name.endswith(".lock") for name in names(cached))


def test_addresses_and_the_place_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.delenv("FOREBLOCKS_DATA_URL", raising=False)
    for entry in CATALOG.values():
        assert dataset_url(entry.name) == entry.home
        assert entry.home.startswith("https://")
        assert entry.home.endswith(f"/{entry.name}.csv")
    assert dataset_url("etth1", "http://x/y/") == "http://x/y/ETTh1.csv"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "foreblocks-darts"
    with pytest.raises(InvalidArgument, match="unknown"):
        fetch_dataset("ETTh9")


def test_the_command_line_fetches_unless_offline(cached: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["search", "--data", "ETTh2", "--offline"]) == 2
    assert "no folder to look in" in capsys.readouterr().err
    assert main(["search", "--data", "ETTh2"]) == 2  # 28 rows are too few for a search, but they came
    assert "12/4/4 months" in capsys.readouterr().err
    assert names(cached) == ["ETTh2.csv"]
