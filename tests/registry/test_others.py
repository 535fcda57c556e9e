"""oras and skopeo read what modelbake pushed and what it keeps, and modelbake reads what they copied."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest

from modelbake.oci.pack import MODELPACK_MANIFEST, Packed
from tests.registry.client import Client
from tests.registry.fixture import client as client
from tests.registry.fixture import registry as registry
from tests.registry.server import Registry
from tests.registry.tools import tool


def run(name: str, *words: str | Path) -> str:
    done = subprocess.run([tool(name), *map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def packed(client: Client) -> Packed:
    return client.bundle(sizes=(300_000, 100_000, 200_000))


@pytest.fixture
def pushed(client: Client, packed: Packed, registry: Registry) -> str:
    name = f"{registry.host}/models/random"
    client.push(f"{name}:1").succeeded()
    return name


def digests(layout: Path) -> set[str]:
    return {f"sha256:{path.name}" for path in (layout / "blobs" / "sha256").iterdir()}


def test_oras_pulls_each_layer_under_its_file_s_name(pushed: str, packed: Packed, tmp_path: Path) -> None:
    run("oras", "pull", "--plain-http", f"{pushed}:1", "-o", tmp_path / "out")
    for blob in packed.layers:
        title = (blob.descriptor.annotations or {})["org.opencontainers.image.title"]
        data = (tmp_path / "out" / title).read_bytes()
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == blob.descriptor.digest


def test_oras_copies_both_manifests_with_their_digests(pushed: str, packed: Packed, tmp_path: Path) -> None:
    for tag, descriptor in (("1", packed.image), ("1-modelpack", packed.modelpack)):
        layout = tmp_path / tag
        run("oras", "cp", "--from-plain-http", f"{pushed}:{tag}", "--to-oci-layout", f"{layout}:{tag}")
        assert descriptor.digest in digests(layout)
        assert {blob.descriptor.digest for blob in packed.layers} <= digests(layout)
    shown = json.loads(run("oras", "manifest", "fetch", "--plain-http", f"{pushed}:1-modelpack"))
    assert shown["artifactType"] == MODELPACK_MANIFEST


def test_skopeo_copies_it_with_its_digests(pushed: str, packed: Packed, tmp_path: Path) -> None:
    copied = tmp_path / "skopeo"
    source = f"docker://{pushed}:1"
    run("skopeo", "copy", "--preserve-digests", "--src-tls-verify=false", source, f"oci:{copied}:one")
    (found,) = json.loads((copied / "index.json").read_text())["manifests"]
    assert found["digest"] == packed.image.digest
    shown = json.loads(run("skopeo", "inspect", "--tls-verify=false", source))
    assert shown["Digest"] == packed.image.digest
    assert shown["Layers"] == [blob.descriptor.digest for blob in packed.layers]
    assert shown["Labels"]["io.modelbake.bundles"] == packed.entry.name


def test_what_skopeo_copied_to_another_repository_is_pulled(
    client: Client, pushed: str, packed: Packed, registry: Registry
) -> None:
    there = f"{registry.host}/elsewhere/random:2"
    flags = ["--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"]
    run("skopeo", "copy", *flags, f"docker://{pushed}:1", f"docker://{there}")
    client.pull(there).succeeded()
    client.holds(packed.entry)


def test_the_store_is_a_layout_that_oras_and_skopeo_read(client: Client, packed: Packed, tmp_path: Path) -> None:
    client.run("pack", packed.entry.name, "--tag", "random").succeeded()
    store = client.folder / "store"
    shown = json.loads(run("oras", "manifest", "fetch", "--oci-layout", f"{store}:random", "--descriptor"))
    assert shown["digest"] == packed.image.digest
    run("skopeo", "copy", "--preserve-digests", f"oci:{store}:random", f"oci:{tmp_path / 'copy'}:random")
    assert {blob.descriptor.digest for blob in packed.layers} <= digests(tmp_path / "copy")
