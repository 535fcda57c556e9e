"""Digests of files and folders, and putting a file into place whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from typing import IO, cast

from modelbake.errors import IntegrityError, MachineError
from modelbake.manifest import BundleEntry, FileRef, bundle_digest

CHUNK = 1 << 20
# Of a large file, this much is on its way to the disk at a time while more comes.
_BATCH = 8 << 20

_FULL = (errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE = (errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EIO)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def file_ref(root: Path, path: str) -> FileRef:
    """The reference to the file `path` below `root`."""
    return FileRef(path, sha256_of(root / path), (root / path).stat().st_size)


def file_refs(root: Path) -> tuple[FileRef, ...]:
    """References to all files below `root`, sorted by path."""
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())
    return tuple(file_ref(root, path) for path in paths)


def files_below(files: Iterable[FileRef], folder: str) -> tuple[FileRef, ...]:
    """Those of the files that are in `folder`, by their paths in it, sorted."""
    below = [ref for ref in files if PurePosixPath(folder) in PurePosixPath(ref.path).parents]
    inside = (FileRef(str(PurePosixPath(ref.path).relative_to(folder)), ref.sha256, ref.size) for ref in below)
    return tuple(sorted(inside, key=lambda ref: ref.path))


def folder_digest(files: Iterable[FileRef], folder: str) -> str:
    """The digest of a folder of a bundle, whatever the folder is called: manifest.bundle_digest of its files by their paths in it."""
    return bundle_digest(files_below(files, folder))


def check_files(models_dir: Path, entry: BundleEntry) -> None:
    """Hash every file of the bundle; IntegrityError where one is missing or is not that in the manifest."""
    for ref in entry.files:
        path = models_dir / ref.path
        if not path.is_file():
            raise IntegrityError(f"{path} is missing although the manifest lists it; build or copy {entry.name} again.")
        if path.stat().st_size != ref.size or sha256_of(path) != ref.sha256:
            raise IntegrityError(
                f"{path} is not the file that the manifest lists (sha256 {ref.sha256}); build or copy {entry.name} again."
            )


def link_or_copy(source: Path, target: Path) -> None:
    """`target`, which must not exist, with the bytes of `source`: a hard link where the file system can, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def write_atomically(target: Path, data: bytes) -> None:
    """`target` with these bytes, by one rename; MachineError where the disk does not take them."""
    with writing_atomically(target) as file:
        file.write(data)


@contextmanager
def writing_atomically(target: Path) -> Iterator[IO[bytes]]:
    """A file to write, which becomes `target` by one rename at the end, and is gone after an error; MachineError as above."""
    with disk_errors(target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")
        try:
            with os.fdopen(descriptor, "wb") as file:
                yield file
                # A rename may reach the disk before the bytes do.
                file.flush()
                os.fsync(file.fileno())
            os.chmod(temporary, 0o644)
            os.replace(temporary, target)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


class WriteBehind:
    """Lets the kernel write a growing file to the disk while more of it comes, so that fsync at the end finds little left to do.

    By sync_file_range(2) with SYNC_FILE_RANGE_WRITE, which starts the writing and waits for nothing; elsewhere than on Linux
    fsync does it all.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._begun = 0

    def grown(self, size: int) -> None:
        """The file has that many bytes now, fewer where it was cut."""
        if size < self._begun:
            self._begun = size
        if size - self._begun >= _BATCH:
            start = _sync_file_range()
            if start is not None:
                # An error shows at fsync, which is what counts.
                start(self._descriptor, self._begun, size - self._begun, _SYNC_FILE_RANGE_WRITE)
            self._begun = size


_SYNC_FILE_RANGE_WRITE = 2


@cache
def _sync_file_range() -> Callable[[int, int, int, int], int] | None:
    import ctypes

    try:
        found = ctypes.CDLL(None).sync_file_range
    except (OSError, AttributeError):
        return None
    found.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
    return cast(Callable[[int, int, int, int], int], found)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns a full or unwritable disk under `folder` into a MachineError."""
    try:
        yield
    except MachineError:
        raise
    except Exception as error:
        number = _errno(error)
        if number in _FULL:
            raise MachineError(f"The disk that holds {folder} is full. Make room, then run this again.") from error
        where = getattr(error, "filename", None) or folder
        if number == errno.EFBIG:
            raise MachineError(
                f"{where} would be larger than this file system or this user's limit allows. Choose another folder or raise the limit."
            ) from error
        if number in _UNWRITABLE:
            raise MachineError(
                f"{where} cannot be written ({os.strerror(number or 0)}). Choose another folder."
            ) from error
        raise


def _errno(error: Exception) -> int | None:
    """The system's error number behind `error`; writers in Rust (safetensors, tokenizers) give it in their words alone."""
    if isinstance(error, OSError):
        return error.errno
    found = re.search(r"\(os error ([0-9]{1,4})\)", str(error))
    return int(found[1]) if found else None
