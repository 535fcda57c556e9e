"""The proxy hands on what it is given, unless a test orders otherwise; then it does just that. A proxy that lies proves nothing."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import httpx2
import pytest

from tests.registry.fixture import proxy as proxy
from tests.registry.fixture import registry as registry
from tests.registry.proxy import FaultyProxy
from tests.registry.raw import OCTETS, Repository, sha256
from tests.registry.server import Registry
from tests.registry.tokens import TokenServer

DATA = bytes(range(251)) * 4000  # about a megabyte, no two neighbours equal
DIGEST = sha256(DATA)
BLOB = f"/v2/a/b/blobs/{DIGEST}"


@pytest.fixture
def repository(proxy: FaultyProxy) -> Repository:
    return Repository(proxy.url)


@pytest.fixture
def stored(proxy: FaultyProxy, repository: Repository) -> Repository:
    """A repository that has DATA, and an empty log."""
    repository.put_blob(DATA)
    proxy.forget()
    return repository


def upload(repository: Repository, content: bytes | Iterator[bytes] = DATA) -> httpx2.Response:
    begun = repository.client.post("blobs/uploads/").raise_for_status()
    where = httpx2.URL(begun.headers["Location"]).copy_merge_params({"digest": DIGEST})
    return repository.client.put(where, content=content, headers=OCTETS)


# ---- without a fault -------------------------------------------------------------------------------------------------


def test_everything_passes_and_is_counted(proxy: FaultyProxy, repository: Repository, registry: Registry) -> None:
    repository.put_blob(DATA)
    assert repository.blob(DIGEST).content == DATA
    answer = repository.blob(DIGEST, Range="bytes=5-9")
    assert (answer.status_code, answer.content) == (206, DATA[5:10])
    assert answer.headers["Content-Range"] == f"bytes 5-9/{len(DATA)}"
    assert answer.headers["Docker-Content-Digest"] == DIGEST
    assert repository.blob(sha256(b"none")).json()["errors"][0]["code"] == "BLOB_UNKNOWN"
    assert registry.blobs() == {DIGEST: len(DATA)}
    seen = [(one.method, one.status, one.up, one.down) for one in proxy.select(BLOB)]
    assert seen == [("HEAD", 404, 0, 0), ("GET", 200, 0, len(DATA)), ("GET", 206, 0, 5)]
    uploads = [(one.method, one.status, one.up) for one in proxy.select("*/blobs/uploads/*")]
    assert uploads == [("POST", 202, 0), ("PUT", 201, len(DATA))]
    assert (proxy.pushed(), proxy.pulled(DIGEST), proxy.pulled()) == (len(DATA), len(DATA) + 5, proxy.pulled())


def test_an_upload_of_unknown_length_passes(proxy: FaultyProxy, repository: Repository, registry: Registry) -> None:
    pieces = (DATA[start : start + 10_007] for start in range(0, len(DATA), 10_007))
    assert upload(repository, pieces).status_code == 201
    assert registry.blobs() == {DIGEST: len(DATA)}
    assert proxy.pushed() == len(DATA)


def test_it_streams_both_ways(proxy: FaultyProxy, stored: Repository) -> None:
    """The first bytes are there while the last are not sent yet."""
    fault = proxy.faults.add(kind="hold", after=len(DATA) - 10)
    with stored.client.stream("GET", f"blobs/{DIGEST}") as answer:
        pieces = answer.iter_bytes(1000)
        assert next(pieces) == DATA[:1000]
        fault.wait()
        fault.release()
        assert DATA[:1000] + b"".join(pieces) == DATA
    waits = threading.Event()

    def slow() -> Iterator[bytes]:
        yield DATA[:-10]
        assert waits.wait(30)
        yield DATA[-10:]

    proxy.forget()
    done: list[httpx2.Response] = []
    thread = threading.Thread(target=lambda: done.append(upload(stored, slow())))
    thread.start()
    while proxy.pushed() < len(DATA) - 10:
        assert thread.is_alive()
    waits.set()
    thread.join()
    assert done[0].status_code == 201


def test_a_registry_that_is_away_is_a_broken_connection(
    proxy: FaultyProxy, stored: Repository, registry: Registry
) -> None:
    registry.kill()
    with pytest.raises(httpx2.TransportError):
        stored.blob(DIGEST)
    assert [one.status for one in proxy.requests] == [0]
    registry.start()
    assert stored.blob(DIGEST).content == DATA


@pytest.mark.parametrize("kind", ["hold", "hold-upload"])
def test_a_registry_that_dies_in_the_middle_breaks_the_connection(
    proxy: FaultyProxy, repository: Repository, registry: Registry, kind: str
) -> None:
    if kind == "hold":
        large = bytes(50 << 20)  # more than the sockets in between can hold
        digest = repository.put_blob(large)["digest"]
    fault = proxy.faults.add(kind=kind, after=1000)  # type: ignore[arg-type]
    errors: list[BaseException] = []

    def run() -> None:
        try:
            repository.blob(digest) if kind == "hold" else upload(repository, bytes(50 << 20))
        except httpx2.TransportError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    fault.wait()
    registry.kill()
    fault.release()
    thread.join()
    assert len(errors) == 1


# ---- orders ----------------------------------------------------------------------------------------------------------


def test_an_order_waits_for_its_request_and_ends(proxy: FaultyProxy, stored: Repository) -> None:
    fault = proxy.faults.add(
        "/v2/a/*", kind="status", method="GET", status=429, skip=1, times=2, headers={"Retry-After": "7"}
    )
    assert stored.has_blob(DIGEST)
    codes = [stored.blob(DIGEST).status_code for _ in range(4)]
    assert codes == [200, 429, 429, 200]
    assert fault.hits == 2
    assert [one.fault for one in proxy.requests] == [None, None, "status", "status", None]
    answers = proxy.select(status=429)
    assert len(answers) == 2


def test_the_order_s_headers_are_sent(proxy: FaultyProxy, stored: Repository) -> None:
    proxy.faults.add(kind="status", status=429, headers={"Retry-After": "7"}, body=b"slow down")
    answer = stored.blob(DIGEST)
    assert (answer.headers["Retry-After"], answer.content) == ("7", b"slow down")
    proxy.faults.add(kind="headers", headers={"Docker-Content-Digest": None, "X-More": "1"})
    answer = stored.blob(DIGEST)
    assert "Docker-Content-Digest" not in answer.headers
    assert (answer.headers["X-More"], answer.content) == ("1", DATA)


def test_clearing_ends_all_orders(proxy: FaultyProxy, stored: Repository) -> None:
    proxy.faults.add(kind="status", times=None)
    assert stored.blob(DIGEST).status_code == 503
    proxy.faults.clear()
    assert stored.blob(DIGEST).status_code == 200


def test_an_unknown_order_is_an_error(proxy: FaultyProxy) -> None:
    with pytest.raises(ValueError, match="unknown kind"):
        proxy.faults.add(kind="explode")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        proxy.faults.add(kind="cut", before=1)


def test_a_refused_upload_s_body_is_read_and_not_handed_on(
    proxy: FaultyProxy, repository: Repository, registry: Registry
) -> None:
    proxy.faults.add(kind="status", method="PUT", status=500)
    assert upload(repository).status_code == 500
    assert (proxy.pushed(), registry.blobs()) == (0, {})
    assert upload(repository).status_code == 201


# ---- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["rst", "fin"])
@pytest.mark.parametrize("after", [0, 1, 70_000, len(DATA) - 1])
def test_a_cut_answer_has_so_many_bytes(proxy: FaultyProxy, stored: Repository, after: int, how: str) -> None:
    proxy.faults.add(kind="cut", after=after, how=how)
    came = bytearray()
    with (  # noqa: PT012
        pytest.raises(httpx2.TransportError),
        stored.client.stream("GET", f"blobs/{DIGEST}") as answer,
    ):
        for piece in answer.iter_raw():
            came += piece
    assert DATA.startswith(bytes(came))
    assert proxy.requests[-1].down == after
    assert len(came) == after or how == "rst"  # a reset may overtake what was sent
    assert stored.blob(DIGEST).content == DATA


def test_a_lost_answer_is_one_that_the_registry_gave(
    proxy: FaultyProxy, repository: Repository, registry: Registry
) -> None:
    proxy.faults.add(kind="lost", method="PUT")
    with pytest.raises(httpx2.TransportError):
        upload(repository)
    assert registry.blobs() == {DIGEST: len(DATA)}
    assert proxy.requests[-1].status == 0


def flipped(data: bytes, offset: int) -> bytes:
    return data[:offset] + bytes([data[offset] ^ 255]) + data[offset + 1 :]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ({"kind": "flip", "offset": 0}, flipped(DATA, 0)),
        ({"kind": "flip", "offset": 500_000}, flipped(DATA, 500_000)),
        ({"kind": "flip", "offset": len(DATA) - 1}, flipped(DATA, len(DATA) - 1)),
        ({"kind": "truncate", "count": 3}, DATA[:-3]),
        ({"kind": "pad", "count": 3}, DATA + bytes(3)),
        ({"kind": "replace", "body": b"log in"}, b"log in"),
        ({"kind": "endless", "count": 3 << 20}, bytes(3 << 20)),
        ({"kind": "endless", "count": 3 << 20, "announced": False}, bytes(3 << 20)),
        ({"kind": "slow", "rate": 1 << 25}, DATA),
    ],
)
def test_another_body_arrives_whole(
    proxy: FaultyProxy, stored: Repository, order: dict[str, object], expected: bytes
) -> None:
    proxy.faults.add(**order)  # type: ignore[arg-type]
    answer = stored.blob(DIGEST)
    assert answer.status_code == 200
    assert answer.content == expected
    assert ("Content-Length" in answer.headers) == order.get("announced", True)
    assert proxy.requests[-1].down == len(expected)
    assert stored.blob(DIGEST).content == DATA


def test_fewer_bytes_than_announced_are_a_broken_answer(proxy: FaultyProxy, stored: Repository) -> None:
    proxy.faults.add(kind="short", count=3)
    with pytest.raises(httpx2.RemoteProtocolError):
        stored.blob(DIGEST)
    assert proxy.requests[-1].down == len(DATA) - 3


def test_more_bytes_than_announced_stand_behind_the_answer(proxy: FaultyProxy, stored: Repository) -> None:
    proxy.faults.add(kind="long", count=3)
    assert stored.blob(DIGEST).content == DATA
    assert proxy.requests[-1].down == len(DATA) + 3


@pytest.mark.parametrize(
    ("order", "status", "content_range", "content"),
    [
        ({"kind": "ignore-range"}, 200, None, DATA),
        ({"kind": "wrong-range", "start": 7}, 206, f"bytes 7-{len(DATA) - 1}/{len(DATA)}", DATA[7:]),
        ({"kind": "lying-range", "start": 7}, 206, f"bytes 900000-{len(DATA) - 1}/{len(DATA)}", DATA[7 : 7 + len(DATA) - 900_000]),
    ],
)  # fmt: skip
def test_lies_about_ranges(
    proxy: FaultyProxy,
    stored: Repository,
    order: dict[str, object],
    status: int,
    content_range: str | None,
    content: bytes,
) -> None:
    fault = proxy.faults.add(**order)  # type: ignore[arg-type]
    assert stored.blob(DIGEST).content == DATA
    assert fault.hits == 0
    answer = stored.blob(DIGEST, Range="bytes=900000-")
    assert (answer.status_code, answer.headers.get("Content-Range")) == (status, content_range)
    assert answer.content == content


# ---- uploads ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("after", [0, 1, 70_000, len(DATA) - 1])
def test_a_cut_upload_brings_so_many_bytes_and_no_blob(
    proxy: FaultyProxy, repository: Repository, registry: Registry, after: int
) -> None:
    proxy.faults.add(kind="cut-upload", after=after, method="PUT")
    with pytest.raises(httpx2.TransportError):
        upload(repository)
    assert proxy.pushed() == after
    assert registry.blobs() == {}
    assert upload(repository).status_code == 201


def test_an_order_for_more_bytes_than_an_upload_has_waits_for_a_larger_one(
    proxy: FaultyProxy, repository: Repository
) -> None:
    fault = proxy.faults.add(kind="cut-upload", after=len(DATA))
    assert upload(repository).status_code == 201
    assert fault.hits == 0


def test_a_held_upload_goes_on(proxy: FaultyProxy, repository: Repository, registry: Registry) -> None:
    fault = proxy.faults.add(kind="hold-upload", after=70_000)
    done: list[httpx2.Response] = []
    thread = threading.Thread(target=lambda: done.append(upload(repository)))
    thread.start()
    fault.wait()
    assert proxy.pushed() == 70_000
    assert registry.blobs() == {}
    fault.release()
    thread.join()
    assert (done[0].status_code, registry.blobs()) == (201, {DIGEST: len(DATA)})


def test_a_slow_upload_arrives(proxy: FaultyProxy, repository: Repository) -> None:
    proxy.faults.add(kind="slow-upload", rate=1 << 25)
    assert upload(repository).status_code == 201


# ---- tokens ----------------------------------------------------------------------------------------------------------


def test_tokens_run_out_on_command_and_new_ones_are_good(tmp_path, registry: Registry) -> None:  # type: ignore[no-untyped-def]
    with (
        TokenServer(tmp_path / "keys") as server,
        Registry(tmp_path / "closed", tokens=(server.realm, server.pair)) as closed,
        FaultyProxy(closed.port) as proxy,
    ):

        def token() -> dict[str, str]:
            answer = httpx2.get(
                server.realm, params={"scope": "repository:a/b:pull", "service": "tests"}, trust_env=False
            )
            return {"Authorization": f"Bearer {answer.json()[server.name]}"}

        repository = Repository(proxy.url)
        first, unused = token(), token()
        proxy.faults.add(kind="expire", skip=1)
        assert repository.client.get("tags/list").status_code == 401
        assert repository.client.get("tags/list", headers=first).status_code == 404
        refused = repository.client.get("tags/list", headers=first)
        assert refused.status_code == 401
        assert 'scope="repository:a/b:pull"' in refused.headers["WWW-Authenticate"]
        assert repository.client.get("tags/list", headers=first).status_code == 401
        assert repository.client.get("tags/list", headers=unused).status_code == 404
        assert repository.client.put("manifests/x", content=DATA, headers=first).status_code == 401
