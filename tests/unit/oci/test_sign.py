"""Signatures: what a key signed verifies, and nothing else does, whatever stands in the place of signatures."""

from __future__ import annotations

import base64
import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelbake.errors import IntegrityError, RefusedError, UsageError
from modelbake.oci import sign
from modelbake.oci.blob import of_bytes
from modelbake.oci.model import IMAGE_INDEX, Descriptor, ImageIndex, ImageManifest, decode, descriptor_of, encode
from modelbake.oci.sign import SIGNATURE, SIMPLE_SIGNING, signature_name
from modelbake.oci.store import Store
from tests.unit.oci.trust import key, put, put_signatures, signature_layer, store_with

IDENTITY = "registry.example/models/minilm"
ALICE, BOB = key("alice"), key("bob")


def manifest_of(store: Store, subject: Descriptor) -> ImageManifest:
    found = store.resolve(signature_name(subject.digest))
    return decode(store.read(found), ImageManifest, "signatures")


def test_what_a_key_signed_verifies_by_that_key(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    sign.sign(store, subject, IDENTITY, ALICE, {"stage": "tested"})
    [found] = sign.verify(store, subject, [ALICE.public])
    assert (found.key, found.identity, found.annotations) == (ALICE.public, IDENTITY, {"stage": "tested"})


def test_the_payload_has_the_bytes_that_cosign_writes() -> None:
    # Of cosign 2.5.0.
    digest = "sha256:b6e836c5769932ce4faf0c13b6a8e57abfa90ec2eaa1a4a507255c1e73302d41"
    expected = (
        '{"critical":{"identity":{"docker-reference":"127.0.0.1:5311/a/b"},"image":{"docker-manifest-digest":'
        f'"{digest}"}},"type":"cosign container image signature"}},"optional":'
    )
    assert sign.payload(digest, "127.0.0.1:5311/a/b").decode() == expected + "null}"
    assert sign.payload(digest, "127.0.0.1:5311/a/b", {"b": "2", "a": "1"}).decode() == expected + '{"a":"1","b":"2"}}'


def test_the_manifest_is_the_one_that_cosign_reads(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    sign.sign(store, subject, IDENTITY, ALICE)
    found = manifest_of(store, subject)
    [layer] = found.layers
    assert layer.media_type == SIMPLE_SIGNING
    assert set(layer.annotations or {}) == {SIGNATURE}
    config = json.loads(store.read(found.config))
    assert config["rootfs"]["diff_ids"] == [layer.digest]
    assert found.config.media_type == "application/vnd.oci.image.config.v1+json"


def test_signing_again_changes_nothing(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    first = sign.sign(store, subject, IDENTITY, ALICE)
    assert sign.sign(store, subject, IDENTITY, ALICE) == first
    assert len(manifest_of(store, subject).layers) == 1


def test_two_stores_that_are_signed_alike_hold_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for folder in ("a", "b"):
        store, [subject] = store_with(tmp_path / folder, "model")
        found.append(sign.sign(store, subject, IDENTITY, ALICE))
    assert found[0] == found[1]


def test_further_signatures_are_further_layers_and_each_verifies(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    sign.sign(store, subject, IDENTITY, ALICE)
    sign.sign(store, subject, IDENTITY, BOB)
    sign.sign(store, subject, IDENTITY, ALICE, {"stage": "released"})
    assert len(manifest_of(store, subject).layers) == 3
    found = sign.verify(store, subject, [BOB.public, ALICE.public])
    assert [one.key.name for one in found] == ["bob", "alice"]


def test_the_signatures_are_kept_when_the_store_is_swept(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    sign.sign(store, subject, IDENTITY, ALICE)
    sign.sign(store, subject, IDENTITY, BOB)
    assert store.gc().blobs == 2  # the manifest and the config of the first signature alone
    store.verify()
    sign.verify(store, subject, [ALICE.public, BOB.public])


def test_an_index_of_platforms_is_signed_like_a_manifest(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    data = encode(ImageIndex(2, (subject,), IMAGE_INDEX))
    index = descriptor_of(data, IMAGE_INDEX)
    with store.adding():
        store.add(of_bytes(data, index))
        store.tag("all", index)
    sign.sign(store, index, IDENTITY, ALICE)
    sign.verify(store, index, [ALICE.public])
    with pytest.raises(RefusedError, match="not signed"):
        sign.verify(store, subject, [ALICE.public])


def test_what_nobody_signed_is_refused(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    with pytest.raises(RefusedError, match=f"{subject.digest} is not signed"):
        sign.verify(store, subject, [ALICE.public])


def test_a_signature_by_another_key_is_refused(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    sign.sign(store, subject, IDENTITY, ALICE)
    with pytest.raises(RefusedError, match=r"no valid signature by bob \(signature 1 is by another key"):
        sign.verify(store, subject, [BOB.public])
    with pytest.raises(RefusedError, match="by bob "):
        sign.verify(store, subject, [ALICE.public, BOB.public])


def test_as_many_keys_as_are_needed_must_have_signed(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    sign.sign(store, subject, IDENTITY, ALICE)
    three = [ALICE.public, BOB.public, key("carol").public]
    assert [one.key.name for one in sign.verify(store, subject, three, 1)] == ["alice"]
    with pytest.raises(RefusedError, match="1 of the 2 that are needed"):
        sign.verify(store, subject, three, 2)
    # Two names for one key, and two signatures by one key, are one signer.
    sign.sign(store, subject, IDENTITY, ALICE, {"again": "yes"})
    with pytest.raises(UsageError, match="1 keys given"):
        sign.verify(store, subject, [ALICE.public, ALICE.public], 2)
    with pytest.raises(RefusedError, match="1 of the 2"):
        sign.verify(store, subject, three, 2)


@pytest.mark.parametrize("needed", [0, -1, 2])
def test_a_number_of_signatures_that_makes_no_sense_is_refused(tmp_path: Path, needed: int) -> None:
    store, [subject] = store_with(tmp_path, "model")
    with pytest.raises(UsageError):
        sign.verify(store, subject, [ALICE.public], needed)


def test_no_keys_verify_nothing(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    sign.sign(store, subject, IDENTITY, ALICE)
    with pytest.raises(UsageError):
        sign.verify(store, subject, [])


def test_a_signature_of_another_document_is_refused_where_somebody_moved_it(tmp_path: Path) -> None:
    store, [good, bad] = store_with(tmp_path, "good", "bad")
    moved = sign.sign(store, good, IDENTITY, ALICE)
    with store.adding():
        store.tag(signature_name(bad.digest), moved)
    with pytest.raises(RefusedError, match=f"by alice, but for another digest, {good.digest}"):
        sign.verify(store, bad, [ALICE.public])


def hostile(subject: Descriptor) -> dict[str, tuple[bytes, Descriptor]]:
    """Layers that must not pass as alice's signature of the document, by what is wrong with them."""
    data = sign.payload(subject.digest, IDENTITY)
    good = ALICE.sign(data)
    changed = data.replace(b"registry.example", b"registry.exampla")
    other = sign.payload(f"sha256:{'0' * 64}", IDENTITY)
    twice = data.replace(b'"type"', f'"image":{{"docker-manifest-digest":"sha256:{"0" * 64}"}},"type"'.encode())
    large = data + b" " * (1 << 16)
    unlabelled = descriptor_of(data, SIMPLE_SIGNING)
    text = base64.b64encode(good).decode()
    return {
        "a changed payload": signature_layer(changed, good),
        "white space added": signature_layer(data + b" ", good),
        "a payload for another digest, well signed": signature_layer(other, ALICE.sign(other)),
        "a payload with two digests, well signed": signature_layer(twice, ALICE.sign(twice)),
        "another type, well signed": signature_layer(
            kind := data.replace(b"cosign container", b"atomic container"), ALICE.sign(kind)
        ),
        "a truncated payload, well signed": signature_layer(data[:-9], ALICE.sign(data[:-9])),
        "no payload, well signed": signature_layer(b"", ALICE.sign(b"")),
        "no JSON, well signed": signature_layer(b"\xff\xfe", ALICE.sign(b"\xff\xfe")),
        "deep JSON, well signed": signature_layer(deep := b"[" * 60000, ALICE.sign(deep)),
        "far too large, well signed": signature_layer(large, ALICE.sign(large)),
        "no signature": signature_layer(data, b""),
        "a truncated signature": signature_layer(data, good[:-1]),
        "a lengthened signature": signature_layer(data, good + b"\0"),
        "no annotation": (data, unlabelled),
        "no base64": (data, descriptor_of(data, SIMPLE_SIGNING, annotations={SIGNATURE: f"{text[:-4]}%%%%"})),
        "base64 with more in it": (data, descriptor_of(data, SIMPLE_SIGNING, annotations={SIGNATURE: f"{text}\n"})),
        "letters of no base64": (data, descriptor_of(data, SIMPLE_SIGNING, annotations={SIGNATURE: "é"})),
        "another media type": signature_layer(data, good, "application/octet-stream"),
        "bob's": signature_layer(data, BOB.sign(data)),
    }


NAMES = list(hostile(Descriptor("", f"sha256:{'1' * 64}", 1)))


@pytest.mark.parametrize("name", NAMES)
def test_nothing_else_passes_as_a_signature(tmp_path: Path, name: str) -> None:
    store, [subject] = store_with(tmp_path, "model")
    layer = hostile(subject)[name]
    put_signatures(store, subject, layer)
    with pytest.raises(RefusedError, match="no valid signature by alice"):
        sign.verify(store, subject, [ALICE.public])
    # And it does not stand in the way of a good one beside it.
    data = sign.payload(subject.digest, IDENTITY)
    put_signatures(store, subject, layer, signature_layer(data, ALICE.sign(data)))
    sign.verify(store, subject, [ALICE.public])


@given(st.binary(max_size=200), st.dictionaries(st.sampled_from(["critical", "optional", "x"]), st.text(max_size=5)))
def test_a_payload_of_any_form_is_refused_and_breaks_nothing(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, document: dict[str, Any]
) -> None:
    store, [subject] = store_with(tmp_path_factory.getbasetemp() / "any", "model")
    payloads = (data, json.dumps(document).encode())
    put_signatures(store, subject, *(signature_layer(one, ALICE.sign(one)) for one in payloads))
    with pytest.raises(RefusedError):
        sign.verify(store, subject, [ALICE.public])


@pytest.mark.parametrize("what", ["payload", "manifest"])
@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_damage_in_the_place_is_called_damage(tmp_path: Path, what: str, how: str) -> None:
    store, [subject] = store_with(tmp_path, "model")
    manifest = sign.sign(store, subject, IDENTITY, ALICE)
    path = store.path(manifest if what == "manifest" else manifest_of(store, subject).layers[0])
    data = path.read_bytes()
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(data.replace(b"sha256", b"sha257") if how == "changed" else data[:-5])
    with pytest.raises(IntegrityError, match="again"):
        sign.verify(store, subject, [ALICE.public])


def test_damage_to_one_signature_does_not_hide_another(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    sign.sign(store, subject, IDENTITY, ALICE)
    sign.sign(store, subject, "elsewhere/name", BOB)
    store.path(manifest_of(store, subject).layers[0]).unlink()
    assert [one.key.name for one in sign.verify(store, subject, [BOB.public])] == ["bob"]
    with pytest.raises(IntegrityError, match="signed again"):
        sign.verify(store, subject, [ALICE.public])


def test_something_else_under_the_name_of_signatures_is_an_error_of_ours(tmp_path: Path) -> None:
    store, [subject, other] = store_with(tmp_path, "model", "other")
    index = encode(ImageIndex(2, (other,), IMAGE_INDEX))
    blobs = {
        "index": (index, IMAGE_INDEX),
        "no JSON": (b"\0", other.media_type),
        "no manifest": (b"[]", other.media_type),
    }
    for data, media_type in blobs.values():
        described = descriptor_of(data, media_type)
        with store.adding():
            store.add(of_bytes(data, described))
        _point(store, signature_name(subject.digest), described)
        with pytest.raises(IntegrityError):
            sign.verify(store, subject, [ALICE.public])
        with pytest.raises(IntegrityError):
            sign.sign(store, subject, IDENTITY, ALICE)


def _point(store: Store, name: str, descriptor: Descriptor) -> None:
    """Let the name lead to whatever, as another tool might."""
    index = json.loads((store.folder / "index.json").read_bytes())
    entry = {
        "mediaType": descriptor.media_type,
        "digest": descriptor.digest,
        "size": descriptor.size,
        "annotations": {"org.opencontainers.image.ref.name": name},
    }
    kept = [one for one in index["manifests"] if one["annotations"] != entry["annotations"]]
    (store.folder / "index.json").write_text(json.dumps({**index, "manifests": [*kept, entry]}))


def test_a_heap_of_signatures_is_not_read_and_not_added_to(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    layer = signature_layer(b"{}", b"x")
    put(store, signature_name(subject.digest), [layer] * (sign.MOST_SIGNATURES + 1))
    with pytest.raises(RefusedError, match="more than are read"):
        sign.verify(store, subject, [ALICE.public])
    with pytest.raises(RefusedError, match="remove that tag"):
        sign.sign(store, subject, IDENTITY, ALICE)


def test_annotations_that_nobody_would_read_are_not_signed(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    with pytest.raises(UsageError, match="leave some out"):
        sign.sign(store, subject, IDENTITY, ALICE, {"a": "x" * (1 << 16)})
    assert store.names() == ["model"]


def _sign_as(folder: Path, subject: Descriptor, number: int) -> None:
    sign.sign(Store(folder), subject, f"signer/{number}", ALICE)


def test_many_processes_that_sign_at_once_lose_no_signature(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    context = multiprocessing.get_context("fork")
    signers = [context.Process(target=_sign_as, args=(tmp_path, subject, number)) for number in range(8)]
    for one in signers:
        one.start()
    for one in signers:
        one.join()
    assert [one.exitcode for one in signers] == [0] * 8
    assert len(manifest_of(store, subject).layers) == 8
