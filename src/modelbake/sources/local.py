"""A folder of this project."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from modelbake.bundle import LocalSource, safe_relative_path
from modelbake.errors import RefusedError, SourceUnreachableError
from modelbake.files import CHUNK
from modelbake.sources.base import RemoteFile, Stream


class Local:
    """The folder `spec.folder` below the project's root."""

    def __init__(self, spec: LocalSource, root: Path) -> None:
        self._folder = root / safe_relative_path(spec.folder, "The local source")

    @property
    def label(self) -> str:
        return f"folder {self._folder}"

    def inventory(self) -> dict[str, RemoteFile]:
        if not self._folder.is_dir():
            raise SourceUnreachableError(f"{self._folder} is not a folder.")
        files = (path for path in self._folder.rglob("*") if path.is_file())
        return {path.relative_to(self._folder).as_posix(): RemoteFile(size=path.stat().st_size) for path in files}

    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Stream]:
        found = (self._folder / safe_relative_path(path, "The bundle")).resolve()
        if not found.is_relative_to(self._folder.resolve()):
            raise RefusedError(f"{self._folder / path} is a link that leaves its folder; put the file itself there.")
        return open_file(found, offset)


@contextmanager
def open_file(path: Path, offset: int) -> Iterator[Stream]:
    """A file of this machine as a stream from `offset` on."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise SourceUnreachableError(f"{path}: {error.strerror}.") from error
    with file:
        file.seek(offset)
        yield Stream(offset, iter(lambda: file.read(CHUNK), b""))
