"""Where images and bundles are: the store, or a repository of a registry. What copies, grafts or signs works on either."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from modelbake.errors import IntegrityError
from modelbake.oci.blob import Blob
from modelbake.oci.model import INDEXES, MANIFESTS, Descriptor, ImageIndex, ImageManifest, decode
from modelbake.output import NO_PROGRESS, Progress

# How many indexes may name each other in a row; an image of several platforms is one.
MOST_DEPTH = 8


class Place(Protocol):
    """Blobs and documents by digest, and names that lead to documents. A document is a manifest or an index."""

    def __str__(self) -> str:
        """What messages call it."""

    def adding(self) -> AbstractContextManager[None]:
        """For as long as something is added that no name leads to yet."""

    def resolve(self, name: str) -> Descriptor:
        """The document that a tag or digest leads to, without annotations; UnknownNameError where there is none."""

    def read(self, descriptor: Descriptor) -> bytes:
        """A document or a config, its digest checked; IntegrityError where it is another, or larger than any may be."""

    def part(self, descriptor: Descriptor, offset: int, count: int) -> bytes:
        """A blob's bytes from `offset` on, at most `count`; nothing of them was checked."""

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the blob or document is there."""

    def blob(self, descriptor: Descriptor) -> Blob | None:
        """The blob, if its bytes are on this machine."""

    def add(self, blob: Blob, progress: Progress = NO_PROGRESS) -> bool:
        """Put a blob or document there, unless it is, and tell whether it was not; within `adding`."""

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let the name lead to a document that is there; within `adding`."""

    def names(self) -> Iterable[str]:
        """All tags, sorted."""


def children(place: Place, descriptor: Descriptor) -> tuple[Descriptor, ...]:
    """What a document names: an index its manifests, a manifest its config and layers; nothing for another blob.

    A `subject` is not followed: it leads the other way.
    """
    where = f"{place}: {descriptor.digest}"
    if descriptor.media_type in INDEXES:
        return decode(place.read(descriptor), ImageIndex, where).manifests
    if descriptor.media_type in MANIFESTS:
        found = decode(place.read(descriptor), ImageManifest, where)
        return (found.config, *found.layers)
    return ()


def reachable(place: Place, root: Descriptor) -> Iterator[Descriptor]:
    """`root` and everything that it needs, each once, what is named before what names it.

    IntegrityError where documents are nested deeper than anybody's are.
    """
    seen: set[str] = set()

    def walk(one: Descriptor, depth: int) -> Iterator[Descriptor]:
        if depth > MOST_DEPTH:
            raise IntegrityError(
                f"{place}: {root.digest} is nested more than {MOST_DEPTH} documents deep; it is not read."
            )
        if one.digest in seen:
            return
        seen.add(one.digest)
        for child in children(place, one):
            yield from walk(child, depth + 1)
        yield one

    return walk(root, 0)
