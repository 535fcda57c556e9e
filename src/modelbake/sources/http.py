"""Reading over HTTP: ranges, redirects that do not carry the token along, and failures turned into our errors."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any
from weakref import WeakSet

import httpx2

from modelbake import __version__
from modelbake.errors import SourceUnreachableError
from modelbake.patience import TransientError, retry_after
from modelbake.sources.base import NoSuchRangeError, Stream

_connections: WeakSet[Any] = WeakSet()


class NoRangesError(SourceUnreachableError):
    """The server gives whole files only."""


class DeniedError(SourceUnreachableError):
    """The server wants credentials, or others than it was given."""


@cache
def client() -> httpx2.Client:
    """The one client: keep-alive, proxies and CA bundle as the environment says, no Authorization across origins."""
    return httpx2.Client(
        follow_redirects=True,
        timeout=httpx2.Timeout(30.0, connect=10.0),
        headers={"user-agent": f"modelbake/{__version__}", "accept-encoding": "identity"},
    )


@contextmanager
def open_url(url: str, offset: int = 0, headers: Mapping[str, str] | None = None) -> Iterator[Stream]:
    """GET `url` from byte `offset` on; the stream's start is 0 where the server has no ranges."""
    wanted = dict(headers or {})
    if offset:
        wanted["range"] = f"bytes={offset}-"
    noted = {"trace": _note_connection}
    with request_errors(_bare(url)), client().stream("GET", url, headers=wanted, extensions=noted) as response:
        raise_for_status(response, _bare(url))
        # As it arrives: a chunk that waits to be filled would be lost with the connection.
        yield Stream(_start(response, offset, url), response.iter_raw())


def hang_up() -> None:
    """End every open_url that is under way: a thread that waits for a silent server would else wait for its time limit."""
    for connection in list(_connections):
        with suppress(OSError):
            connection.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


def _note_connection(event: str, info: Mapping[str, Any]) -> None:
    """Keeps the network stream of each new connection, from httpcore's trace of what it does."""
    if event in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
        _connections.add(info["return_value"])


def read_range(url: str, first: int, last: int) -> tuple[bytes, int]:
    """Bytes `first` to `last` (included) of `url`, and the whole file's size; NoRangesError where the server does not serve
    parts, before any of the file is read."""
    wanted = {"range": f"bytes={first}-{last}"}
    with request_errors(_bare(url), asking=True), client().stream("GET", url, headers=wanted) as response:
        raise_for_status(response, _bare(url))
        found = re.fullmatch(
            r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18})", response.headers.get("content-range", "")
        )
        if response.status_code != 206 or found is None:
            raise NoRangesError(f"{_bare(url)}: the server does not serve parts of files.")
        begin, end, total = (int(number) for number in found.groups())
        data = b"".join(response.iter_raw()) if (begin, end) == (first, min(last, total - 1)) else b""
        if len(data) != end - begin + 1:
            raise TransientError(f"{_bare(url)}: asked for the bytes {first} to {last}, got others.")
        return data, total


def content_length(url: str) -> tuple[bool, int | None]:
    """Whether `url` exists, and how many bytes it has where the server says."""
    with request_errors(_bare(url), asking=True):
        response = client().head(url)
    if response.status_code in (404, 410):
        return False, None
    raise_for_status(response, _bare(url))
    length = response.headers.get("content-length", "")
    return True, int(length) if re.fullmatch("[0-9]{1,18}", length) else None


@contextmanager
def request_errors(where: str, *, asking: bool = False) -> Iterator[None]:
    """Turns a failed request into TransientError, or into SourceUnreachableError where trying again cannot help.

    `asking` is for the first questions to a server: one that cannot be reached at all is not asked again.
    """
    try:
        yield
    except httpx2.RequestError as error:
        broken = isinstance(error, httpx2.TransportError)
        absent = asking and isinstance(error, httpx2.ConnectError | httpx2.ConnectTimeout)
        kind = TransientError if broken and not absent else SourceUnreachableError
        raise kind(f"{where}: {type(error).__name__}: {error}") from error


def raise_for_status(response: httpx2.Response, where: str) -> None:
    """TransientError for 408, 429 and 5xx, NoSuchRangeError for 416, SourceUnreachableError for any other failure."""
    status = response.status_code
    if status in (200, 206):
        return
    message = f"{where}: HTTP {status} {response.reason_phrase}".rstrip()
    if status in (408, 429) or status >= 500:
        raise TransientError(message, retry_after(response.headers.get("retry-after")))
    if status == 416:
        raise NoSuchRangeError(message)
    if status in (401, 403):
        raise DeniedError(f"{message}; it may be private or gated: set HF_TOKEN to a token that may read it")
    raise SourceUnreachableError(message)


def _start(response: httpx2.Response, offset: int, url: str) -> int:
    if response.status_code != 206:
        return 0
    unit, _, rest = response.headers.get("content-range", "").partition(" ")
    first = rest.partition("-")[0]
    if unit != "bytes" or first != str(offset):
        raise TransientError(f"{_bare(url)}: asked for bytes from {offset} on, got 'Content-Range: {unit} {rest}'")
    return offset


def _bare(url: str) -> str:
    """The URL without user, password and query, which may be secret; SourceUnreachableError where it is none."""
    try:
        parts = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise SourceUnreachableError(f"{url!r} is no web address ({error}); correct it in the bundle.toml.") from error
    return str(parts.copy_with(username=None, password=None, query=None, fragment=None))
