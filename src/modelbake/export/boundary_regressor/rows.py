"""Walking the rows of a large JSON document without holding it: the document's head, and each row's bytes in turn."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

CHUNK = 1 << 20
# A row has 1536 numbers, which even one to a line at full precision are far less; all that is not rows is bounded too.
LONGEST_ROW = 1 << 20
LONGEST_HEAD = 1 << 20

_SPACE = re.compile(rb"[ \t\r\n]*+")
_MARK = re.compile(rb'["{}\[\]]')
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_SCALAR = re.compile(rb'[^\s,\[\]{}"]*+')
_KEY = b'"rows"'


class NotRowsError(ValueError):
    """The document is cut off or no such JSON; `row` is the index of the row at fault, None outside of the rows."""

    def __init__(self, problem: str, row: int | None = None) -> None:
        super().__init__(problem)
        self.row = row


class Rows:
    """One pass over `stream`, a JSON object with an array `rows`: iterate for the bytes of each row, which are not checked.

    `before` is the object up to the array, closed so that it is JSON again; `document`, complete after the iteration, is
    the whole of it with the array empty. Where there is no such array, `before` is empty, no row comes, and `document` is
    all there is. NotRowsError where the rows are cut off or too long.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._buffer = b""
        self._at = 0
        self._ended = False
        self.document = b""
        self._found = self._find()
        self._head = self._buffer[: self._at] if self._found else b""
        self.before = self._head + b"]}" if self._found else b""

    def __iter__(self) -> Iterator[bytes]:
        if not self._found:
            if not self._ended:
                raise NotRowsError(f"no array rows begins within its first {LONGEST_HEAD} bytes")
            self.document = self._buffer
            return
        index = 0
        following = self._next_byte(0)
        if following != b"]":
            while True:
                end = self._value_end(index)
                yield self._buffer[self._at : end]
                self._at = end
                following = self._next_byte(index)
                if following == b"]":
                    break
                if following != b",":
                    raise NotRowsError(f"expected ',' or ']' after it, got {_shown(following)}", index)
                self._at += 1
                index += 1
                self._next_byte(index)
        self.document = self._head + self._rest()

    def _find(self) -> bool:
        """Go to the first byte within the array; whether there is one."""
        while True:
            at = _start_of_rows(self._buffer)
            if at is not None:
                self._at = at
                return True
            if self._ended or len(self._buffer) > LONGEST_HEAD:
                return False
            self._fill()

    def _fill(self) -> None:
        """Read on, dropping what was passed once the rows have begun."""
        more = self._stream.read(CHUNK)
        self._ended = not more
        self._buffer = self._buffer[self._at :] + more
        self._at = 0

    def _rest(self) -> bytes:
        while not self._ended:
            if len(self._buffer) - self._at > LONGEST_HEAD:
                raise NotRowsError(f"expected at most {LONGEST_HEAD} bytes after the rows")
            self._fill()
        return self._buffer[self._at :]

    def _next_byte(self, index: int) -> bytes:
        """Skip white space; the byte that follows."""
        while True:
            space = _SPACE.match(self._buffer, self._at)
            assert space is not None
            self._at = space.end()
            if self._at < len(self._buffer):
                return self._buffer[self._at : self._at + 1]
            if self._ended:
                raise NotRowsError("the file ends before the array does", index)
            self._fill()

    def _value_end(self, index: int) -> int:
        while True:
            end = _end_of_value(self._buffer, self._at)
            if end is not None and (end < len(self._buffer) or self._ended):
                return end
            if self._ended:
                raise NotRowsError("the file ends in the middle of it", index)
            if len(self._buffer) - self._at > LONGEST_ROW:
                raise NotRowsError(f"expected a row of at most {LONGEST_ROW} bytes", index)
            self._fill()


def _start_of_rows(buffer: bytes) -> int | None:
    """Where the array of the outermost object's key `rows` begins to hold rows; None where `buffer` shows none."""
    at = _skip(buffer, 0)
    separator = b"{"
    while buffer[at : at + 1] == separator:
        key = _STRING.match(buffer, _skip(buffer, at + 1))
        if key is None:
            return None
        at = _skip(buffer, key.end())
        if buffer[at : at + 1] != b":":
            return None
        at = _skip(buffer, at + 1)
        if key[0] == _KEY and buffer[at : at + 1] == b"[":
            return at + 1
        end = _end_of_value(buffer, at)
        if end is None:
            return None
        at = _skip(buffer, end)
        separator = b","
    return None


def _end_of_value(buffer: bytes, at: int) -> int | None:
    """The end of the JSON value that begins at `at`; None where the buffer ends first."""
    depth = 0
    if buffer[at : at + 1] not in (b"{", b"[", b'"'):
        scalar = _SCALAR.match(buffer, at)
        assert scalar is not None
        return scalar.end() if scalar.end() < len(buffer) else None
    while True:
        mark = _MARK.search(buffer, at)
        if mark is None:
            return None
        if mark[0] == b'"':
            string = _STRING.match(buffer, mark.start())
            if string is None:
                return None
            at = string.end()
        else:
            depth += 1 if mark[0] in b"{[" else -1
            at = mark.end()
        if depth <= 0:
            return at


def _skip(buffer: bytes, at: int) -> int:
    space = _SPACE.match(buffer, at)
    assert space is not None
    return space.end()


def _shown(byte: bytes) -> str:
    return repr(byte.decode("latin-1"))
