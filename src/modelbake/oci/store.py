"""The store: a local OCI image layout, safe under concurrent use and kill -9.

Format: OCI image-spec 1.1, image-layout.md. A blob appears under its digest by one rename when all its bytes were hashed; index.json
is replaced by one rename under a lock. Whoever adds holds a shared lock, and `gc` the exclusive one, so that it cannot take away what
is being added and not tagged yet.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from modelbake.errors import IntegrityError, MachineError, UnknownNameError, UsageError
from modelbake.files import disk_errors, write_atomically
from modelbake.oci.blob import Blob, of_file
from modelbake.oci.model import (
    DIGEST,
    IMAGE_INDEX,
    MOST_LAYERS,
    MOST_MANIFEST_BYTES,
    REF_NAME,
    Descriptor,
    ImageIndex,
    decode,
    encode,
)
from modelbake.oci.place import children, reachable
from modelbake.oci.sink import FileSink
from modelbake.output import NO_PROGRESS, Progress, out

_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
_INDEX = "index.json"


@dataclass(frozen=True)
class Swept:
    """What `gc` took away."""

    blobs: int
    size: int


class Store:
    """An OCI image layout in `folder`, which is made when something is put into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._blobs = folder / "blobs" / "sha256"
        # Beside the blobs, so that a rename puts what is whole into place; other tools leave it alone.
        self._ingest = folder / "ingest"

    def __str__(self) -> str:
        return str(self.folder)

    @contextmanager
    def adding(self) -> Iterator[None]:
        """For as long as blobs are added that no tag leads to yet: `gc` waits until it ends."""
        self._make()
        with self._lock("gc", fcntl.LOCK_SH):
            yield

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the store holds the blob; its bytes were hashed when they came."""
        try:
            return self.path(descriptor).stat().st_size == descriptor.size
        except OSError:
            return False

    def path(self, descriptor: Descriptor) -> Path:
        """Where the blob is, or will be."""
        return self._blobs / descriptor.hex

    def partial(self, descriptor: Descriptor) -> Path:
        """Where bytes of the blob gather until all are there; what a download that was cut left is found there again."""
        return self._ingest / descriptor.hex

    def part(self, descriptor: Descriptor, offset: int, count: int) -> bytes:
        """The blob's bytes from `offset` on, at most `count`; UnknownNameError where the store has nothing of it."""
        try:
            with self.path(descriptor).open("rb") as file:
                file.seek(offset)
                return file.read(count)
        except FileNotFoundError as error:
            raise self._lacks(descriptor) from error

    def blob(self, descriptor: Descriptor) -> Blob:
        """The blob, to be read; UnknownNameError where the store has none of that digest and size."""
        if not self.has(descriptor):
            raise self._lacks(descriptor)
        return of_file(self.path(descriptor), descriptor)

    def _lacks(self, descriptor: Descriptor) -> UnknownNameError:
        return UnknownNameError(
            f"{self.folder} has no blob {descriptor.digest} of {descriptor.size:,} bytes; pull or pack again what has it."
        )

    def read(self, descriptor: Descriptor) -> bytes:
        """A small blob, such as a manifest, hashed; IntegrityError where it is damaged or no small one."""
        if descriptor.size > MOST_MANIFEST_BYTES:
            raise IntegrityError(f"{descriptor.digest} has {descriptor.size:,} bytes, more than a manifest may have.")
        data = b"".join(self.blob(descriptor).chunks())
        if hashlib.sha256(data).hexdigest() != descriptor.hex:
            raise IntegrityError(
                f"{self.path(descriptor)} is damaged; take it away, then pull or pack again what has it."
            )
        return data

    def add(self, blob: Blob, progress: Progress = NO_PROGRESS) -> bool:
        """Put the blob in, unless it is there, and tell whether it was not; within `adding`.

        IntegrityError where its bytes are not those of its digest.
        """
        if self.has(blob.descriptor):
            progress.update(blob.descriptor.size)
            return False
        with self.partially(blob.descriptor) as partial:
            if self.has(blob.descriptor):
                progress.update(blob.descriptor.size)
                return False
            try:
                with FileSink(partial, blob.descriptor) as sink:
                    sink.restart()
                    for chunk in blob.chunks():
                        sink.write(chunk)
                        progress.update(len(chunk))
                    wrong = sink.wrong()
                    if wrong:
                        raise IntegrityError(
                            f"What came is not the {blob.descriptor.size:,} bytes of {blob.descriptor.digest}: {wrong}. Nothing of it was "
                            "kept; run this again when nothing writes to the file."
                        )
                    sink.finish()
                self.keep(blob.descriptor)
            except BaseException:
                # On a full disk it would take the room that is missing.
                partial.unlink(missing_ok=True)
                raise
            return True

    @contextmanager
    def partially(self, descriptor: Descriptor) -> Iterator[Path]:
        """The file to gather the blob's bytes in, for one writer at a time; others wait. Within `adding`.

        Whoever has it asks `has` again, since the one before may have finished it.
        """
        self._make()
        with disk_errors(self.folder), self._lock(f"blob-{descriptor.hex[:2]}", fcntl.LOCK_EX):
            yield self.partial(descriptor)

    def keep(self, descriptor: Descriptor) -> None:
        """Make the gathered bytes, which were hashed and are on the disk (FileSink.finish), the blob."""
        os.replace(self.partial(descriptor), self.path(descriptor))

    def names(self) -> list[str]:
        """All names, sorted; none where there is no store yet."""
        return sorted({name for one in self._index().manifests if (name := (one.annotations or {}).get(REF_NAME))})

    def resolve(self, name: str) -> Descriptor:
        """The document that a name, or its digest, leads to; UnknownNameError where there is none."""
        # A digest is no name, whatever another tool's index says: who pins one must get that one.
        pinned = re.match(DIGEST, name) is not None
        for one in self._index().manifests:
            if name == (one.digest if pinned else (one.annotations or {}).get(REF_NAME)):
                return one.bare()
        known = ", ".join(self.names()) or "nothing"
        raise UnknownNameError(f"The store {self.folder} has no {name!r}; it has: {known}.")

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let `name` lead to the document and all that it needs; within `adding`.

        UnknownNameError where one lacks, UsageError where the name is a digest.
        """
        if re.match(DIGEST, name):
            raise UsageError(f"{name} is a digest, which leads to its own document alone; give it a name.")
        for one in reachable(self, descriptor):
            self.blob(one)
        self._make()
        named = Descriptor(
            descriptor.media_type,
            descriptor.digest,
            descriptor.size,
            artifact_type=descriptor.artifact_type,
            annotations={REF_NAME: name},
        )
        with self._lock("index", fcntl.LOCK_EX):
            others = [one for one in self._index().manifests if (one.annotations or {}).get(REF_NAME) != name]
            self._write_index([*others, named])

    @contextmanager
    def updating(self, name: str) -> Iterator[None]:
        """For as long as the document under the name is read, changed and written; one writer at a time, others wait."""
        self._make()
        with self._lock("update", fcntl.LOCK_EX):
            yield

    def remove(self, names: Iterable[str]) -> None:
        """Let the names lead nowhere; UnknownNameError, and nothing is changed, where one does not exist."""
        names = list(names)
        for name in names:
            self.resolve(name)
        with self._lock("index", fcntl.LOCK_EX):
            kept = [
                one
                for one in self._index().manifests
                if (one.annotations or {}).get(REF_NAME) not in names and one.digest not in names
            ]
            self._write_index(kept)

    def gc(self) -> Swept:
        """Take away every blob that no tag leads to, and what died downloads left; waits until nobody adds anything."""
        if not self.folder.exists():
            return Swept(0, 0)
        waiting = f"{self.folder} is being added to; waiting until that is done."
        with disk_errors(self.folder), self._lock("gc", fcntl.LOCK_EX, waiting):
            wanted = {one.hex for root in self._index().manifests for one in reachable(self, root)}
            gone = [path for path in _files(self._blobs) if path.name not in wanted]
            gone += _files(self._ingest)
            with self._lock("index", fcntl.LOCK_EX):
                gone += [path for path in _files(self.folder) if path.name.startswith(f".{_INDEX}-")]
                size = sum(path.stat().st_size for path in gone)
                for path in gone:
                    path.unlink()
            return Swept(len(gone), size)

    def verify(self) -> list[Descriptor]:
        """Hash every blob that a tag leads to, and return them; IntegrityError which names all that are missing or damaged.

        `gc` waits until it ends: what is untagged meanwhile is not missing.
        """
        # Where nothing can be written there is nobody to wait for.
        writable = os.access(self.folder, os.W_OK)
        with self._lock("gc", fcntl.LOCK_SH) if writable else nullcontext():
            return self._verified()

    def _verified(self) -> list[Descriptor]:
        found: dict[tuple[str, int], Descriptor] = {}
        bad: list[str] = []
        waiting = list(self._index().manifests)
        while waiting:
            one = waiting.pop()
            if (one.digest, one.size) in found:
                continue
            found[one.digest, one.size] = one
            if self._is_whole(one):
                waiting += children(self, one)
            else:
                bad.append(one.digest)
        if bad:
            raise IntegrityError(
                f"Damaged or missing in {self.folder}: {', '.join(sorted(bad))}. "
                "Take away what is left of these in blobs/sha256, then pull or pack again what has them."
            )
        return list(found.values())

    def _is_whole(self, descriptor: Descriptor) -> bool:
        if not self.has(descriptor):
            return False
        digest = hashlib.sha256()
        for chunk in self.blob(descriptor).chunks():
            digest.update(chunk)
        return digest.hexdigest() == descriptor.hex

    def _index(self) -> ImageIndex:
        path = self.folder / _INDEX
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return ImageIndex(2, ())
        except OSError as error:
            raise MachineError(
                f"{path} cannot be read ({error.strerror}); give yourself the right to read it."
            ) from error
        return decode(data, ImageIndex, str(path))

    def _write_index(self, manifests: Iterable[Descriptor]) -> None:
        ordered = tuple(sorted(manifests, key=lambda one: ((one.annotations or {}).get(REF_NAME, ""), one.digest)))
        data = encode(ImageIndex(2, ordered, IMAGE_INDEX))
        # What could not be read again must not be written.
        if len(ordered) > MOST_LAYERS or len(data) > MOST_MANIFEST_BYTES:
            raise MachineError(
                f"{self.folder} has as many names as a store can have; remove some with `modelbake store rm`."
            )
        write_atomically(self.folder / _INDEX, data)

    def _make(self) -> None:
        with disk_errors(self.folder):
            # Also in a layout that another tool made, which has none for what is not whole yet.
            for folder in (self._blobs, self._ingest):
                folder.mkdir(parents=True, exist_ok=True)
            if (self.folder / "oci-layout").exists():
                return
            with self._lock("index", fcntl.LOCK_EX):
                if not (self.folder / _INDEX).exists():
                    self._write_index(())
            write_atomically(self.folder / "oci-layout", _LAYOUT)

    @contextmanager
    def _lock(self, name: str, how: int, waiting: str = "") -> Iterator[None]:
        """A lock that the kernel frees when its holder dies. Threads each open it anew, so it holds among them as well.

        `waiting` is said where it must be waited for.
        """
        with disk_errors(self.folder):
            locks = self.folder / "locks"
            locks.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(locks / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            try:
                fcntl.flock(descriptor, how | fcntl.LOCK_NB)
            except BlockingIOError:
                if waiting:
                    out.info(waiting)
                fcntl.flock(descriptor, how)
            yield
        finally:
            os.close(descriptor)


def _files(folder: Path) -> list[Path]:
    """The plain files of a folder that need not exist."""
    try:
        return [path for path in folder.iterdir() if path.is_file()]
    except FileNotFoundError:
        return []
