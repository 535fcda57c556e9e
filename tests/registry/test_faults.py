"""What can go wrong between modelbake and a registry: nothing wrong is accepted or to be seen, nothing that was whole moves again."""

from __future__ import annotations

import hashlib
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from modelbake.oci.pack import Packed
from tests.faults.mounts import can_mount, small_disk
from tests.registry.client import PATIENCE, Client, Running, layer_of, total
from tests.registry.faults import Fault
from tests.registry.fixture import client as client
from tests.registry.fixture import proxy as proxy
from tests.registry.fixture import registry as registry
from tests.registry.proxy import FaultyProxy
from tests.registry.raw import Repository
from tests.registry.server import PASSWORD, USER, Registry
from tests.registry.test_transfer import OVERHEAD, basic, docker_config
from tests.registry.tokens import TokenServer

SIZES = (3_000_000, 1_000_000, 2_000_000, 1_500_000)
# The largest file's layer; the faults meet it in its middle.
LARGEST, MIDDLE = "text_encoder.fp32", 1_500_000
ALWAYS: dict[str, Any] = {"times": None}


@pytest.fixture
def packed(client: Client) -> Packed:
    return client.bundle(sizes=SIZES)


@pytest.fixture
def reference(client: Client, packed: Packed, proxy: FaultyProxy) -> str:
    """The bundle's name at the proxy, pushed, with an empty log."""
    name = f"{proxy.host}/models/random:1"
    client.push(name).succeeded()
    proxy.forget()
    return name


def on_blob(packed: Packed, part: str = LARGEST) -> str:
    return f"/v2/*/blobs/{layer_of(packed, part)}"


def recovers(client: Client, packed: Packed, proxy: FaultyProxy, reference: str) -> None:
    """With the fault gone the pull succeeds, and fetches no more than the folder lacks."""
    client.is_sound(packed.entry)
    lacking = total(packed) - client.on_disk()
    proxy.faults.clear()
    proxy.forget()
    client.pull(reference).succeeded()
    client.holds(packed.entry)
    assert proxy.pulled() <= max(0, lacking) + OVERHEAD


# ---- pull ------------------------------------------------------------------------------------------------------------

# A fault that passes: what it costs at most in bytes that come twice, and the orders.
PASSING: dict[str, tuple[int, list[dict[str, Any]]]] = {
    # A reset throws away what was in the sockets.
    "cut by a reset": (1_600_000, [{"kind": "cut", "after": MIDDLE}]),
    "cut in order": (200_000, [{"kind": "cut", "after": MIDDLE, "how": "fin"}]),
    "cut again and again": (2_000_000, [{"kind": "cut", "after": 300_000, "times": 6}]),
    "cut before the first byte": (200_000, [{"kind": "cut", "after": 0, "times": 3}]),
    "answers that are lost": (0, [{"kind": "lost", "times": 3}]),
    "503 three times": (0, [{"kind": "status", "times": 3}]),
    "500": (0, [{"kind": "status", "status": 500}]),
    "429 with Retry-After": (0, [{"kind": "status", "status": 429, "headers": {"Retry-After": "0"}, "times": 2}]),
    "fewer bytes than announced": (200_000, [{"kind": "short", "count": 1000}]),
    "more bytes than announced": (200_000, [{"kind": "long", "count": 1000}]),
    "no digest in the headers": (0, [{"kind": "headers", "headers": {"Docker-Content-Digest": None}, "times": None}]),
    "another digest in the headers": (0, [{"kind": "headers", "headers": {"Docker-Content-Digest": f"sha256:{'0' * 64}"}, "times": None}]),
    "no range in the middle": (3_100_000, [{"kind": "cut", "after": MIDDLE, "how": "fin"}, {"kind": "ignore-range", "times": None}]),
    "a range from elsewhere": (4_600_000, [{"kind": "cut", "after": MIDDLE, "how": "fin"}, {"kind": "wrong-range", "start": 7}]),
    "a range that lies": (3_100_000, [{"kind": "cut", "after": MIDDLE, "how": "fin"}, {"kind": "lying-range", "start": 7}]),
    "one damaged answer": (3_100_000, [{"kind": "flip", "offset": MIDDLE}]),
}  # fmt: skip


@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_lived_through(
    client: Client, packed: Packed, proxy: FaultyProxy, reference: str, name: str
) -> None:
    waste, orders = PASSING[name]
    # The first request for a layer may be for its head alone, which a fault in its middle does not meet.
    faults = [proxy.faults.add(on_blob(packed), **{"method": "GET", **order}) for order in orders]
    client.pull(reference).succeeded()
    assert all(fault.hits for fault in faults)
    client.holds(packed.entry)
    assert proxy.pulled() <= total(packed) + waste + OVERHEAD
    recovers(client, packed, proxy, reference)
    assert proxy.pulled() <= OVERHEAD


# A fault that lasts: the exit code, a word of the message, the orders.
LASTING: dict[str, tuple[int, str, list[dict[str, Any]]]] = {
    "always cut": (4, "", [{"kind": "cut", "after": 0, **ALWAYS}]),
    "always 503": (4, "503", [{"kind": "status", **ALWAYS}]),
    "forbidden": (4, "403", [{"kind": "status", "status": 403, **ALWAYS}]),
    "not there": (4, "404", [{"kind": "status", "status": 404, **ALWAYS}]),
    "a damaged first byte": (5, "", [{"kind": "flip", "offset": 0, **ALWAYS}]),
    "a damaged byte": (5, "damaged", [{"kind": "flip", "offset": MIDDLE, **ALWAYS}]),
    "a damaged last byte": (5, "", [{"kind": "flip", "offset": 3_001_000, **ALWAYS}]),
    "a login page": (5, "", [{"kind": "replace", "body": b"<html>" + b" " * 4_000_000, **ALWAYS}]),
    "zeros without end": (5, "", [{"kind": "endless", "count": 1 << 30, **ALWAYS}]),
    "zeros without end or length": (5, "", [{"kind": "endless", "count": 1 << 30, "announced": False, **ALWAYS}]),
    "ranges that always lie": (5, "", [{"kind": "lying-range", "start": 7, **ALWAYS}, {"kind": "flip", "offset": 100_000, **ALWAYS}]),
}  # fmt: skip


@pytest.mark.parametrize("name", LASTING)
def test_what_lasts_is_refused_and_the_next_run_brings_the_rest(
    client: Client, packed: Packed, proxy: FaultyProxy, reference: str, name: str
) -> None:
    code, word, orders = LASTING[name]
    for order in orders:
        proxy.faults.add(on_blob(packed), **{"method": "GET", **order})
    client.pull(reference).failed(code, word, "127.0.0.1")
    assert client.visible() == set()
    # Nobody reads a gigabyte to find that it is too long.
    assert proxy.pulled() <= 3 * total(packed) + (16 << 20)
    recovers(client, packed, proxy, reference)


def test_a_blob_too_short_on_the_server_is_refused(
    client: Client, packed: Packed, proxy: FaultyProxy, reference: str
) -> None:
    proxy.faults.add(on_blob(packed), kind="truncate", count=5000, method="GET", **ALWAYS)
    done = client.pull(reference)
    assert done.code in (4, 5), done.err
    done.failed(done.code, "127.0.0.1")
    assert client.visible() == set()
    recovers(client, packed, proxy, reference)


@pytest.mark.parametrize("damage", ["a byte", "shorter", "longer", "empty"])
def test_a_blob_damaged_on_the_server_is_refused_and_a_new_push_does_not_hide_it(
    client: Client, packed: Packed, proxy: FaultyProxy, registry: Registry, reference: str, damage: str
) -> None:
    file = registry.blob_file(layer_of(packed, LARGEST))
    whole = file.read_bytes()
    changed = {
        "a byte": whole[:MIDDLE] + bytes([whole[MIDDLE] ^ 1]) + whole[MIDDLE + 1 :],
        "shorter": whole[:-1000],
        "longer": whole + bytes(1000),
        "empty": b"",
    }
    file.write_bytes(changed[damage])
    done = client.pull(reference)
    if damage == "longer":
        # What stands behind a blob's last byte is not the blob's.
        assert done.code in (0, 4, 5)
    else:
        assert done.code in (4, 5), done.err
    if done.code:
        done.failed(done.code, "127.0.0.1")
        assert client.visible() == set()
        file.write_bytes(whole)
        recovers(client, packed, proxy, reference)
    client.holds(packed.entry)


MANIFEST_FAULTS: dict[str, tuple[int, dict[str, Any]]] = {
    "a login page": (5, {"kind": "replace"}),
    "empty": (5, {"kind": "replace", "body": b""}),
    "a damaged byte": (5, {"kind": "flip", "offset": 300}),
    "a gigabyte": (5, {"kind": "endless", "count": 1 << 30}),
    "a gigabyte without a length": (5, {"kind": "endless", "count": 1 << 30, "announced": False}),
    "deep JSON": (5, {"kind": "replace", "body": b"[" * 2_000_000}),
    "a number": (5, {"kind": "replace", "body": b"7"}),
    "always 500": (4, {"kind": "status", "status": 500}),
    "not there": (3, {"kind": "status", "status": 404}),
}  # fmt: skip


@pytest.mark.parametrize("by", ["tag", "digest"])
@pytest.mark.parametrize("name", MANIFEST_FAULTS)
def test_a_bad_manifest_is_refused(
    client: Client, packed: Packed, proxy: FaultyProxy, reference: str, name: str, by: str
) -> None:
    code, order = MANIFEST_FAULTS[name]
    proxy.faults.add("/v2/*/manifests/*", method="GET", **{**order, **ALWAYS})
    asked = reference if by == "tag" else f"{proxy.host}/models/random@{packed.image.digest}"
    done = client.pull(asked)
    # By tag, a flipped byte may leave another valid document, which then names blobs that are not there.
    assert done.code == code or (name == "a damaged byte" and done.code in (3, 4, 5)), done.err
    done.failed(done.code)
    assert client.visible() == set()
    assert sum(one.down for one in proxy.requests) <= 64 << 20
    recovers(client, packed, proxy, reference)


# ---- push ------------------------------------------------------------------------------------------------------------

UPLOADS: dict[str, tuple[int, list[dict[str, Any]]]] = {
    "cut in the first byte": (1_000_000, [{"kind": "cut-upload", "after": 0}]),
    "cut by a reset": (3_100_000, [{"kind": "cut-upload", "after": MIDDLE}]),
    "cut in order": (3_100_000, [{"kind": "cut-upload", "after": MIDDLE, "how": "fin"}]),
    "cut three times": (6_200_000, [{"kind": "cut-upload", "after": MIDDLE, "times": 3}]),
    "answers that are lost": (8_000_000, [{"kind": "lost", "times": 3}]),
    "the last answers are lost": (8_000_000, [{"kind": "lost", "method": "PUT", "times": 2}]),
    "503 three times": (0, [{"kind": "status", "times": 3}]),
    "429 with Retry-After": (0, [{"kind": "status", "status": 429, "headers": {"Retry-After": "0"}, "times": 3}]),
    "sessions that are forgotten": (4_000_000, [{"kind": "status", "status": 404, "method": "PATCH", "times": 2}]),
}


@pytest.mark.parametrize("name", UPLOADS)
def test_a_push_lives_through_what_passes(
    client: Client, packed: Packed, proxy: FaultyProxy, registry: Registry, name: str
) -> None:
    waste, orders = UPLOADS[name]
    reference = f"{proxy.host}/models/random:1"
    faults = [proxy.faults.add("/v2/*/blobs/uploads/*", **order) for order in orders]
    client.push(reference).succeeded()
    assert all(fault.hits for fault in faults)
    is_whole(packed, registry)
    assert proxy.pushed() <= total(packed) + waste + OVERHEAD
    client.pull(reference).succeeded()
    client.holds(packed.entry)


def is_whole(packed: Packed, registry: Registry) -> None:
    """Every blob and document of the bundle is in the registry, byte for byte."""
    for blob in (*packed.layers, *packed.documents):
        assert registry.blob_file(blob.descriptor.digest).read_bytes() == b"".join(blob.chunks())


@pytest.mark.parametrize("kind", ["status", "cut-upload"])
def test_a_push_that_fails_leaves_no_tag_and_the_next_sends_only_the_rest(
    client: Client, packed: Packed, proxy: FaultyProxy, registry: Registry, kind: str
) -> None:
    reference = f"{proxy.host}/models/random:1"
    # After some went through, nothing does.
    proxy.faults.add("/v2/*/blobs/uploads/*", kind=kind, method="PATCH", skip=2, **ALWAYS)  # type: ignore[arg-type]
    client.push(reference).failed(4, proxy.host)
    assert Repository(registry.url, "models/random").client.get("tags/list").status_code == 404
    proxy.faults.clear()
    proxy.forget()
    there = sum(registry.blobs().values())
    client.push(reference).succeeded()
    is_whole(packed, registry)
    assert proxy.pushed() <= total(packed) - there + OVERHEAD


def test_a_file_that_changes_after_it_was_hashed_is_not_pushed_as_what_it_was(
    client: Client, packed: Packed, proxy: FaultyProxy, registry: Registry
) -> None:
    reference = f"{proxy.host}/models/random:1"
    fault = proxy.faults.add("/v2/*/blobs/uploads/*", kind="hold-upload", method="PATCH", after=2_000_000)
    # The whole layer in a part whose end was not read yet when the file changes.
    pushing = client.start(*client.push_words(reference))
    fault.wait()
    (ref,) = (ref for ref in packed.entry.files if LARGEST in ref.path)
    file = client.models / ref.path
    with file.open("r+b") as opened:
        opened.truncate(ref.size - 400_000)
        opened.truncate(ref.size)
    fault.release()
    done = pushing.wait()
    digest = layer_of(packed, LARGEST)
    if done.code == 0:
        # All of it was in the sockets by then.
        is_at(registry, digest)
    else:
        done.failed(5)
        assert digest not in registry.blobs()


def is_at(registry: Registry, digest: str) -> None:
    assert f"sha256:{hashlib.sha256(registry.blob_file(digest).read_bytes()).hexdigest()}" == digest


# ---- a registry that dies, a client that dies ------------------------------------------------------------------------


def test_a_registry_that_is_restarted_in_the_middle_of_a_pull(
    client: Client, packed: Packed, proxy: FaultyProxy, registry: Registry, reference: str
) -> None:
    client.orders["pause"] = 0.5
    fault = proxy.faults.add(on_blob(packed), kind="hold", after=MIDDLE, method="GET")
    pulling = client.start(*client.pull_words(reference))
    fault.wait()
    registry.kill()
    # The proxy stands between, and would hand on what it has read already.
    fault.release()
    registry.start()
    pulling.wait().succeeded()
    client.holds(packed.entry)


def test_a_registry_that_is_restarted_in_the_middle_of_a_push(
    client: Client, packed: Packed, proxy: FaultyProxy, registry: Registry
) -> None:
    client.orders["pause"] = 0.5
    reference = f"{proxy.host}/models/random:1"
    fault = proxy.faults.add("/v2/*/blobs/uploads/*", kind="hold-upload", method="PATCH", after=MIDDLE)
    pushing = client.start(*client.push_words(reference))
    fault.wait()
    registry.kill()
    fault.release()
    registry.start()
    pushing.wait().succeeded()
    is_whole(packed, registry)
    client.pull(reference).succeeded()
    client.holds(packed.entry)


@pytest.mark.parametrize("direction", ["push", "pull"])
def test_a_registry_that_stays_away_and_comes_back_later(
    client: Client, packed: Packed, proxy: FaultyProxy, registry: Registry, direction: str
) -> None:
    reference = f"{proxy.host}/models/random:1"
    if direction == "pull":
        # Larger than what the proxy's sockets hold, or all of it has left the registry when it ends.
        packed = client.bundle(sizes=(40_000_000, *SIZES[1:]))
        client.push(reference).succeeded()
        proxy.forget()
    order: dict[str, Any] = {"kind": "hold", "method": "GET"}
    if direction == "push":
        order = {"kind": "hold-upload", "method": "PATCH"}
    pattern = on_blob(packed) if direction == "pull" else "/v2/*/blobs/uploads/*"
    fault = proxy.faults.add(pattern, after=MIDDLE, **order)
    running = client.start(*(client.pull_words if direction == "pull" else client.push_words)(reference))
    fault.wait()
    registry.kill()
    fault.release()
    running.wait().failed(4)
    registry.start()
    if direction == "pull":
        recovers(client, packed, proxy, reference)
        return
    there = sum(registry.blobs().values())
    proxy.forget()
    client.push(reference).succeeded()
    is_whole(packed, registry)
    assert proxy.pushed() <= total(packed) - there + OVERHEAD


@pytest.mark.parametrize("part", [0, 1, MIDDLE, 2_900_000])
def test_a_pull_that_is_killed_goes_on_where_it_was(
    client: Client, packed: Packed, proxy: FaultyProxy, reference: str, part: int
) -> None:
    fault = proxy.faults.add(on_blob(packed), kind="hold", after=part, method="GET")
    pulling = client.start(*client.pull_words(reference))
    fault.wait()
    pulling.kill()
    assert client.visible() == set()
    recovers(client, packed, proxy, reference)


def test_a_push_that_is_killed_in_the_middle_of_a_blob_sends_no_whole_one_again(
    client: Client, packed: Packed, proxy: FaultyProxy, registry: Registry
) -> None:
    client.orders["modelbake.oci.upload.PART"] = 500_000
    reference = f"{proxy.host}/models/random:1"
    fault = proxy.faults.add(
        "/v2/*/blobs/uploads/*", kind="hold-upload", method="PATCH", after=100_000, skip=8, **ALWAYS
    )
    pushing = client.start(*client.push_words(reference))
    fault.wait()
    pushing.kill()
    proxy.faults.clear()
    there = sum(registry.blobs().values())
    proxy.forget()
    client.push(reference).succeeded()
    is_whole(packed, registry)
    assert proxy.pushed() <= total(packed) - there + OVERHEAD


@pytest.mark.parametrize("skip", [2, 5, 9, 13])
def test_a_push_that_is_killed_between_two_parts_goes_on_with_the_next(
    client: Client, packed: Packed, proxy: FaultyProxy, registry: Registry, skip: int
) -> None:
    """docker-registry forgets an upload whose connection ends in the middle of a part, and knows of any other."""
    client.orders |= {"modelbake.oci.upload.PART": 500_000, "pause": PATIENCE}
    reference = f"{proxy.host}/models/random:1"
    fault = proxy.faults.add("/v2/*/blobs/uploads/*", kind="status", method="PATCH", skip=skip, **ALWAYS)
    pushing = client.start(*client.push_words(reference))
    quiet = 0

    def all_wait() -> bool:
        """Whether all that are under way wait to try again: nothing was asked for a while, and every answer was given."""
        nonlocal quiet, asked
        calm = fault.hits > 0 and asked == len(proxy.requests) and all(one.status for one in list(proxy.requests))
        quiet, asked = quiet + 1 if calm else 0, len(proxy.requests)
        return quiet > 100

    asked = 0
    pushing.wait_until(all_wait)
    pushing.kill()
    proxy.faults.clear()
    client.orders["pause"] = 0.01
    client.push(reference).succeeded()
    is_whole(packed, registry)
    assert proxy.pushed() <= total(packed) + OVERHEAD


# ---- tokens ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("skip", [1, 3, 6, 9])
def test_a_token_that_runs_out_in_the_middle(client: Client, packed: Packed, tmp_path: Path, skip: int) -> None:
    with (
        TokenServer(tmp_path / "keys") as server,
        Registry(tmp_path / "closed", tokens=(server.realm, server.pair)) as closed,
        FaultyProxy(closed.port) as proxy,
    ):
        reference = f"{proxy.host}/models/random:1"
        docker_config(client, {"auths": {proxy.host: {"auth": basic(PASSWORD)}}})
        faults = [proxy.faults.add(kind="expire", skip=skip), proxy.faults.add(kind="expire", skip=skip + 7)]
        client.push(reference).succeeded()
        is_whole(packed, closed)
        faults.append(proxy.faults.add(kind="expire", skip=min(skip, 4)))
        client.pull(reference).succeeded()
        client.holds(packed.entry)
        assert all(fault.hits for fault in faults)
        assert {one.user for one in server.asked} == {USER}


def test_a_registry_that_takes_no_token_at_all_is_given_up(client: Client, packed: Packed, tmp_path: Path) -> None:
    with (
        TokenServer(tmp_path / "keys") as server,
        Registry(tmp_path / "closed", tokens=(server.realm, server.pair)) as closed,
        FaultyProxy(closed.port) as proxy,
    ):
        docker_config(client, {"auths": {proxy.host: {"auth": basic(PASSWORD)}}})
        proxy.faults.add(kind="expire", **ALWAYS)
        client.push(f"{proxy.host}/models/random:1").failed(4)
        assert len(server.asked) < 40


# ---- two at once -----------------------------------------------------------------------------------------------------


def test_two_pulls_into_one_folder_at_once(client: Client, packed: Packed, proxy: FaultyProxy, reference: str) -> None:
    fault = proxy.faults.add(on_blob(packed), kind="hold", after=MIDDLE, method="GET")
    first = client.start(*client.pull_words(reference))
    fault.wait()
    second = client.start(*client.pull_words(reference))
    # The second has come as far as it can without the first.
    second.wait_until(lambda: len(proxy.select("/v2/*/manifests/*", method="GET")) >= 2)
    fault.release()
    for running in (first, second):
        running.wait().succeeded()
    client.holds(packed.entry)
    assert proxy.pulled() <= total(packed) + 2 * OVERHEAD


def test_two_pulls_into_one_store_at_once(client: Client, packed: Packed, proxy: FaultyProxy, reference: str) -> None:
    fault = proxy.faults.add(on_blob(packed), kind="hold", after=MIDDLE, method="GET")
    first = client.start("copy", reference, "store:first")
    fault.wait()
    second = client.start("copy", reference, "store:second")
    second.wait_until(lambda: len(proxy.select("/v2/*/manifests/*", method="GET")) >= 2)
    fault.release()
    for running in (first, second):
        running.wait().succeeded()
    assert proxy.pulled() <= total(packed) + OVERHEAD
    for name in ("first", "second"):
        client.pull(f"store:{name}").succeeded()
        client.holds(packed.entry)


def test_two_pushes_at_once(client: Client, packed: Packed, proxy: FaultyProxy, registry: Registry) -> None:
    references = [f"{proxy.host}/models/random:{tag}" for tag in ("1", "2")]
    fault = proxy.faults.add("/v2/*/blobs/uploads/*", kind="hold-upload", method="PATCH", after=100_000)
    first = client.start(*client.push_words(references[0]))
    fault.wait()
    second = client.start(*client.push_words(references[1]))
    second.wait_until(lambda: len(proxy.select("/v2/*/blobs/uploads/", method="POST")) >= 5)
    fault.release()
    for running in (first, second):
        running.wait().succeeded()
    is_whole(packed, registry)
    for reference in references:
        client.pull(reference).succeeded()
        client.holds(packed.entry)


# ---- gc beside -------------------------------------------------------------------------------------------------------


def test_gc_beside_a_copy_into_the_store_takes_nothing_that_is_being_added(
    client: Client, packed: Packed, proxy: FaultyProxy, reference: str
) -> None:
    beside_gc(client, packed, proxy.faults.add(on_blob(packed), kind="hold", after=MIDDLE, method="GET"),
              lambda: client.start("copy", reference, "store:random"))  # fmt: skip
    client.pull("store:random").succeeded()
    client.holds(packed.entry)


def test_gc_beside_a_push_out_of_the_store(
    client: Client, packed: Packed, proxy: FaultyProxy, registry: Registry
) -> None:
    client.push(f"{registry.host}/models/random:1").succeeded()
    client.run("copy", f"{registry.host}/models/random:1", "store:random").succeeded()
    target = f"{proxy.host}/other/random:1"
    # Nothing is known to be mountable there.
    proxy.faults.add("/v2/other/random/blobs/uploads/", kind="status", status=202, method="POST", times=0)
    fault = proxy.faults.add("/v2/*/blobs/uploads/*", kind="hold-upload", method="PATCH", after=100_000)
    (client.folder / "cache" / "registries.sqlite").unlink(missing_ok=True)
    beside_gc(client, packed, fault, lambda: client.start("copy", "store:random", target))
    client.pull(target).succeeded()
    client.holds(packed.entry)


def beside_gc(client: Client, packed: Packed, fault: Fault, start: Callable[[], Running]) -> None:
    """While what `start` starts is held by the fault, gc runs; then both end well."""
    running = start()
    fault.wait()
    collecting = client.start("gc")
    # It either waits or is through by now; both are good if nothing is lost.
    with suppress(subprocess.TimeoutExpired):
        collecting.process.wait(1.0)
    fault.release()
    running.wait().succeeded()
    collecting.wait().succeeded()


# ---- a full disk -----------------------------------------------------------------------------------------------------

needs_mounts = pytest.mark.skipif(not can_mount(), reason="this process may not mount")


@needs_mounts
@pytest.mark.parametrize("size", [1 << 14, 1 << 20, 3 << 20, 5 << 20, 7 << 20])
def test_a_full_disk_under_a_pull(
    client: Client, packed: Packed, proxy: FaultyProxy, reference: str, size: int
) -> None:
    with small_disk(client.to, size) as disk:
        client.pull(reference).failed(7, "The disk that holds", "is full. Make room, then run this again.")
        assert client.visible() == set()
        disk.resize(64 << 20)
        recovers(client, packed, proxy, reference)


@needs_mounts
@pytest.mark.parametrize("size", [1 << 14, 1 << 20, 5 << 20, 7 << 20])
def test_a_full_disk_under_the_store(
    client: Client, packed: Packed, proxy: FaultyProxy, reference: str, size: int
) -> None:
    with small_disk(client.store, size) as disk:
        client.run("copy", reference, "store:random").failed(7, "The disk that holds", "is full")
        client.pull("store:random").failed(3)
        disk.resize(64 << 20)
        there = sum(path.stat().st_size for path in client.store.rglob("*") if path.is_file())
        proxy.forget()
        client.run("copy", reference, "store:random").succeeded()
        assert proxy.pulled() <= total(packed) - there + OVERHEAD
        client.pull("store:random").succeeded()
        client.holds(packed.entry)


@needs_mounts
def test_a_full_disk_under_the_registry(client: Client, packed: Packed, tmp_path: Path) -> None:
    folder = tmp_path / "small"
    with small_disk(folder, 4 << 20) as disk, Registry(folder) as registry:
        client.push(f"{registry.host}/models/random:1").failed(4, registry.host)
        client.pull(f"{registry.host}/models/random:1").failed(3, registry.host)
        disk.resize(64 << 20)
        # In the repository that was full docker-registry has empty links by now, of which it says 500 itself.
        reference = f"{registry.host}/other/random:1"
        client.push(reference).succeeded()
        is_whole(packed, registry)
        client.pull(reference).succeeded()
        client.holds(packed.entry)
