"""An image copied with its signatures, its referrers and its ModelPack manifest: what could be verified before still can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelbake.errors import IntegrityError, RefusedError
from modelbake.oci import companions, referrers, sign
from modelbake.oci.blob import of_bytes
from modelbake.oci.model import Descriptor, descriptor_of
from modelbake.oci.pack import MODELPACK_SUFFIX
from modelbake.oci.referrers import attach, referrers_name
from modelbake.oci.sign import signature_name
from modelbake.oci.store import Store
from tests.unit.oci.trust import key, put, store_with

TYPE = "application/vnd.cyclonedx+json"
BLOB = b"a file of model"


def blob(text: str) -> tuple[bytes, Descriptor]:
    data = text.encode()
    return data, descriptor_of(data, TYPE)


def signers(store: Store, subject: Descriptor, *names: str) -> list[str]:
    return [one.key.name for one in sign.verify(store, subject, [key(name).public for name in names], 1)]


def test_signatures_and_referrers_come_along_byte_for_byte(tmp_path: Path) -> None:
    source, [subject] = store_with(tmp_path / "a", "model")
    made = sign.sign(source, subject, "a/b", key("alice"))
    attached = attach(source, subject, of_bytes(*blob("{}")), TYPE)
    sign.sign(source, attached.bare(), "a/b", key("bob"))
    target = Store(tmp_path / "b")
    moved = companions.copy(source, subject, target, ["copied"], "model")
    assert moved.total_blobs == 3
    assert target.resolve("copied") == subject
    assert target.resolve(signature_name(subject.digest)) == made
    assert signers(target, subject, "alice") == ["alice"]
    assert referrers.referrers(target, subject.digest) == (attached,)
    assert signers(target, attached.bare(), "bob") == ["bob"]
    target.verify()
    target.gc()
    assert signers(target, subject, "alice") == ["alice"]


def test_what_the_target_has_already_stays(tmp_path: Path) -> None:
    source, [subject] = store_with(tmp_path / "a", "model")
    target, _ = store_with(tmp_path / "b", "model")
    sign.sign(source, subject, "a/b", key("alice"))
    sign.sign(target, subject, "c/d", key("bob"))
    ours = attach(source, subject, of_bytes(*blob("{}")), TYPE)
    theirs = attach(target, subject, of_bytes(*blob("[]")), TYPE)
    for _ in range(2):
        companions.copy(source, subject, target, ["model"], "model")
        assert signers(target, subject, "alice", "bob") == ["alice", "bob"]
        assert referrers.referrers(target, subject.digest) == (theirs, ours)
    before = target.resolve(signature_name(subject.digest))
    companions.copy(source, subject, target, ["model"], "model")
    assert target.resolve(signature_name(subject.digest)) == before


def test_an_unsigned_image_has_nothing_beside_it(tmp_path: Path) -> None:
    source, [subject] = store_with(tmp_path / "a", "model")
    target = Store(tmp_path / "b")
    companions.copy(source, subject, target, ["copied"], "model")
    assert target.names() == ["copied"]


def test_the_modelpack_manifest_comes_along_where_it_is_over_the_same_layers(tmp_path: Path) -> None:
    source, [subject] = store_with(tmp_path / "a", "model")
    layer = descriptor_of(BLOB, "application/octet-stream")
    twin = put(source, f"model{MODELPACK_SUFFIX}", [(BLOB, Descriptor("model/weights", layer.digest, layer.size))])
    sign.sign(source, twin, "a/b", key("alice"))
    target = Store(tmp_path / "b")
    companions.copy(source, subject, target, ["x:1", "x:2"], "model")
    assert target.resolve(f"x:1{MODELPACK_SUFFIX}") == target.resolve(f"x:2{MODELPACK_SUFFIX}") == twin
    assert signers(target, twin, "alice") == ["alice"]


@pytest.mark.parametrize("layers", [[b"another image's"], []])
def test_another_image_of_that_name_is_left_alone(tmp_path: Path, layers: list[bytes]) -> None:
    source, [subject] = store_with(tmp_path / "a", "model")
    put(source, f"model{MODELPACK_SUFFIX}", [(data, descriptor_of(data, "model/weights")) for data in layers])
    target = Store(tmp_path / "b")
    companions.copy(source, subject, target, ["x"], "model")
    assert target.names() == ["x"]


def test_a_pinned_image_has_no_name_to_look_beside(tmp_path: Path) -> None:
    source, [subject] = store_with(tmp_path / "a", "model")
    put(source, f"{subject.digest}{MODELPACK_SUFFIX}", [(BLOB, descriptor_of(BLOB, "model/weights"))])
    target = Store(tmp_path / "b")
    companions.copy(source, subject, target, ["x"], subject.digest)
    assert target.names() == ["x"]


def test_no_name_leads_to_an_image_whose_signatures_did_not_come(tmp_path: Path) -> None:
    source, [subject] = store_with(tmp_path / "a", "model")
    put(source, "junk", [])
    signatures = sign.sign(source, subject, "a/b", key("alice"))
    path = source.path(signatures)
    path.write_bytes(path.read_bytes().replace(b"layers", b"1ayers"))
    target = Store(tmp_path / "b")
    with pytest.raises(IntegrityError):
        companions.copy(source, subject, target, ["x"], "model")
    assert target.names() == []


def test_a_document_that_is_listed_as_its_own_referrer_ends(tmp_path: Path) -> None:
    source, [subject] = store_with(tmp_path / "a", "model")
    referrers.enlist(source, subject.digest, subject)
    target = Store(tmp_path / "b")
    companions.copy(source, subject, target, ["x"], "model")
    assert target.resolve(referrers_name(subject.digest)).size > 0


def test_a_full_list_of_signatures_takes_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sign, "MOST_SIGNATURES", 2)
    source, [subject] = store_with(tmp_path / "a", "model")
    target, _ = store_with(tmp_path / "b", "model")
    sign.sign(source, subject, "a/b", key("alice"))
    for name in ("bob", "carol"):
        sign.sign(target, subject, "c/d", key(name))
    companions.copy(source, subject, target, ["model"], "model")
    assert signers(target, subject, "bob", "carol") == ["bob", "carol"]
    with pytest.raises(RefusedError):
        signers(target, subject, "alice")
