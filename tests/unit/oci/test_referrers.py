"""Referrers: attached by subject, found again by digest, with the registry's API and with the fallback tag."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modelbake.errors import IntegrityError
from modelbake.oci import referrers
from modelbake.oci.blob import of_bytes
from modelbake.oci.model import IMAGE_MANIFEST, Descriptor, ImageIndex, ImageManifest, decode, descriptor_of
from modelbake.oci.referrers import attach, referrers_name
from modelbake.oci.store import Store
from tests.unit.oci.trust import put, store_with

TYPE = "application/vnd.cyclonedx+json"


def blob(text: str) -> tuple[bytes, Descriptor]:
    data = text.encode()
    return data, descriptor_of(data, TYPE, annotations={"org.opencontainers.image.title": "a.json"})


class WithApi(Store):
    """A store that says it has the referrers API, and answers by what its manifests say."""

    def referrers(self, digest: str) -> ImageIndex | None:
        found = []
        for path in sorted((self.folder / "blobs" / "sha256").iterdir()):
            data = path.read_bytes()
            if b'"subject"' not in data:
                continue
            one = decode(data, ImageManifest, "m")
            if one.subject is not None and one.subject.digest == digest:
                found.append(descriptor_of(data, IMAGE_MANIFEST, artifact_type=one.artifact_type))
        return ImageIndex(2, tuple(found))


class WithoutApi(Store):
    """A place that asks, and whose registry answers 404."""

    def referrers(self, digest: str) -> ImageIndex | None:
        return None


@pytest.mark.parametrize("kind", [Store, WithoutApi, WithApi])
def test_what_was_attached_is_found_by_its_subject(tmp_path: Path, kind: type[Store]) -> None:
    _, [subject, other] = store_with(tmp_path, "model", "other")
    store = kind(tmp_path)
    data, described = blob("{}")
    made = attach(store, subject, of_bytes(data, described), TYPE, {"made": "by us"})
    [found] = referrers.referrers(store, subject.digest)
    assert (found.digest, found.artifact_type) == (made.digest, TYPE)
    assert referrers.referrers(store, other.digest) == ()
    assert referrers.referrers(store, subject.digest, TYPE) == (found,)
    assert referrers.referrers(store, subject.digest, "text/plain") == ()
    manifest = decode(store.read(found), ImageManifest, "m")
    assert manifest.subject == subject
    assert manifest.layers == (described,)
    assert store.read(manifest.layers[0]) == data
    assert (referrers_name(subject.digest) in store.names()) == (kind is not WithApi)


def test_the_manifest_is_what_the_specification_says(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    data, described = blob("{}")
    made = attach(store, subject, of_bytes(data, described), TYPE, {"a": "b"})
    manifest = json.loads(store.read(made))
    assert manifest["artifactType"] == TYPE
    assert manifest["config"] == {
        "mediaType": "application/vnd.oci.empty.v1+json",
        "digest": "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a",
        "size": 2,
    }
    assert manifest["subject"] == {"mediaType": IMAGE_MANIFEST, "digest": subject.digest, "size": subject.size}
    index = json.loads(store.read(store.resolve(referrers_name(subject.digest))))
    assert index["mediaType"] == "application/vnd.oci.image.index.v1+json"
    assert index["manifests"] == [
        {
            "mediaType": IMAGE_MANIFEST,
            "digest": made.digest,
            "size": made.size,
            "artifactType": TYPE,
            "annotations": {"a": "b"},
        }
    ]


def test_attaching_again_changes_nothing_and_another_comes_beside_it(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    one, two = (of_bytes(*blob(text)) for text in ("1", "2"))
    first = attach(store, subject, one, TYPE)
    before = store.resolve(referrers_name(subject.digest))
    assert attach(store, subject, one, TYPE) == first
    assert store.resolve(referrers_name(subject.digest)) == before
    second = attach(store, subject, two, TYPE)
    assert [found.digest for found in referrers.referrers(store, subject.digest)] == [first.digest, second.digest]


def test_what_is_attached_survives_a_sweep(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    data, described = blob("{}")
    attach(store, subject, of_bytes(data, described), TYPE)
    assert store.gc().blobs == 0
    assert store.read(described) == data


def test_something_else_under_the_fallback_tag_is_an_error_of_ours(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    put(store, referrers_name(subject.digest), [])
    with pytest.raises(IntegrityError, match="no index of referrers"):
        referrers.referrers(store, subject.digest)
    with pytest.raises(IntegrityError, match="no index of referrers"):
        attach(store, subject, of_bytes(*blob("{}")), TYPE)


def test_a_damaged_index_is_an_error_of_ours(tmp_path: Path) -> None:
    store, [subject] = store_with(tmp_path, "model")
    attach(store, subject, of_bytes(*blob("{}")), TYPE)
    path = store.path(store.resolve(referrers_name(subject.digest)))
    path.write_bytes(path.read_bytes().replace(b"manifests", b"manifestz"))
    with pytest.raises(IntegrityError):
        referrers.referrers(store, subject.digest)
