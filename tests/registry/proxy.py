"""A reverse proxy before a registry that hands everything on as it comes, counts it, and misbehaves on command. See README.md."""

from __future__ import annotations

import http.client
import http.server
import re
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any, NoReturn

from tests.registry.faults import Answered, Asked, Fault, Faults
from tests.registry.wire import CHUNK, Listener, body

# What belongs to one connection and not to the message.
_HOP = {"connection", "keep-alive", "transfer-encoding", "expect", "te", "trailer", "upgrade"}


@dataclass
class Request:
    """One request and its answer; in the log before the registry is asked. Bytes are those of bodies, framing left out."""

    method: str
    path: str
    """Percent-decoded, without the query."""
    query: str
    headers: dict[str, str] = field(repr=False)
    """By lower-case name."""
    status: int = 0
    """0: no answer was given."""
    up: int = 0
    """Bytes of the request that were handed on to the registry."""
    down: int = 0
    """Bytes of the answer that were handed on to the client."""
    fault: str | None = None
    """Kind of the fault that it met."""


class FaultyProxy:
    """A reverse proxy on a loopback port of its own to the registry on `port`, as a context manager."""

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.faults = Faults()
        self.requests: list[Request] = []
        self.refused: set[str] = set()
        """Authorization headers that are not taken any more."""
        self._listener = Listener(lambda *words: _Handler(self, *words))

    @property
    def host(self) -> str:
        """What stands before the repository in a reference."""
        return f"127.0.0.1:{self._listener.port}"

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def __enter__(self) -> FaultyProxy:
        self._listener.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.faults.clear()
        self._listener.__exit__(kind, error, traceback)

    def select(self, match: str = "*", *, method: str | None = None, status: int | None = None) -> list[Request]:
        """Requests of that method and status whose path fits the pattern, in order of arrival."""
        return [
            one
            for one in list(self.requests)
            if fnmatchcase(one.path, match) and method in (None, one.method) and status in (None, one.status)
        ]

    def pushed(self) -> int:
        """Bytes of blobs that went to the registry, those of uploads that came to nothing too."""
        return sum(one.up for one in self.select("/v2/*/blobs/uploads/*"))

    def pulled(self, digest: str = "*") -> int:
        """Bytes of blobs, or of that blob, that came from the registry."""
        return sum(one.down for one in self.select(f"/v2/*/blobs/{digest}", method="GET"))

    def forget(self) -> None:
        """Empty the log."""
        self.requests.clear()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def __init__(self, proxy: FaultyProxy, *words: Any) -> None:
        self._proxy = proxy
        super().__init__(*words)

    def log_message(self, *words: Any) -> None:
        pass

    def _handle(self) -> None:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, urllib.parse.unquote(path), query, headers)
        authorization = headers.get("authorization")
        self._proxy.requests.append(request)
        length = None if "transfer-encoding" in headers else int(headers.get("content-length", "0"))
        asked = Asked(request.method, request.path, "range" in headers, authorization is not None, length)
        fault = self._proxy.faults.take(asked)
        request.fault = fault.kind if fault else None
        if fault and fault.kind == "expire":
            seen = {one.headers.get("authorization") for one in list(self._proxy.requests)}
            self._proxy.refused |= {one for one in seen if one is not None}
        if authorization in self._proxy.refused:
            self._challenge(request)
        elif fault and fault.kind == "status":
            self._drain()
            sent = {name: value for name, value in fault.headers.items() if value is not None}
            self._answer(request, fault.status, sent, iter([fault.body]), len(fault.body))
        else:
            self._pass_on(request, fault)

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = do_DELETE = _handle  # noqa: N815

    def _drain(self) -> None:
        """Read the request's body and leave it at that, so that the answer is not lost with the connection."""
        for _ in body(self.rfile, self.headers):
            pass

    def _challenge(self, request: Request) -> None:
        """What the registry says to who shows no token."""
        self._drain()
        with closing(http.client.HTTPConnection("127.0.0.1", self._proxy.upstream)) as registry:
            registry.request(self.command, self.path, headers={"Host": self.headers["Host"]})
            answer = registry.getresponse()
            data = answer.read()
            self._answer(request, answer.status, _kept(answer), iter([data]), len(data))

    def _pass_on(self, request: Request, fault: Fault | None) -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", self._proxy.upstream)) as registry:
            try:
                answer = self._ask(registry, request, fault)
            except (ConnectionError, http.client.HTTPException):
                self._break_off("rst")
            if fault is None and answer.status < 300:
                length = answer.getheader("Content-Length")
                size = None if length is None else int(length)
                fault = self._proxy.faults.take(Answered(request.method, request.path, size))
                request.fault = fault.kind if fault else None
            if fault and fault.kind == "lost":
                self._break_off(fault.how)
            headers = _kept(answer)
            if fault:
                for name, value in fault.headers.items():
                    headers = {key: old for key, old in headers.items() if key.lower() != name.lower()}
                    headers |= {} if value is None else {name: value}
            status = answer.status
            if fault and fault.kind in ("replace", "endless"):
                status = 200
                headers = {name: value for name, value in headers.items() if name.lower() != "content-range"}
            chunks, size = self._changed(answer, fault)
            try:
                self._answer(request, status, headers, chunks, size)
            except (http.client.IncompleteRead, _RegistryGoneError):
                self._break_off("rst")
            if fault and fault.kind in ("short", "long"):
                self._break_off("fin")

    def _ask(
        self, registry: http.client.HTTPConnection, request: Request, fault: Fault | None
    ) -> http.client.HTTPResponse:
        """Send the request on; ConnectionError where the registry is not there, or goes away before it answers."""
        kind = fault.kind if fault else None
        registry.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() in _HOP or (name.lower() == "range" and kind == "ignore-range"):
                continue
            changed = fault is not None and name.lower() == "range" and kind == "wrong-range"
            registry.putheader(name, f"bytes={fault.start}-" if fault and changed else value)
        chunked = "transfer-encoding" in request.headers
        if chunked:
            registry.putheader("Transfer-Encoding", "chunked")
        registry.endheaders()
        chunks = body(self.rfile, self.headers)
        try:
            for chunk in self._uploaded(chunks, fault):
                request.up += len(chunk)
                registry.send(b"%x\r\n%s\r\n" % (len(chunk), chunk) if chunked else chunk)
            if chunked:
                registry.send(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            # It may have answered before it had read all, as with 401; then its answer is there to be read.
            answer = registry.getresponse()
            for _ in chunks:
                pass
            return answer
        return registry.getresponse()

    def _uploaded(self, chunks: Iterator[bytes], fault: Fault | None) -> Iterator[bytes]:
        """The request's body with what the fault does to it on its way up."""
        if fault is None or not fault.kind.endswith("-upload"):
            yield from chunks
        elif fault.kind == "slow-upload":
            yield from _slowly(chunks, fault.rate)
        else:
            done = 0
            for chunk in chunks:
                room = fault.after - done
                if not 0 <= room < len(chunk):
                    yield chunk
                elif fault.kind == "cut-upload":
                    yield chunk[:room]
                    self._break_off(fault.how)
                else:
                    yield chunk[:room]
                    fault.hold()
                    yield chunk[room:]
                done += len(chunk)

    def _changed(self, answer: http.client.HTTPResponse, fault: Fault | None) -> tuple[Iterator[bytes], int | None]:
        """The answer's body and the Content-Length to give, with what the fault does to both."""
        length = answer.getheader("Content-Length")
        size = None if length is None else int(length)
        chunks = _read(answer)
        kind = fault.kind if fault else None
        if fault is None or kind in ("headers", "ignore-range", "wrong-range") or self.command == "HEAD":
            return chunks, size
        if kind in ("cut", "hold"):
            return self._halted(chunks, fault), size
        if kind == "slow":
            return _slowly(chunks, fault.rate), size
        if kind == "lying-range":
            return self._elsewhere(answer, fault), size
        if kind == "replace":
            return iter([fault.body]), len(fault.body)
        if kind == "endless":
            return _zeros(fault.count), fault.count if fault.announced else None
        if size is None:
            return chunks, size
        if kind == "flip":
            return _flipped(chunks, fault.offset), size
        if kind in ("short", "truncate"):
            kept = max(0, size - fault.count)
            return _first(chunks, kept), kept if kind == "truncate" else size
        if kind in ("long", "pad"):
            return _behind(chunks, fault.count), size + fault.count if kind == "pad" else size
        return chunks, size

    def _halted(self, chunks: Iterator[bytes], fault: Fault) -> Iterator[bytes]:
        done = 0
        for chunk in chunks:
            room = fault.after - done
            if 0 <= room < len(chunk):
                yield chunk[:room]
                if fault.kind == "cut":
                    self._break_off(fault.how)
                fault.hold()
                chunk = chunk[room:]
                done += room
            yield chunk
            done += len(chunk)
        if fault.after >= done:
            self._at_the_end(fault)

    def _at_the_end(self, fault: Fault) -> None:
        if fault.kind == "cut":
            self._break_off(fault.how)
        fault.hold()

    def _elsewhere(self, answer: http.client.HTTPResponse, fault: Fault) -> Iterator[bytes]:
        """As many bytes as the answer has, from another place of the blob."""
        found = re.fullmatch(r"bytes (\d+)-(\d+)/\d+", answer.getheader("Content-Range", ""))
        assert found, answer.getheaders()
        count = int(found[2]) - int(found[1]) + 1
        headers = {name: value for name, value in self.headers.items() if name.lower() not in {*_HOP, "range"}}
        headers["Range"] = f"bytes={fault.start}-{fault.start + count - 1}"
        with closing(http.client.HTTPConnection("127.0.0.1", self._proxy.upstream)) as registry:
            registry.request("GET", self.path, headers=headers)
            yield from _read(registry.getresponse())

    def _answer(
        self, request: Request, status: int, headers: dict[str, str], chunks: Iterator[bytes], size: int | None
    ) -> None:
        """The answer with its body as it comes; chunked where nobody knows how long it is."""
        request.status = status
        self.send_response_only(status)
        bodiless = self.command == "HEAD" or status in (204, 304)
        for name, value in headers.items():
            self.send_header(name, value)
        if size is not None:
            self.send_header("Content-Length", str(size))
        elif not bodiless:
            self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if bodiless:
            return
        for chunk in chunks:
            if chunk:
                request.down += len(chunk)
                self.wfile.write(chunk if size is not None else b"%x\r\n%s\r\n" % (len(chunk), chunk))
        if size is None:
            self.wfile.write(b"0\r\n\r\n")

    def _break_off(self, how: str) -> NoReturn:
        with suppress(ConnectionError):
            self.wfile.flush()
        listener = self.server
        assert isinstance(listener, Listener)
        listener.break_off(self.connection, how)


class _RegistryGoneError(Exception):
    """The registry's connection ended in the middle of an answer."""


def _kept(answer: http.client.HTTPResponse) -> dict[str, str]:
    return {name: value for name, value in answer.getheaders() if name.lower() not in {*_HOP, "content-length"}}


def _read(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    expected = answer.length
    done = 0
    while True:
        try:
            chunk = answer.read1(CHUNK)
        except ConnectionError as error:
            raise _RegistryGoneError from error
        if not chunk:
            break
        done += len(chunk)
        yield chunk
    # read1 does not say so itself.
    if expected is not None and done < expected:
        raise _RegistryGoneError


def _slowly(chunks: Iterator[bytes], rate: int) -> Iterator[bytes]:
    for chunk in chunks:
        for start in range(0, len(chunk), 4096):
            piece = chunk[start : start + 4096]
            time.sleep(len(piece) / rate)
            yield piece


def _zeros(count: int) -> Iterator[bytes]:
    while count:
        piece = bytes(min(CHUNK, count))
        count -= len(piece)
        yield piece


def _flipped(chunks: Iterator[bytes], offset: int) -> Iterator[bytes]:
    for chunk in chunks:
        if 0 <= offset < len(chunk):
            chunk = chunk[:offset] + bytes([chunk[offset] ^ 0xFF]) + chunk[offset + 1 :]
        offset -= len(chunk)
        yield chunk


def _first(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    for chunk in chunks:
        if count:
            yield chunk[:count]
        count -= min(count, len(chunk))


def _behind(chunks: Iterator[bytes], count: int) -> Iterator[bytes]:
    yield from chunks
    yield bytes(count)
