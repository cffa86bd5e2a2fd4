"""Fetch a file over HTTP once: resumed after a cut, checked by its hash, and in place only when it is whole."""

from __future__ import annotations

import hashlib
import http.client
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from filelock import FileLock

from .._core.errors import DataError, InvalidArgument
from .._core.logging import get_logger

Progress: TypeAlias = Callable[[int, int | None], None]

_LOG = get_logger(__name__)
_CHUNK = 1 << 16
_TIMEOUT = 30.0
_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


class _Cut(Exception):
    """The connection broke, or the server is busy; what has come so far is kept."""


def fetch(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    attempts: int = 4,
    wait: float = 1.0,
    progress: Progress | None = None,
) -> Path:
    """Return ``path``, fetched from ``url`` unless it is there.

    With a hash, a cut connection is resumed by an HTTP range, at once and, after the last attempt, by the next call:
    until then the bytes lie in ``<name>.part``. A second process waits for the first; their ``<name>.lock`` stays
    only as long as the file is missing. Nothing is at ``path`` before the hash is right.

    Args:
        url: ``http://`` or ``https://``.
        path: where the file goes; its folder is made.
        sha256: of the whole file; None accepts any.
        attempts: connections to try before giving up.
        wait: seconds before the second attempt, twice as long before each further one.
        progress: called with the bytes so far and in all (None if the server does not say).

    Raises:
        InvalidArgument: another kind of address.
        DataError: the server cannot be reached or refuses (with its status), or the hash is wrong; nothing is left at
            ``path``, and after a wrong hash nothing at all.
        OSError: the folder cannot be written.
    """
    if not url.startswith(("http://", "https://")):
        raise InvalidArgument(f"url={url!r} must begin with http:// or https://.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    lock = path.with_name(path.name + ".lock")
    with FileLock(lock):
        while not path.is_file():
            resumed = sha256 is not None and _size(part) > 0
            _attempt(url, part, attempts, wait, progress, may_resume=sha256 is not None)
            digest = _digest(part)
            if sha256 in (None, digest):
                part.replace(path)
                break
            part.unlink()
            if not resumed:
                raise DataError(
                    f"{url}: sha256 {digest} is not the expected {sha256}: the file there was altered or is another "
                    "one. Nothing was kept."
                )
            _LOG.warning("%s: the rest of the file does not fit what was kept; starting anew.", url)
    lock.unlink(missing_ok=True)  # whoever still waits at it, or makes a new one, finds the file in place
    return path


def _attempt(url: str, part: Path, attempts: int, wait: float, progress: Progress | None, *, may_resume: bool) -> None:
    for attempt in range(attempts):
        try:
            _download(url, part, progress, may_resume=may_resume)
            return
        except _Cut as cut:
            if attempt + 1 == attempts:
                kept = f" The next call goes on from the {_size(part)} bytes in {part}." if may_resume else ""
                raise DataError(f"{url}: {cut}, {attempts} times.{kept}") from cut
            _LOG.warning("%s: %s; trying again.", url, cut)
            time.sleep(wait * 2**attempt)


def _download(url: str, part: Path, progress: Progress | None, *, may_resume: bool) -> None:
    """Bring ``part`` up to the whole file. Without a hash to check, a rest could be of another version: start anew."""
    have = _size(part) if may_resume else 0
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity", "User-Agent": "foreblocks-darts"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
            start, total = _extent(response, have)
            with part.open("r+b" if start else "wb") as file:
                file.seek(start)
                file.truncate()
                _copy(response, file, start, total, progress)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing beyond what is here: either it is whole, or the hash will tell
            return
        if error.code in (408, 429) or error.code >= 500:
            raise _Cut(f"the server answers {error.code} {error.reason}") from error
        raise DataError(f"{url}: the server answers {error.code} {error.reason}.") from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError | ConnectionResetError):
            raise _Cut(f"no answer ({error.reason})") from error
        raise DataError(f"{url}: cannot be reached ({error.reason}); is this machine offline?") from error
    except (ConnectionError, TimeoutError, http.client.HTTPException) as error:
        raise _Cut(f"the connection was cut ({type(error).__name__})") from error


def _extent(response: Any, have: int) -> tuple[int, int | None]:
    """Return the byte at which the answer begins, and the size of the whole file."""
    length = response.headers.get("Content-Length")
    size = int(length) if length and length.isdigit() else None
    if response.status != 206:
        return 0, size
    match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != have:
        raise _Cut("the server sent another range than asked for")
    return have, int(match[2]) if match[2] != "*" else None


def _copy(response: Any, file: Any, start: int, total: int | None, progress: Progress | None) -> None:
    done = start
    while chunk := response.read(_CHUNK):
        file.write(chunk)
        done += len(chunk)
        if progress is not None:
            progress(done, total)
    if total is not None and done < total:
        raise _Cut(f"the connection was cut at {done} of {total} bytes")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0
