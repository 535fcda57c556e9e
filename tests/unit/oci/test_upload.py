"""Addresses of uploads that were cut: who may go on with them. What registries do is in tests/registry."""

from __future__ import annotations

import hashlib
import http.server
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from modelbake.errors import IntegrityError, RefusedError
from modelbake.oci.blob import of_bytes
from modelbake.oci.known import Known
from modelbake.oci.model import LAYER_TAR, descriptor_of
from modelbake.oci.reference import parse
from modelbake.oci.repository import Repository
from modelbake.oci.transport import Transport
from modelbake.oci.upload import Sessions, _Sent, upload
from modelbake.output import NO_PROGRESS

DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    reference = parse("registry.example/a:1")
    return Repository(reference, Transport(reference, tmp_path), Sessions(tmp_path / "uploads"), Known(tmp_path))


def test_one_upload_at_a_time_goes_on_with_an_address(repository: Repository) -> None:
    sessions = repository.sessions
    with sessions.alone(repository, DIGEST) as first, sessions.alone(repository, DIGEST) as second:
        assert (first, second) == (True, False)
        with sessions.alone(repository, "sha256:" + "1" * 64) as other:
            assert other
    with sessions.alone(repository, DIGEST) as later:
        assert later


def test_who_is_not_alone_neither_takes_nor_changes_the_address(repository: Repository) -> None:
    blob = of_bytes(b"x", descriptor_of(b"x", LAYER_TAR))
    digest = blob.descriptor.digest
    repository.sessions.note(repository, digest, "https://registry.example/1")
    other = _Sent(repository, blob, NO_PROGRESS, alone=False)
    assert other._url is None
    assert other._next("https://registry.example/2", "") == "https://registry.example/2"
    other.forget()
    assert repository.sessions.get(repository, digest) == "https://registry.example/1"
    assert _Sent(repository, blob, NO_PROGRESS, alone=True)._url == "https://registry.example/1"


def test_addresses_are_for_their_owner_s_eyes_alone(repository: Repository, tmp_path: Path) -> None:
    with repository.sessions.alone(repository, DIGEST):
        repository.sessions.note(repository, DIGEST, "https://registry.example/1")
    assert (tmp_path / "uploads").stat().st_mode & 0o777 == 0o700
    assert [path.suffix for path in (tmp_path / "uploads").iterdir()] == [""]


def test_an_address_from_an_unencrypted_time_begins_anew(repository: Repository) -> None:
    blob = of_bytes(b"x", descriptor_of(b"x", LAYER_TAR))
    repository.sessions.note(repository, blob.descriptor.digest, "http://registry.example/1")
    sent = _Sent(repository, blob, NO_PROGRESS, alone=True)
    with pytest.raises(RefusedError):
        repository.send("GET", "http://registry.example/1", (204,))
    assert sent._resumed() is None


class OneUpload:
    """A registry that holds some bytes of an upload that was begun, and says of the whole whether its digest is right."""

    def __init__(self, held: bytes) -> None:
        self.held = {"/v2/a/blobs/uploads/old": held}
        self.blobs: list[bytes] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def of(self, path: str) -> dict[str, str]:
                return {"Location": path, "Range": f"0-{max(0, len(outer.held[path]) - 1)}"}

            def do_GET(self) -> None:
                self.answer(
                    *((204,) if self.path in outer.held else (200,)),
                    **self.of(self.path) if self.path in outer.held else {},
                )

            def do_POST(self) -> None:
                outer.held["/v2/a/blobs/uploads/new"] = b""
                self.answer(202, **self.of("/v2/a/blobs/uploads/new"))

            def do_PATCH(self) -> None:
                outer.held[self.path] += self.rfile.read(int(self.headers["Content-Length"]))
                self.answer(202, **self.of(self.path))

            def do_PUT(self) -> None:
                path, _, query = self.path.partition("?digest=")
                data = outer.held.pop(path)
                if f"sha256:{hashlib.sha256(data).hexdigest()}" == query:
                    outer.blobs.append(data)
                    self.answer(201)
                else:
                    self.answer(400, b'{"errors": [{"code": "DIGEST_INVALID", "message": "no"}]}')

            def log_message(self, *words: object) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.mark.parametrize("held", [b"", b"first half, ", b"damaged ha, "])
def test_an_upload_that_was_begun_with_other_bytes_begins_anew(tmp_path: Path, held: bytes) -> None:
    data = b"first half, second half"
    server = OneUpload(held)
    thread = threading.Thread(target=server.http.serve_forever)
    thread.start()
    shown: list[int] = []
    progress = SimpleNamespace(update=shown.append, close=lambda: None)
    try:
        reference = parse(f"{server.url.removeprefix('http://')}/a:1")
        one = Repository(reference, Transport(reference, tmp_path), Sessions(tmp_path / "uploads"), Known(tmp_path))
        blob = of_bytes(data, descriptor_of(data, LAYER_TAR))
        with one.sessions.alone(one, blob.descriptor.digest):
            one.sessions.note(one, blob.descriptor.digest, f"{server.url}/v2/a/blobs/uploads/old")
        upload(one, blob, progress)
        assert server.blobs == [data]
        assert sum(shown) == len(data)
        assert one.sessions.get(one, blob.descriptor.digest) is None
        # Of its own bytes none is sent twice: what changes them changes them again.
        wrong = of_bytes(b"x" + data[1:], blob.descriptor)
        with pytest.raises(IntegrityError, match="did not get"):
            upload(one, wrong, progress)
    finally:
        server.http.shutdown()
        thread.join()
        server.http.server_close()
