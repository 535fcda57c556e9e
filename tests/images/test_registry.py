"""Bake and registry meet: the model layers of baked images are the very blobs that `modelbake pack` and `push` make."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelbake import manifest
from modelbake.digests import Digests
from modelbake.manifest import MANIFEST_NAME
from modelbake.oci.pack import PATH, Packed, pack
from tests.images.conftest import BUNDLES
from tests.images.engine import docker, image, must
from tests.images.oci import Archive
from tests.registry.server import Registry

SMALL = "minilm-l6-v2"


def models_of(name: str, to: Path) -> Path:
    """The models folder out of an image."""
    to.mkdir()
    container = must("create", "--network=none", image(name), "unused")
    try:
        must("cp", f"{container}:/models/.", str(to))
    finally:
        must("rm", container)
    return to


@pytest.fixture(scope="module")
def models(folder: Path) -> Path:
    """The small bundle's models folder."""
    return models_of(f"bundle-{SMALL}", folder / "models-of-bundle")


@pytest.fixture(scope="module")
def packed(models: Path, folder: Path) -> Packed:
    return pack(models, manifest.read(models).bundle(SMALL), Digests(folder / "digests"))


def layers(packed: Packed) -> dict[str, str]:
    """Digest by path."""
    return {(one.descriptor.annotations or {})[PATH]: one.descriptor.digest for one in packed.layers}


def test_the_layers_of_a_baked_bundle_are_those_that_pack_makes(archives: dict[str, Archive], packed: Packed) -> None:
    """All of them in their order, the manifest's too."""
    assert archives[f"bundle-{SMALL}"].layers == [one.descriptor.digest for one in packed.layers]


def test_the_blobs_are_equal_byte_for_byte(archives: dict[str, Archive], packed: Packed) -> None:
    for blob in packed.layers:
        assert archives[f"bundle-{SMALL}"].blob(blob.descriptor.digest) == b"".join(blob.chunks())


def test_the_layers_of_search_are_those_of_the_packed_bundles(archives: dict[str, Archive], folder: Path) -> None:
    whole = models_of("search", folder / "models-of-search")
    read = manifest.read(whole)
    assert tuple(sorted(entry.name for entry in read.bundles)) == BUNDLES

    for entry in read.bundles:
        found = layers(pack(whole, entry, Digests(folder / "digests")))
        assert archives[f"bundle-{entry.name}"].layers == list(found.values()), entry.name
        del found[MANIFEST_NAME]
        assert set(found.values()) <= set(archives["search"].layers), entry.name


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry(tmp_path) as found:
        yield found


def push(models: Path, reference: str, tmp_path: Path) -> dict[str, object]:
    """`modelbake push`, as a machine that remembers nothing; what it reports."""
    modelbake = str(Path(sys.executable).with_name("modelbake"))
    done = subprocess.run(
        [modelbake, "push", SMALL, reference, "--models-dir", str(models), "--json"],
        env={**os.environ, "HOME": str(tmp_path), "MODELBAKE_CACHE": str(tmp_path / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.fixture
def baked(registry: Registry) -> Iterator[str]:
    """The baked bundle under a name in the registry, not pushed yet."""
    name = f"{registry.host}/models/minilm:baked"
    must("tag", image(f"bundle-{SMALL}"), name)
    yield name
    docker("image", "rm", name)


def test_the_registry_holds_every_model_blob_of_a_baked_image_from_push(
    registry: Registry, models: Path, packed: Packed, baked: str, tmp_path: Path
) -> None:
    push(models, f"{registry.host}/models/minilm:1", tmp_path)
    before, requests = registry.blobs(), len(registry.log)

    must("push", baked)

    new = {digest: size for digest, size in registry.blobs().items() if digest not in before}
    config, document = inspected(registry, baked)
    assert set(new) == {config, document}
    assert sum(new.values()) < 20_000
    # Nothing but the config was even sent.
    sent = [one for one in registry.log[requests:] if one.method == "PUT" and "/blobs/uploads/" in one.path]
    assert [one.query for one in sent if config.partition(":")[2] not in one.query] == []
    assert {one.descriptor.digest for one in packed.layers} <= set(before)


def test_push_sends_no_model_blob_that_a_baked_image_brought(
    registry: Registry, models: Path, packed: Packed, baked: str, tmp_path: Path
) -> None:
    must("push", baked)
    before = registry.blobs()
    assert {one.descriptor.digest for one in packed.layers} <= set(before)

    result = push(models, f"{registry.host}/models/minilm:1", tmp_path)

    assert result["digest"] == packed.image.digest
    new = set(registry.blobs()) - set(before)
    assert new == {one.descriptor.digest for one in packed.documents} - set(before)
    assert result["sent"] == sum(one.descriptor.size for one in packed.documents if one.descriptor.digest in new)


def inspected(registry: Registry, name: str) -> tuple[str, str]:
    """The digests of a pushed image's config and of its manifest."""
    digests = json.loads(must("image", "inspect", "--format", "{{json .RepoDigests}}", name))
    (document,) = {one.partition("@")[2] for one in digests if one.startswith(registry.host)}
    found = json.loads(registry.blob_file(document).read_bytes())
    return found["config"]["digest"], document
