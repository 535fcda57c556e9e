"""From an answer of the hub to bytes on a connection: ranges, conditions, compression, and the ordered faults."""

import fcntl
import gzip
import re
import select
import socket
import struct
import termios
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING
from urllib.parse import unquote

from tests.hub import routes
from tests.hub.faults import Asked, Fault
from tests.hub.log import Request
from tests.hub.repo import File, read
from tests.hub.routes import Answer

if TYPE_CHECKING:
    from tests.hub.server import Hub, Listener

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
#: The real hub's front compresses text between these sizes, and then gives no Content-Length.
_GZIP_SIZES = range(1_000, 10_000_000)
_GZIP_NAMES = (".json", ".txt", ".md")


@dataclass
class _Plan:
    """An answer made concrete: which bytes of the content go out under which status and headers."""

    status: int
    headers: dict[str, str]
    content: bytes | File
    start: int
    stop: int

    def pieces(self) -> Iterator[bytes]:
        source = self.content.source if isinstance(self.content, File) else self.content
        return read(source, self.start, self.stop)


def _size(content: bytes | File) -> int:
    return content.size if isinstance(content, File) else len(content)


def _asked_range(request: Request, size: int) -> tuple[int, int] | None:
    """start, stop of a single byte range (RFC 9110, 14.1.2), None where it is ignored; ValueError means 416."""
    match = _RANGE.fullmatch((request.range or "").replace(" ", ""))
    if match is None or match.groups() == ("", ""):
        return None
    first, last = match.groups()
    start = int(first) if first else max(size - int(last), 0)
    stop = min(int(last) + 1, size) if first and last else size
    if first and last and int(last) < int(first):
        return None
    if start >= size:
        raise ValueError(f"{request.range} is outside of 0-{size}")
    return start, stop


def _plan(request: Request, answer: Answer) -> _Plan:
    size = _size(answer.content)
    plan = _Plan(answer.status, dict(answer.headers), answer.content, 0, size)
    if answer.status != 200 or not isinstance(answer.content, File):
        return plan
    etag = answer.headers["ETag"]
    if request.headers.get("if-none-match") == etag:
        plan.status, plan.content, plan.stop = 304, b"", 0
    elif request.headers.get("if-range", etag) == etag:
        try:
            asked = _asked_range(request, size)
        except ValueError:
            plan.status, plan.content, plan.stop = 416, b"", 0
            plan.headers["Content-Range"] = f"bytes */{size}"
            return plan
        if asked is not None:
            plan.status, (plan.start, plan.stop) = 206, asked
            plan.headers["Content-Range"] = f"bytes {plan.start}-{plan.stop - 1}/{size}"
    return plan


def _distort_range(plan: _Plan, fault: Fault, size: int) -> None:
    if fault.kind == "ignore-range":
        plan.status, plan.start, plan.stop = 200, 0, size
        del plan.headers["Content-Range"]
        return
    length = plan.stop - plan.start
    plan.start = min(fault.start, size - 1)
    plan.stop = min(plan.start + length, size)
    if fault.kind == "wrong-range":
        plan.headers["Content-Range"] = f"bytes {plan.start}-{plan.stop - 1}/{size}"


class Handler(BaseHTTPRequestHandler):
    """One connection to the hub or to its CDN."""

    protocol_version = "HTTP/1.1"
    server_version = "hub"
    # Headers and body are separate writes; with Nagle's algorithm each answer would wait for a delayed ACK.
    disable_nagle_algorithm = True
    server: "Listener"

    def do_GET(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        hub = self.server.hub
        path = unquote(self.path.partition("?")[0])
        headers = {name.lower(): value for name, value in self.headers.items()}
        request = Request(self.command, path, self.path.partition("?")[2], "unknown", headers)
        hub.log.append(request)
        on_cdn = self.server.is_cdn
        answer = routes.cdn_answer(hub, request, self.path) if on_cdn else routes.answer(hub, request, self.path, body)
        answer.headers["X-Request-Id"] = f"Root=1-{len(hub.log):08x}"
        plan = _plan(request, answer)
        has_body = self.command != "HEAD" and plan.status in (200, 206) and plan.stop > plan.start
        asked = Asked(
            self.command, request.endpoint, path, request.file,
            has_etag=bool({"ETag", "X-Linked-ETag"} & plan.headers.keys()),
            has_body=has_body, ranged=plan.status == 206, start=plan.start, stop=plan.stop,
        )  # fmt: skip
        fault = hub.faults.take(asked)
        if fault is None:
            self._send(request, plan, None)
        else:
            request.fault = fault.kind
            self._misbehave(hub, request, plan, fault)

    do_HEAD = do_GET  # noqa: N815 - names that http.server calls
    do_POST = do_GET  # noqa: N815

    def _misbehave(self, hub: "Hub", request: Request, plan: _Plan, fault: Fault) -> None:
        if fault.after is None and fault.kind == "hang":
            self._hang()
            return
        if fault.after is None and fault.kind == "cut":
            self._cut(fault)
            return
        size = _size(plan.content)
        if fault.kind == "status":
            text = b"" if fault.status == 304 else f"Answer {fault.status} as ordered".encode()
            plan = _Plan(fault.status, {"Content-Type": "text/plain; charset=utf-8"}, text, 0, len(text))
        elif fault.kind == "etag":
            name = "X-Linked-ETag" if "X-Linked-ETag" in plan.headers else "ETag"
            plan.headers[name] = f'"{fault.etag}"'
        elif fault.kind == "replace":
            headers = {name: value for name, value in plan.headers.items() if name != "Content-Range"}
            plan = _Plan(200, headers, fault.body, 0, len(fault.body))
        elif fault.kind == "truncate":
            plan.stop = max(plan.stop - fault.count, plan.start)
        elif fault.kind in ("ignore-range", "wrong-range", "lying-range"):
            _distort_range(plan, fault, size)
        for name, value in fault.answer_headers().items():
            plan.headers.pop(name, None)
            if value is not None:
                plan.headers[name] = value
        self._send(request, plan, fault)

    def _send(self, request: Request, plan: _Plan, fault: Fault | None) -> None:
        pieces, length = plan.pieces(), plan.stop - plan.start
        if fault is not None:
            pieces, length = _distort_body(pieces, length, plan.start, fault)
        elif self._compresses(request, plan):
            packed = gzip.compress(b"".join(pieces), mtime=0)
            pieces = iter([b"%x\r\n%b\r\n0\r\n\r\n" % (len(packed), packed)])
            plan.headers |= {"Content-Encoding": "gzip", "Transfer-Encoding": "chunked", "Vary": "Accept-Encoding"}
            plan.headers["ETag"] = f"W/{plan.headers['ETag']}"
        if "Transfer-Encoding" not in plan.headers and plan.status != 304:
            plan.headers.setdefault("Content-Length", str(length))
        request.status = plan.status
        self.send_response(plan.status)
        for name, value in plan.headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD" or plan.status == 304:
            return
        limit = fault.after if fault is not None and fault.kind in ("cut", "hang") else None
        for piece in pieces:
            piece = piece if limit is None else piece[: limit - request.sent]
            self._write(request, piece, fault.rate if fault is not None else None)
            if limit is not None and request.sent >= limit:
                break
        if fault is not None:
            self._end(fault)

    def _write(self, request: Request, piece: bytes, rate: int | None) -> None:
        """Send a piece, at `rate` bytes per second if given. It is logged first, so no client is ahead of the log."""
        step = len(piece) if rate is None else max(rate // 20, 1)
        for at in range(0, len(piece), step or 1):
            part = piece[at : at + step]
            request.sent += len(part)
            self.wfile.write(part)
            if rate is not None and self.server.hub.closing.wait(len(part) / rate):
                raise ConnectionAbortedError("the hub closes")

    def _end(self, fault: Fault) -> None:
        if fault.kind == "hang":
            self._hang()
        elif fault.kind == "cut":
            self._cut(fault)
        elif fault.kind in ("short", "long"):
            self.close_connection = True

    def _hang(self) -> None:
        """Hold the connection with no further byte until the client gives up or the hub closes."""
        self.close_connection = True
        while not self.server.hub.closing.wait(0.02):
            if select.select([self.connection], [], [], 0)[0] and not self.connection.recv(1, socket.MSG_PEEK):
                return

    def _cut(self, fault: Fault) -> None:
        self.close_connection = True
        if fault.how == "rst":
            # A reset throws away what is still queued: let the client's side take the promised bytes first.
            deadline = time.monotonic() + 2
            while _unsent(self.connection) and time.monotonic() < deadline:
                self.server.hub.closing.wait(0.001)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.server.reset.add(self.connection)

    def _compresses(self, request: Request, plan: _Plan) -> bool:
        return (
            self.server.hub.gzip
            and isinstance(plan.content, File)
            and plan.status == 200
            and plan.content.size in _GZIP_SIZES
            and plan.content.path.endswith(_GZIP_NAMES)
            and "gzip" in request.headers.get("accept-encoding", "")
        )

    def log_message(self, format: str, *args: object) -> None:
        """Be quiet: hub.log has everything."""


def _distort_body(pieces: Iterator[bytes], length: int, start: int, fault: Fault) -> tuple[Iterator[bytes], int]:
    """The pieces as the fault wants them, and the Content-Length that goes before them."""
    if fault.kind == "flip":
        return _flipped(pieces, start, fault.offset), length
    if fault.kind == "short":
        return _first(pieces, max(length - fault.count, 0)), length
    if fault.kind == "long":
        return _followed(pieces, b"\0" * fault.count), length
    if fault.kind == "pad":
        return _followed(pieces, b"\0" * fault.count), length + fault.count
    return pieces, length


def _flipped(pieces: Iterator[bytes], at: int, offset: int) -> Iterator[bytes]:
    for piece in pieces:
        if at <= offset < at + len(piece):
            changed = bytearray(piece)
            changed[offset - at] ^= 0xFF
            piece = bytes(changed)
        at += len(piece)
        yield piece


def _first(pieces: Iterator[bytes], count: int) -> Iterator[bytes]:
    for piece in pieces:
        yield piece[:count]
        count -= len(piece)
        if count <= 0:
            return


def _followed(pieces: Iterator[bytes], more: bytes) -> Iterator[bytes]:
    """The pieces, with `more` in one write with the last: a client that has all it waits for may hang up at once."""
    held = b""
    for piece in pieces:
        if held:
            yield held
        held = piece
    yield held + more


def _unsent(connection: socket.socket) -> int:
    """Bytes that the other side has not acknowledged yet."""
    return int(struct.unpack("i", fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, b"\0\0\0\0"))[0])
