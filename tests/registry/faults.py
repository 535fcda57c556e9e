"""Faults that a test orders: which requests the proxy answers wrongly, how, and how often. README.md has the table."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, Literal, get_args

UPLOAD_KINDS = ("cut-upload", "hold-upload", "slow-upload")
RANGE_KINDS = ("ignore-range", "wrong-range", "lying-range")
BODY_KINDS = ("slow", "flip", "short", "long", "truncate", "pad", "replace", "endless")
Kind = Literal[
    "status", "expire", "lost", "headers", "cut", "hold",
    "cut-upload", "hold-upload", "slow-upload", "ignore-range", "wrong-range", "lying-range",
    "slow", "flip", "short", "long", "truncate", "pad", "replace", "endless",
]  # fmt: skip
PATIENCE = 60


@dataclass
class Fault:
    """One order of misbehaviour; `hits` counts the requests that met it, `reached` is set when one stands at the place to hold at."""

    kind: Kind
    match: str = "*"
    times: int | None = 1
    skip: int = 0
    method: str | None = None
    after: int = 0
    how: Literal["rst", "fin"] = "rst"
    status: int = 503
    headers: Mapping[str, str | None] = field(default_factory=dict)
    rate: int = 1 << 20
    offset: int = 0
    count: int = 1
    start: int = 0
    body: bytes = b"<html><body>Please log in to this network.</body></html>"
    announced: bool = True
    hits: int = 0
    reached: threading.Event = field(default_factory=threading.Event)
    released: threading.Event = field(default_factory=threading.Event)

    def hold(self) -> None:
        """Stand here until the test says `release`."""
        self.reached.set()
        self.released.wait(PATIENCE)

    def wait(self) -> None:
        """For the test: until a request stands there; AssertionError where none comes."""
        assert self.reached.wait(PATIENCE), f"no request met {self}"

    def release(self) -> None:
        """For the test: what stands there, and whatever comes there later, goes on."""
        self.released.set()


@dataclass(frozen=True)
class Asked:
    """What a fault is matched against before the registry is asked: `size` of the request's body, None where nobody said."""

    method: str
    path: str
    has_range: bool
    authorized: bool
    size: int | None


@dataclass(frozen=True)
class Answered:
    """What a fault is matched against when the registry has answered well: `size` of the answer's body, None where nobody said."""

    method: str
    path: str
    size: int | None


class Faults:
    """The proxy's orders. A request meets at most one: the first that fits, in order of adding, with times left."""

    def __init__(self) -> None:
        self._orders: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, match: str = "*", *, kind: Kind, **fields: Any) -> Fault:
        """Order a fault and return it; `fields` are those of Fault. ValueError for an unknown kind, TypeError for an unknown field."""
        if kind not in get_args(Kind):
            raise ValueError(f"unknown kind of fault {kind!r}; there are {', '.join(get_args(Kind))}")
        fault = Fault(kind, match, **fields)
        with self._lock:
            self._orders.append(fault)
        return fault

    def clear(self) -> None:
        """No more faults; what is held goes on."""
        with self._lock:
            for fault in self._orders:
                fault.release()
            self._orders.clear()

    def take(self, request: Asked | Answered) -> Fault | None:
        """The fault that the request meets at this stage."""
        with self._lock:
            for fault in self._orders:
                if (fault.times is not None and fault.hits >= fault.times) or not _fits(fault, request):
                    continue
                if fault.skip > 0:
                    fault.skip -= 1
                    continue
                fault.hits += 1
                return fault
        return None


def _fits(fault: Fault, request: Asked | Answered) -> bool:
    if fault.method not in (None, request.method) or not fnmatchcase(request.path, fault.match):
        return False
    if isinstance(request, Asked):
        if fault.kind in UPLOAD_KINDS:
            return request.size is None or request.size > fault.after
        if fault.kind in RANGE_KINDS:
            return request.has_range and request.method == "GET"
        return fault.kind == "status" or (fault.kind == "expire" and request.authorized)
    if fault.kind in BODY_KINDS or fault.kind in ("cut", "hold"):
        return request.method == "GET" and (request.size is None or request.size >= fault.after)
    return fault.kind in ("headers", "lost")
