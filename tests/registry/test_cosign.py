"""cosign 2.5 and modelbake read each other's signatures and keys, and oras finds what modelbake attached, over docker-registry.

The documents go between the store and the registry by oras, so that nothing of modelbake's own client is in the way.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from modelbake.errors import RefusedError
from modelbake.oci import keys, referrers, sign
from modelbake.oci.blob import of_bytes
from modelbake.oci.model import Descriptor, descriptor_of
from modelbake.oci.sign import signature_name
from tests.registry.fixture import registry as registry
from tests.registry.server import Registry
from tests.registry.tools import tool
from tests.unit.oci.trust import PASSWORD, store_with

BOM = "application/vnd.cyclonedx+json"


class Lab:
    """A store, a registry, and both their clients."""

    def __init__(self, folder: Path, registry: Registry) -> None:
        self.folder = folder
        self.store, [self.subject] = store_with(folder / "store", "model")
        self.repository = f"{registry.host}/models/model"
        self.tag = f"{self.repository}:1"
        self.push("model", "1")

    @property
    def pinned(self) -> str:
        return f"{self.repository}@{self.subject.digest}"

    def run(self, name: str, *arguments: str, password: str = PASSWORD) -> subprocess.CompletedProcess[str]:
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.folder), "COSIGN_PASSWORD": password}
        return subprocess.run(
            [tool(name), *arguments], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def done(self, name: str, *arguments: str) -> str:
        found = self.run(name, *arguments)
        assert found.returncode == 0, found.stderr
        return found.stdout

    def push(self, name: str, tag: str) -> None:
        """A document of the store into the registry."""
        self.done(
            "oras",
            "cp",
            "--from-oci-layout",
            f"{self.store.folder}:{name}",
            "--to-plain-http",
            f"{self.repository}:{tag}",
        )

    def pull(self, tag: str) -> None:
        """A document of the registry into the store."""
        self.done(
            "oras",
            "cp",
            "--from-plain-http",
            f"{self.repository}:{tag}",
            "--to-oci-layout",
            f"{self.store.folder}:{tag}",
        )

    def sign(self, key: keys.PrivateKey, annotations: dict[str, str] | None = None) -> None:
        """modelbake signs in the store, and the signatures go to the registry."""
        sign.sign(self.store, self.subject, self.repository, key, annotations)
        self.push(signature_name(self.subject.digest), signature_name(self.subject.digest))

    def cosign_signs(self, key: str, *more: str) -> None:
        """cosign signs in the registry, and the signatures come into the store."""
        self.done("cosign", "sign", "--yes", "--tlog-upload=false", "--key", key, *more, self.pinned)
        self.pull(signature_name(self.subject.digest))

    def cosign_verifies(self, key: Path, *more: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = json.loads(
            self.done("cosign", "verify", "--insecure-ignore-tlog=true", "--key", str(key), *more, self.tag)
        )
        return found

    def cosign_refuses(self, key: Path) -> None:
        found = self.run("cosign", "verify", "--insecure-ignore-tlog=true", "--key", str(key), self.tag)
        assert found.returncode != 0

    def pair(self, name: str, secret: Any = None) -> tuple[keys.PrivateKey, Path]:
        """A pair of ours, in files."""
        secret = secret or keys.generate()
        private = self.folder / f"{name}.key"
        private.write_bytes(keys.encrypted(secret, PASSWORD))
        public = self.folder / f"{name}.pub"
        found = keys.read_private(private, lambda: PASSWORD)
        public.write_bytes(found.public.pem())
        return found, public

    def cosign_pair(self, name: str) -> tuple[Path, keys.PublicKey]:
        self.done("cosign", "generate-key-pair", "--output-key-prefix", name)
        return self.folder / f"{name}.key", keys.read_public(self.folder / f"{name}.pub")


@pytest.fixture
def lab(tmp_path: Path, registry: Registry) -> Lab:
    tool("cosign"), tool("oras")
    return Lab(tmp_path, registry)


def test_cosign_verifies_what_modelbake_signed(lab: Lab) -> None:
    key, public = lab.pair("release")
    lab.sign(key, {"stage": "tested"})
    [found] = lab.cosign_verifies(public)
    assert found["critical"]["image"]["docker-manifest-digest"] == lab.subject.digest
    assert found["critical"]["identity"]["docker-reference"] == lab.repository
    assert found["optional"] == {"stage": "tested"}
    assert lab.cosign_verifies(public, "-a", "stage=tested")


def test_cosign_refuses_what_another_key_of_modelbake_signed(lab: Lab) -> None:
    key, _ = lab.pair("release")
    _, other = lab.pair("other")
    lab.sign(key)
    lab.cosign_refuses(other)


def test_modelbake_verifies_what_cosign_signed(lab: Lab) -> None:
    _, public = lab.cosign_pair("theirs")
    lab.cosign_signs("theirs.key", "-a", "stage=tested")
    [found] = sign.verify(lab.store, lab.subject, [public])
    assert (found.identity, found.annotations) == (lab.repository, {"stage": "tested"})
    _, other = lab.pair("other")
    with pytest.raises(RefusedError, match="another key"):
        sign.verify(lab.store, lab.subject, [keys.read_public(other)])


def test_both_sign_one_digest_and_both_verify_both(lab: Lab) -> None:
    ours, our_public = lab.pair("ours")
    _, their_public = lab.cosign_pair("theirs")
    lab.sign(ours)
    lab.cosign_signs("theirs.key")
    again, again_public = lab.pair("again")
    lab.sign(again)
    everybody = [keys.read_public(our_public), their_public, keys.read_public(again_public)]
    assert len(sign.verify(lab.store, lab.subject, everybody)) == 3
    for path in (our_public, lab.folder / "theirs.pub", again_public):
        assert lab.cosign_verifies(path)


def test_cosign_signs_with_a_key_that_modelbake_made(lab: Lab) -> None:
    private, public = keys.write_pair(lab.folder / "made", PASSWORD)
    lab.cosign_signs(str(private))
    sign.verify(lab.store, lab.subject, [keys.read_public(public)])
    assert lab.done("cosign", "public-key", "--key", str(private)) == public.read_text()
    assert lab.run("cosign", "public-key", "--key", str(private), password="wrong").returncode != 0


def test_modelbake_signs_with_a_key_that_cosign_made(lab: Lab) -> None:
    private, public = lab.cosign_pair("theirs")
    key = keys.read_private(private, lambda: PASSWORD)
    assert key.public.fingerprint == public.fingerprint
    lab.sign(key)
    assert lab.cosign_verifies(lab.folder / "theirs.pub")
    with pytest.raises(RefusedError, match="COSIGN_PASSWORD"):
        keys.read_private(private, lambda: "wrong")


@pytest.mark.parametrize("kind", ["RSA", "Ed25519"])
def test_other_kinds_of_keys_go_both_ways(lab: Lab, kind: str) -> None:
    secret = rsa.generate_private_key(65537, 2048) if kind == "RSA" else ed25519.Ed25519PrivateKey.generate()
    key, public = lab.pair("key", secret)
    lab.sign(key)
    assert lab.cosign_verifies(public)
    second, second_public = lab.pair("second", rsa.generate_private_key(65537, 3072) if kind == "RSA" else None)
    del second
    lab.cosign_signs("second.key")
    assert len(sign.verify(lab.store, lab.subject, [keys.read_public(path) for path in (public, second_public)])) == 2


def test_cosign_and_modelbake_refuse_a_signature_that_was_moved(lab: Lab) -> None:
    key, public = lab.pair("release")
    _, [other] = store_with(lab.store.folder, "other")
    moved = sign.sign(lab.store, other, lab.repository, key)
    with lab.store.adding():
        lab.store.tag(signature_name(lab.subject.digest), moved)
    lab.push(signature_name(lab.subject.digest), signature_name(lab.subject.digest))
    lab.cosign_refuses(public)
    with pytest.raises(RefusedError, match="for another digest"):
        sign.verify(lab.store, lab.subject, [key.public])


def test_oras_finds_what_modelbake_attached(lab: Lab) -> None:
    data = b'{"bomFormat":"CycloneDX"}'
    title = {"org.opencontainers.image.title": "model.cdx.json"}
    made = referrers.attach(lab.store, lab.subject, of_bytes(data, descriptor_of(data, BOM, annotations=title)), BOM)
    lab.push(referrers.referrers_name(lab.subject.digest), referrers.referrers_name(lab.subject.digest))
    found = json.loads(lab.done("oras", "discover", "--plain-http", "--format", "json", lab.tag))
    [one] = found["manifests"]
    assert (one["digest"], one["artifactType"]) == (made.digest, BOM)
    lab.done("oras", "pull", "--plain-http", "--output", str(lab.folder / "out"), f"{lab.repository}@{made.digest}")
    assert (lab.folder / "out" / "model.cdx.json").read_bytes() == data


def test_modelbake_finds_what_oras_attached(lab: Lab) -> None:
    (lab.folder / "model.json").write_text("{}")
    name = referrers.referrers_name(lab.subject.digest)
    lab.done("oras", "attach", "--plain-http", "--artifact-type", BOM, lab.pinned, "model.json")
    lab.pull(name)
    [found] = referrers.referrers(lab.store, lab.subject.digest)
    assert found.artifact_type == BOM
    second: Descriptor = referrers.attach(lab.store, lab.subject, of_bytes(b"2", descriptor_of(b"2", BOM)), BOM)
    assert {one.digest for one in referrers.referrers(lab.store, lab.subject.digest)} == {found.digest, second.digest}
