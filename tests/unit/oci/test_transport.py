"""Who is sent credentials, and who is not. What registries do otherwise is in tests/registry."""

from __future__ import annotations

import base64
import http.server
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from modelbake.errors import RefusedError, SourceUnreachableError
from modelbake.oci.reference import parse
from modelbake.oci.transport import Transport

Answer = tuple[int, dict[str, str]]


class Server:
    """On loopback: answers by `answer`, and keeps the path and Authorization header of every request."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str | None]] = []
        self.by_proxy: list[str | None] = []
        self.answer: Callable[[str], Answer] = lambda path: (200, {})
        self.body = b""
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer.seen.append((self.path, self.headers.get("Authorization")))
                outer.by_proxy.append(self.headers.get("Proxy-Authorization"))
                status, headers = outer.answer(self.path)
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(outer.body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(outer.body)

            def log_message(self, *words: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.http.server_port}"


@contextmanager
def serving() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    with ExitStack() as stack:
        yield stack.enter_context(serving()), stack.enter_context(serving())


def transport(host: str, folder: Path) -> Transport:
    """One that has a user and password for the host."""
    auth = base64.b64encode(b"user:password").decode()
    (folder / "config.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return Transport(parse(f"{host}/a"), folder)


@pytest.mark.parametrize("back", [False, True])
def test_whom_a_redirect_leads_to_cannot_ask_for_the_registrys_credentials(
    servers: tuple[Server, Server], tmp_path: Path, back: bool
) -> None:
    registry, other = servers
    there = {"Location": f"http://{other.host}/blob"}
    registry.answer = lambda path: (307, there) if path == "/v2/a/blobs/1" else (200, {})
    refusal = {"WWW-Authenticate": f'Bearer realm="http://{other.host}/token"'}
    # A relative address is relative to where it was given.
    other.answer = lambda path: (307, {"Location": "/more"}) if back and path == "/blob" else (401, refusal)
    one = transport(registry.host, tmp_path)
    with pytest.raises(SourceUnreachableError, match="401"):
        one.request("GET", one.url("/v2/a/blobs/1"), "repository:a:pull")
    assert other.seen
    assert {authorization for _, authorization in other.seen} == {None}


def test_the_registry_itself_gets_them(servers: tuple[Server, Server], tmp_path: Path) -> None:
    registry, _ = servers
    registry.answer = lambda path: (200 if registry.seen[-1][1] else 401, {"WWW-Authenticate": "Basic realm=here"})
    one = transport(registry.host, tmp_path)
    assert one.request("GET", one.url("/v2/a/blobs/1"), "repository:a:pull").status == 200
    assert registry.seen[-1][1] == "Basic " + base64.b64encode(b"user:password").decode()


def test_an_unencrypted_address_of_an_encrypted_registry_gets_no_token(tmp_path: Path) -> None:
    one = Transport(parse("registry.example/a"), tmp_path, token="secret")
    with pytest.raises(RefusedError, match="unencrypted"):
        one.request("PATCH", "http://registry.example/v2/a/blobs/uploads/1", "repository:a:pull,push")


def test_a_password_goes_unencrypted_to_this_machine_alone(servers: tuple[Server, Server], tmp_path: Path) -> None:
    registry, _ = servers
    refusal = {"WWW-Authenticate": 'Bearer realm="http://tokens.example/token"'}
    registry.answer = lambda path: (401, refusal)
    one = transport(registry.host, tmp_path)
    with pytest.raises(RefusedError, match="not encrypted"):
        one.request("GET", one.url("/v2/a/blobs/1"), "repository:a:pull")


@pytest.mark.parametrize("token", ["a\nb", "", "a b", "\u00e9"])
def test_a_token_that_no_header_can_hold_is_the_registry_s_fault(
    servers: tuple[Server, Server], tmp_path: Path, token: str
) -> None:
    registry, other = servers
    registry.answer = lambda path: (401, {"WWW-Authenticate": f'Bearer realm="http://{other.host}/token"'})
    other.body = json.dumps({"token": token}).encode()
    one = transport(registry.host, tmp_path)
    with pytest.raises(SourceUnreachableError, match="gave no token"):
        one.request("GET", one.url("/v2/a/blobs/1"), "repository:a:pull")


def test_a_proxy_gets_the_user_and_password_of_its_address(servers: tuple[Server, Server], tmp_path: Path) -> None:
    proxy, _ = servers
    reference = parse("registry.example:80/a")
    address = f"http://who:p%40ss@{proxy.host}"
    one = Transport(reference, tmp_path, proxy=lambda url: address, plain_http=True)
    assert one.request("GET", one.url("/v2/a/blobs/1"), "repository:a:pull").status == 200
    assert proxy.seen == [("http://registry.example:80/v2/a/blobs/1", None)]
    assert proxy.by_proxy == ["Basic " + base64.b64encode(b"who:p@ss").decode()]
