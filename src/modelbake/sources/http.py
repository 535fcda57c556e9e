"""Reading over HTTP: ranges, redirects that do not carry the token along, and status codes turned into our errors."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache

import httpx2

from modelbake import __version__
from modelbake.errors import SourceUnreachableError
from modelbake.files import CHUNK
from modelbake.sources.base import Stream, TransientError

# A hub that asks for more patience than this is better tried again by the user.
MAX_RETRY_AFTER = 60.0


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
    try:
        with client().stream("GET", url, headers=wanted) as response:
            raise_for_status(response, url)
            yield Stream(_start(response, offset, url), response.iter_raw(CHUNK))
    except httpx2.TransportError as error:
        raise TransientError(f"{_bare(url)}: {type(error).__name__}: {error}") from error


def read_range(url: str, first: int, last: int) -> tuple[bytes, int]:
    """Bytes `first` to `last` (included) of `url`, and the whole file's size; a server without ranges is a TransientError's
    opposite: SourceUnreachableError."""
    try:
        response = client().get(url, headers={"range": f"bytes={first}-{last}" if first >= 0 else f"bytes={first}"})
    except httpx2.TransportError as error:
        raise TransientError(f"{_bare(url)}: {type(error).__name__}: {error}") from error
    raise_for_status(response, url)
    total = response.headers.get("content-range", "").rpartition("/")[2]
    if response.status_code != 206 or not total.isdigit():
        raise SourceUnreachableError(f"{_bare(url)}: the server does not serve parts of files.")
    return response.content, int(total)


def raise_for_status(response: httpx2.Response, url: str) -> None:
    """TransientError for 408, 416, 429 and 5xx, SourceUnreachableError for any other failure."""
    status = response.status_code
    if status in (200, 206):
        return
    message = f"{_bare(url)}: HTTP {status} {response.reason_phrase}".rstrip()
    if status in (408, 416, 429) or status >= 500:
        raise TransientError(message, _retry_after(response.headers.get("retry-after")))
    if status in (401, 403):
        message += "; the repository may be private or gated: set HF_TOKEN to a token that may read it"
    raise SourceUnreachableError(message)


def _start(response: httpx2.Response, offset: int, url: str) -> int:
    if response.status_code != 206:
        return 0
    unit, _, rest = response.headers.get("content-range", "").partition(" ")
    first = rest.partition("-")[0]
    if unit != "bytes" or first != str(offset):
        raise TransientError(f"{_bare(url)}: asked for bytes from {offset} on, got 'Content-Range: {unit} {rest}'")
    return offset


def _retry_after(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or an HTTP date (RFC 9110, 10.2.3)."""
    if value is None:
        return None
    if value.strip().isdigit():
        return min(float(value), MAX_RETRY_AFTER)
    date = email.utils.parsedate_tz(value)
    if date is None:
        return None
    return min(max(0.0, email.utils.mktime_tz(date) - time.time()), MAX_RETRY_AFTER)


def _bare(url: str) -> str:
    """The URL without user, password and query, which may be secret."""
    parts = httpx2.URL(url)
    return str(parts.copy_with(username=None, password=None, query=None, fragment=None))


def content_length(url: str) -> tuple[bool, int | None]:
    """Whether `url` exists, and how many bytes it has where the server says."""
    try:
        response = client().head(url)
    except httpx2.TransportError as error:
        raise TransientError(f"{_bare(url)}: {type(error).__name__}: {error}") from error
    if response.status_code in (404, 410):
        return False, None
    raise_for_status(response, url)
    length = response.headers.get("content-length", "")
    return True, int(length) if length.isdigit() else None
