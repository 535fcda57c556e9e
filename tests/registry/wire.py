"""What the servers of these tests share: a listening port whose connections each have a thread, and HTTP's framing of bodies."""

from __future__ import annotations

import contextlib
import http.client
import io
import socket
import socketserver
import ssl
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from email.message import Message
from types import TracebackType
from typing import NoReturn

CHUNK = 1 << 16


class Listener(socketserver.ThreadingTCPServer):
    """A port of 127.0.0.1, as a context manager; `errors` has what a handler raised other than that its client went away."""

    allow_reuse_address = True
    daemon_threads = True
    block_on_close = False
    request_queue_size = 64

    def __init__(self, handler: Callable[..., socketserver.BaseRequestHandler], port: int = 0) -> None:
        self.errors: list[BaseException] = []
        self.reset: set[socket.socket] = set()
        self._open: set[socket.socket] = set()
        super().__init__(("127.0.0.1", port), handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    @property
    def port(self) -> int:
        return int(self.server_address[1])

    def __enter__(self) -> Listener:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Connections are ended in whatever they do."""
        self.shutdown()
        self.server_close()
        for connection in list(self._open):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        if self.errors and kind is None:
            raise self.errors[0]

    def process_request(self, request, client_address) -> None:  # type: ignore[no-untyped-def]
        self._open.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request) -> None:  # type: ignore[no-untyped-def]
        self._open.discard(request)
        if request in self.reset:  # an orderly shutdown would say goodbye before the reset
            self.reset.discard(request)
            self.close_request(request)
        else:
            super().shutdown_request(request)

    def handle_error(self, request, client_address) -> None:  # type: ignore[no-untyped-def]
        error = sys.exc_info()[1]
        if error is not None and not isinstance(error, ConnectionError | TimeoutError):
            self.errors.append(error)

    def break_off(self, connection: socket.socket, how: str) -> NoReturn:
        """End the connection without another byte: `rst` as a crash or a firewall does, `fin` as an orderly close."""
        if how == "rst":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.reset.add(connection)
        raise ConnectionAbortedError(how)


def body(stream: io.BufferedIOBase, headers: Message) -> Iterator[bytes]:
    """A request's body as it comes, out of whatever framing; ConnectionError where it ends too early."""
    if "chunked" in headers.get("Transfer-Encoding", "").lower():
        while size := int(stream.readline().partition(b";")[0] or b"0", 16):
            yield from _exactly(stream, size)
            stream.readline()
        while stream.readline().strip():  # trailers
            pass
    else:
        yield from _exactly(stream, int(headers.get("Content-Length") or 0))


def _exactly(stream: io.BufferedIOBase, size: int) -> Iterator[bytes]:
    while size:
        data = stream.read1(min(CHUNK, size))
        if not data:
            raise ConnectionAbortedError("the body ended too early")
        size -= len(data)
        yield data


def answers(port: int, secure: bool = False) -> bool:
    """Whether an HTTP server answers there, whatever it says."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    if secure:
        # Who answers is no question here.
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=5, context=context)
    try:
        connection.request("GET", "/v2/")
        connection.getresponse().read()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True
