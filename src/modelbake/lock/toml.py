"""Changing values of a TOML text in place: everything else, comments, order, white space, stays as it is, byte for byte.

Read by TOML 1.0's grammar (toml.io) as far as it takes to find where each value stands; the values themselves are tomllib's.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, field

# A key's path from the root: names, and numbers inside arrays.
Path = tuple[str | int, ...]

_TOKEN = re.compile(
    r'''
    (?P<space>[ \t]+) | (?P<newline>\r?\n) | (?P<comment>\#[^\n]*)
    | (?P<string>"""(?:\\.|(?!""").)*"{3,5} | \'\'\'(?:(?!\'\'\').)*\'{3,5} | "(?:\\.|[^"\\\n])*" | '[^'\n]*')
    | (?P<mark>[\[\]{},=.])
    | (?P<bare>[^\s\#"'\[\]{},=.]+)
    ''',
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True)
class _Table:
    """Where a new key goes: at `end`, behind `lead`."""

    lead: str
    end: int


@dataclass
class Editor:
    """A text that tomllib can read, with changes to come; `result()` makes them."""

    text: str
    _spans: dict[Path, tuple[int, int]] = field(init=False, repr=False)
    _tables: dict[Path, _Table] = field(init=False, repr=False)
    _changes: list[tuple[int, int, str]] = field(default_factory=list, init=False, repr=False)

    def __post_init__(self) -> None:
        reader = _Reader(self.text)
        reader.document()
        self._spans, self._tables = reader.spans, reader.tables

    def set(self, path: Path, value: str | int | bool) -> None:
        """Give the key at `path` a value: in place of the one it has, else as a new key at the end of its table's own keys."""
        written = json.dumps(value, ensure_ascii=False)
        if path in self._spans:
            start, end = self._spans[path]
            if tomllib.loads(f"x = {self.text[start:end]}")["x"] != value:
                self._changes.append((start, end, written))
            return
        table = self._tables[path[:-1]]
        self._changes.append((table.end, table.end, f"{table.lead}{path[-1]} = {written}"))

    def result(self) -> str:
        """The text with all changes made; several new keys of one table stand in the order in which they were set."""
        text = self.text
        for _, (start, end, new) in sorted(enumerate(self._changes), key=lambda one: (one[1][0], one[0]), reverse=True):
            text = f"{text[:start]}{new}{text[end:]}"
        return text


class _Reader:
    """One pass over the tokens, which notes where values and tables stand."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.spans: dict[Path, tuple[int, int]] = {}
        self.tables: dict[Path, _Table] = {}
        self._newline = "\r\n" if "\r\n" in text else "\n"
        self._tokens = [(match.lastgroup or "", match.start(), match.end()) for match in _TOKEN.finditer(text)]
        self._at = 0
        self._counts: dict[Path, int] = {}

    def document(self) -> None:
        table: Path = ()
        while self._next() is not None:
            if self._sees("["):
                table = self._header()
            elif self._kind() in ("bare", "string"):
                self._pair(table, inline=False)
            else:
                self._at += 1

    def _header(self) -> Path:
        """`[a.b]` or `[[a.b]]`: the path of the table that it begins; a name that is an array's means its latest table."""
        self._at += 1
        array = self._sees("[")
        self._at += array
        names = self._key("]")
        self._at += 1 + array
        end = self._tokens[self._at - 1][2]
        path: Path = ()
        for name in names[:-1]:
            path = self._latest((*path, name))
        path = (*path, names[-1])
        if array:
            self._counts[path] = self._counts.get(path, -1) + 1
        path = self._latest(path)
        self.tables[path] = _Table(self._newline, self._line_end(end))
        return path

    def _latest(self, path: Path) -> Path:
        return (*path, self._counts[path]) if path in self._counts else path

    def _pair(self, table: Path, *, inline: bool) -> None:
        begin = self._tokens[self._at][1]
        path = (*table, *self._key("="))
        self._at += 1
        end = self._value(path)
        if inline:
            self.tables[table] = _Table(", ", end)
        else:
            # Under the indentation of the key before it.
            line = self.text.rfind("\n", 0, begin) + 1
            self.tables[table] = _Table(f"{self._newline}{self.text[line:begin]}", self._line_end(end))

    def _key(self, until: str) -> tuple[str, ...]:
        """The names of a dotted key, up to the mark behind it, where the reading stops."""
        names = []
        while self._next() is not None and not self._sees(until):
            kind, start, end = self._tokens[self._at]
            if kind in ("bare", "string"):
                names.append(next(iter(tomllib.loads(f"{self.text[start:end]} = 0"))))
            self._at += 1
        return tuple(names)

    def _value(self, path: Path) -> int:
        """Notes the value that comes next and all inside it; returns its end."""
        self._next(lines=True)
        start = self._tokens[self._at][1]
        if self._sees("["):
            self._array(path)
        elif self._sees("{"):
            self._inline(path)
        else:
            # A date may have a space in it, a number a dot: up to what ends any value.
            while self._at < len(self._tokens) and not (
                self._kind() in ("newline", "comment") or self._sees(",") or self._sees("]") or self._sees("}")
            ):
                self._at += 1
        end = self._tokens[self._at - 1][2]
        while self.text[end - 1] in " \t":
            end -= 1
        self.spans[path] = (start, end)
        return end

    def _array(self, path: Path) -> None:
        self._at += 1
        index = 0
        while self._next(lines=True) is not None and not self._sees("]"):
            if self._sees(","):
                self._at += 1
                continue
            self._value((*path, index))
            index += 1
        self._at += 1

    def _inline(self, path: Path) -> None:
        self.tables[path] = _Table("", self._tokens[self._at][2])
        self._at += 1
        while self._next(lines=True) is not None and not self._sees("}"):
            if self._sees(","):
                self._at += 1
                continue
            self._pair(path, inline=True)
        self._at += 1

    def _line_end(self, end: int) -> int:
        """The end of what stands on the line of a value that ends at `end`: a comment stays with its value."""
        rest = re.compile(r"[ \t]*(#[^\r\n]*)?").match(self.text, end)
        return rest.end() if rest and rest[1] else end

    def _next(self, *, lines: bool = False) -> str | None:
        """Passes white space and, where the grammar takes them, comments and ends of lines; the kind of what follows."""
        blank = ("space", "newline", "comment") if lines else ("space",)
        while self._at < len(self._tokens) and self._tokens[self._at][0] in blank:
            self._at += 1
        return self._kind() if self._at < len(self._tokens) else None

    def _kind(self) -> str:
        return self._tokens[self._at][0]

    def _sees(self, mark: str) -> bool:
        if self._at >= len(self._tokens):
            return False
        kind, start, end = self._tokens[self._at]
        return kind == "mark" and self.text[start:end] == mark
