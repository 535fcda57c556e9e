"""What every source is: two verbs, and the words they answer with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from modelbake.errors import SourceUnreachableError


@dataclass(frozen=True)
class RemoteFile:
    """What a source says of one file before its bytes are read; None where it does not say.

    `git_oid` is git's object id, SHA-1 over `blob <size>\\0` and the bytes: all that a hub says of its small files.
    """

    size: int | None = None
    sha256: str | None = None
    git_oid: str | None = None


@dataclass(frozen=True)
class Stream:
    """A file's bytes from `start` on: the offset asked for, or 0 where the source cannot begin in the middle."""

    start: int
    chunks: Iterator[bytes]


class Source(Protocol):
    """A place that may hold a bundle's files."""

    @property
    def label(self) -> str:
        """The source in words, for messages."""
        ...

    def inventory(self) -> dict[str, RemoteFile]:
        """Its files by path; TransientError where asking again may help, SourceUnreachableError where not, IntegrityError
        where its listing makes no sense."""
        ...

    def open(self, path: str, offset: int = 0) -> AbstractContextManager[Stream]:
        """The bytes of one file; TransientError where trying again may help, NoSuchRangeError where it ends before `offset`,
        SourceUnreachableError where it cannot be had."""
        ...


class NoSuchRangeError(SourceUnreachableError):
    """The source's file ends before the offset asked for."""
