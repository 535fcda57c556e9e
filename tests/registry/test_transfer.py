"""push, pull and copy against a real registry: what comes out is what went in, and only what is missing moves."""

from __future__ import annotations

import base64
import json
import os
import shutil
from pathlib import Path

import pytest

from modelbake import manifest
from modelbake.oci.pack import Packed
from tests.faults.project import Done
from tests.registry.client import Client, layer_of, total
from tests.registry.fixture import client as client
from tests.registry.fixture import proxy as proxy
from tests.registry.fixture import registry as registry
from tests.registry.keys import make_pair
from tests.registry.proxy import FaultyProxy
from tests.registry.raw import Repository
from tests.registry.server import PASSWORD, USER, Registry
from tests.registry.tokens import TokenServer

# Beside the blobs themselves: the first bytes of each layer, by which modelbake knows whose file it is.
OVERHEAD = 64_000


@pytest.fixture
def packed(client: Client) -> Packed:
    return client.bundle(sizes=(3_000_000, 1_000_000, 2_000_000, 1_500_000))


def test_what_is_pushed_is_in_the_registry_byte_for_byte_and_can_be_pulled(
    client: Client, packed: Packed, registry: Registry
) -> None:
    client.push(f"{registry.host}/models/random:1").succeeded()
    blobs = registry.blobs()
    for blob in (*packed.layers, *packed.documents):
        assert blobs.pop(blob.descriptor.digest) == blob.descriptor.size
        assert registry.blob_file(blob.descriptor.digest).read_bytes() == b"".join(blob.chunks())
    assert blobs == {}
    assert registry.uploads() == []
    tagged = Repository(registry.url, "models/random").manifest("1")
    assert tagged.headers["Docker-Content-Digest"] == packed.image.digest
    client.pull(f"{registry.host}/models/random:1").succeeded()
    client.holds(packed.entry)
    client.pull(f"{registry.host}/models/random@{packed.image.digest}").succeeded()


def test_a_repeated_push_sends_nothing(client: Client, packed: Packed, proxy: FaultyProxy) -> None:
    client.push(f"{proxy.host}/models/random:1").succeeded()
    assert total(packed) <= proxy.pushed() <= total(packed) + OVERHEAD
    proxy.forget()
    client.push(f"{proxy.host}/models/random:1").succeeded()
    assert proxy.pushed() == 0
    # Another machine, which remembers nothing, finds it there too.
    shutil.rmtree(client.folder / "cache")
    client.push(f"{proxy.host}/models/random:2").succeeded()
    assert proxy.pushed() == 0


def test_a_changed_file_is_all_that_is_sent_and_all_that_is_fetched(
    client: Client, packed: Packed, proxy: FaultyProxy
) -> None:
    client.push(f"{proxy.host}/models/random:1").succeeded()
    client.pull(f"{proxy.host}/models/random:1").succeeded()
    proxy.forget()
    changed = client.bundle(sizes=(3_000_000, 1_000_000, 2_000_000, 1_500_000), changed=1)
    client.push(f"{proxy.host}/models/random:1").succeeded()
    assert 1_000_000 <= proxy.pushed() <= 1_000_000 + OVERHEAD
    client.pull(f"{proxy.host}/models/random:1").succeeded()
    assert 1_000_000 <= proxy.pulled() <= 1_000_000 + OVERHEAD
    client.holds(changed.entry)


def test_a_repeated_pull_fetches_no_blob_and_finds_a_changed_file(
    client: Client, packed: Packed, proxy: FaultyProxy
) -> None:
    client.push(f"{proxy.host}/models/random:1").succeeded()
    client.pull(f"{proxy.host}/models/random:1").succeeded()
    proxy.forget()
    client.pull(f"{proxy.host}/models/random:1").succeeded()
    assert proxy.pulled() <= OVERHEAD
    ref = packed.entry.files[1]
    damaged = bytearray((client.to / ref.path).read_bytes())
    damaged[ref.size // 2] ^= 1
    (client.to / ref.path).write_bytes(damaged)
    proxy.forget()
    client.pull(f"{proxy.host}/models/random:1").succeeded()
    assert ref.size <= proxy.pulled() <= ref.size + OVERHEAD
    client.holds(packed.entry)
    (client.to / ref.path).unlink()
    client.pull(f"{proxy.host}/models/random:1").succeeded()
    client.holds(packed.entry)


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--precision", "int8"), ("text_encoder.int8", "image_encoder.int8")),
        (("--role", "text_encoder"), ("text_encoder.fp32", "text_encoder.int8")),
        (("--format", "onnx", "--precision", "fp32", "--role", "image_encoder"), ("image_encoder.fp32",)),
    ],
)
def test_a_selective_pull_moves_only_those_blobs(
    client: Client, packed: Packed, proxy: FaultyProxy, words: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    client.push(f"{proxy.host}/models/random:1").succeeded()
    proxy.forget()
    client.pull(f"{proxy.host}/models/random:1", *words).succeeded()
    wanted = {layer_of(packed, part) for part in parts}
    sizes = {blob.descriptor.digest: blob.descriptor.size for blob in packed.layers}
    assert proxy.pulled() <= sum(sizes[digest] for digest in wanted) + OVERHEAD
    for digest in wanted:
        assert proxy.pulled(digest) >= sizes[digest]
    (entry,) = manifest.read(client.to).bundles
    assert {artifact.path for artifact in entry.artifacts} == {
        artifact.path for artifact in packed.entry.artifacts if any(part in artifact.path for part in parts)
    }
    client.is_sound(packed.entry)
    proxy.forget()
    client.pull(f"{proxy.host}/models/random:1").succeeded()
    client.holds(packed.entry)
    assert proxy.pulled() <= total(packed) - sum(sizes[digest] for digest in wanted) + OVERHEAD


def test_no_such_artifact_tag_or_repository_exits_3(client: Client, packed: Packed, registry: Registry) -> None:
    client.push(f"{registry.host}/models/random:1").succeeded()
    client.pull(f"{registry.host}/models/random:1", "--precision", "fp16").failed(3, "has no such artifact")
    client.pull(f"{registry.host}/models/random:2").failed(3, "models/random", "2")
    client.pull(f"{registry.host}/models/other:1").failed(3, "models/other")
    client.push(f"{registry.host}/models/random:1", "other").failed(3, "other")
    assert not client.to.exists() or client.visible() == set()


def test_no_registry_exits_4(client: Client, packed: Packed, registry: Registry) -> None:
    registry.stop()
    client.push(f"{registry.host}/models/random:1").failed(4, registry.host)
    client.pull(f"{registry.host}/models/random:1").failed(4, registry.host)


def test_another_repository_of_the_registry_has_the_blobs_mounted(
    client: Client, packed: Packed, proxy: FaultyProxy
) -> None:
    client.push(f"{proxy.host}/models/random:1").succeeded()
    proxy.forget()
    client.push(f"{proxy.host}/team/random:1").succeeded()
    assert proxy.pushed() <= OVERHEAD
    proxy.forget()
    client.run("copy", f"{proxy.host}/models/random:1", f"{proxy.host}/third/random:1").succeeded()
    assert proxy.pushed() <= OVERHEAD
    assert proxy.pulled() <= OVERHEAD
    for name in ("team", "third"):
        shutil.rmtree(client.to, ignore_errors=True)
        client.pull(f"{proxy.host}/{name}/random:1").succeeded()
        client.holds(packed.entry)


def test_copies_between_registries_and_the_store(
    client: Client, packed: Packed, registry: Registry, tmp_path: Path
) -> None:
    with Registry(tmp_path / "other") as other:
        client.push(f"{registry.host}/models/random:1").succeeded()
        client.run("copy", f"{registry.host}/models/random:1", f"{other.host}/models/random:1").succeeded()
        client.run("copy", f"{registry.host}/models/random:1", "store:random").succeeded()
        registry.stop()
        client.run("copy", "store:random", f"{other.host}/again/random:1").succeeded()
        for reference in (f"{other.host}/models/random:1", f"{other.host}/again/random:1", "store:random"):
            shutil.rmtree(client.to, ignore_errors=True)
            client.pull(reference).succeeded()
            client.holds(packed.entry)
        for name in ("models", "again"):
            digest = Repository(other.url, f"{name}/random").manifest("1").headers["Docker-Content-Digest"]
            assert digest == packed.image.digest


# ---- who asks --------------------------------------------------------------------------------------------------------


def docker_config(client: Client, config: dict[str, object]) -> None:
    folder = client.folder / "docker"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    client.more["DOCKER_CONFIG"] = str(folder)


def keeps_the_password(done: Done) -> None:
    for text in (done.out, done.err):
        assert PASSWORD not in text
        assert base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode() not in text


def basic(password: str) -> str:
    return base64.b64encode(f"{USER}:{password}".encode()).decode()


def helper(client: Client, password: str) -> None:
    """A credential helper, as docker calls them, on PATH."""
    program = client.folder / "bin/docker-credential-tests"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{json.dumps({'Username': USER, 'Secret': password})}'\n")
    program.chmod(0o755)
    client.more["PATH"] = f"{program.parent}{os.pathsep}{os.environ['PATH']}"


@pytest.mark.parametrize("kind", ["password", "tokens"])
@pytest.mark.parametrize("where", ["auths", "credHelpers", "credsStore"])
def test_names_and_passwords_of_docker_s_configuration(
    client: Client, packed: Packed, tmp_path: Path, kind: str, where: str
) -> None:
    with TokenServer(tmp_path / "keys") as server:
        tokens = (server.realm, server.pair) if kind == "tokens" else None
        with Registry(tmp_path / "registry", htpasswd=kind == "password", tokens=tokens) as registry:
            reference = f"{registry.host}/models/random:1"
            refused = client.push(reference).failed(4)
            assert "login" in refused.err or "credential" in refused.err, refused.err
            if where == "auths":
                docker_config(client, {"auths": {registry.host: {"auth": basic(PASSWORD)}}})
            else:
                helper(client, PASSWORD)
                docker_config(client, {where: {registry.host: "tests"} if where == "credHelpers" else "tests"})
            keeps_the_password(client.run(*client.push_words(reference), "--verbose").succeeded())
            client.pull(reference).succeeded()
            client.holds(packed.entry)


@pytest.mark.parametrize("kind", ["password", "tokens"])
def test_a_wrong_password_exits_4_and_is_not_shown(client: Client, packed: Packed, tmp_path: Path, kind: str) -> None:
    with TokenServer(tmp_path / "keys") as server:
        tokens = (server.realm, server.pair) if kind == "tokens" else None
        with Registry(tmp_path / "registry", htpasswd=kind == "password", tokens=tokens) as registry:
            docker_config(client, {"auths": {registry.host: {"auth": basic("a wrong word")}}})
            done = client.push(f"{registry.host}/models/random:1").failed(4, registry.host)
            assert "a wrong word" not in done.err
            assert basic("a wrong word") not in done.err
            assert registry.blobs() == {}


@pytest.mark.parametrize("expires_in", [True, False])
@pytest.mark.parametrize("name", ["token", "access_token"])
def test_who_says_nothing_may_pull_with_a_token(
    client: Client, packed: Packed, tmp_path: Path, name: str, expires_in: bool
) -> None:
    with (
        TokenServer(tmp_path / "keys", name=name, expires_in=expires_in) as server,
        Registry(tmp_path / "registry", tokens=(server.realm, server.pair)) as registry,
    ):
        reference = f"{registry.host}/models/random:1"
        docker_config(client, {"auths": {registry.host: {"auth": basic(PASSWORD)}}})
        client.push(reference).succeeded()
        # A token is good for many requests.
        assert len(server.asked) <= 4
        del client.more["DOCKER_CONFIG"]
        server.asked.clear()
        client.pull(reference).succeeded()
        client.holds(packed.entry)
        assert {one.user for one in server.asked} == {None}
        assert len(server.asked) <= 2


def test_tls(client: Client, packed: Packed, tmp_path: Path) -> None:
    pair = make_pair(tmp_path / "keys", "registry")
    with Registry(tmp_path / "registry", tls=pair) as registry:
        reference = f"{registry.host}/models/random:1"
        client.push(reference).failed(4, "certificate")
        client.more["SSL_CERT_FILE"] = str(pair.certificate)
        client.push(reference).succeeded()
        client.pull(reference).succeeded()
        client.holds(packed.entry)
