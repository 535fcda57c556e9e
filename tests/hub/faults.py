"""Faults that a test orders: which requests the hub answers wrongly, how, and how often."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import format_datetime
from fnmatch import fnmatchcase
from typing import Literal, get_args

Kind = Literal[
    "status", "cut", "hang", "slow", "flip", "short", "long", "truncate", "pad", "replace", "etag", "headers",
    "ignore-range", "wrong-range", "lying-range",
]  # fmt: skip
_NEEDS_BODY = {"slow", "flip", "short", "long", "truncate", "pad", "replace"}
_NEEDS_RANGE = {"ignore-range", "wrong-range", "lying-range"}


@dataclass
class Fault:
    """One order of misbehaviour; README.md has the table of kinds and of the fields that each one reads."""

    kind: Kind
    match: str = "*"
    times: int | None = 1
    skip: int = 0
    method: str | None = None
    endpoint: str | None = None
    status: int = 503
    retry_after: int | str | datetime | None = None
    headers: Mapping[str, str | None] = field(default_factory=dict)
    after: int | None = None
    how: Literal["rst", "fin"] = "rst"
    rate: int | None = None
    offset: int = 0
    count: int = 1
    start: int = 0
    body: bytes = b"<html><body>Please log in to this network.</body></html>"
    etag: str = "0" * 40
    hits: int = 0

    def answer_headers(self) -> dict[str, str | None]:
        """Headers that this fault sets on the answer; None takes a header away."""
        changed = dict(self.headers)
        if self.retry_after is not None:
            after = self.retry_after
            moment = format_datetime(after.astimezone(UTC), usegmt=True) if isinstance(after, datetime) else str(after)
            changed["Retry-After"] = moment
        return changed

    def fits(self, asked: "Asked") -> bool:
        """Whether this fault could show on the request. A fault that could not is kept for a later request."""
        if self.method not in (None, asked.method) or self.endpoint not in (None, asked.endpoint):
            return False
        if not self._names(asked):
            return False
        if self.kind == "etag":
            return asked.has_etag
        if self.kind in _NEEDS_RANGE:
            return asked.has_body and asked.ranged
        if self.kind == "flip":
            return asked.has_body and asked.start <= self.offset < asked.stop
        if self.kind in _NEEDS_BODY or (self.kind in ("cut", "hang") and self.after is not None):
            return asked.has_body
        return True

    def _names(self, asked: "Asked") -> bool:
        if self.match.startswith("/"):
            return fnmatchcase(asked.path, self.match)
        if asked.file is None:
            return self.match == "*"
        return fnmatchcase(asked.file, self.match) or fnmatchcase(asked.file.rpartition("/")[2], self.match)


@dataclass(frozen=True)
class Asked:
    """What a fault is matched against: the request, and what the hub was about to answer."""

    method: str
    endpoint: str
    path: str
    file: str | None
    has_etag: bool
    has_body: bool
    ranged: bool
    start: int
    stop: int


class Faults:
    """The hub's orders. A request meets at most one: the first that fits, in order of adding, with times left."""

    def __init__(self) -> None:
        self._orders: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, match: str = "*", *, kind: Kind, **fields: object) -> Fault:
        """Order a fault and return it (`.hits` counts the requests that met it); `fields` are those of Fault.

        Raises ValueError for an unknown kind, TypeError for an unknown field.
        """
        if kind not in get_args(Kind):
            raise ValueError(f"unknown kind of fault {kind!r}; there are {', '.join(get_args(Kind))}")
        fault = Fault(kind, match, **fields)  # type: ignore[arg-type]
        with self._lock:
            self._orders.append(fault)
        return fault

    def clear(self) -> None:
        with self._lock:
            self._orders.clear()

    def take(self, asked: Asked) -> Fault | None:
        with self._lock:
            for fault in self._orders:
                if (fault.times is not None and fault.hits >= fault.times) or not fault.fits(asked):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.hits += 1
                return fault
        return None
