"""Documents of OCI: read strictly, written the same way each time, with all that the specification requires."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelbake.errors import IntegrityError
from modelbake.oci import model
from modelbake.oci.model import (
    IMAGE_CONFIG,
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    LAYER_TAR,
    Descriptor,
    ImageIndex,
    ImageManifest,
    Platform,
    decode,
    descriptor_of,
    digest_of,
    encode,
)

HEX = "0123456789abcdef" * 4
DIGEST = f"sha256:{HEX}"

TEXT = st.text(max_size=20)
DESCRIPTORS = st.builds(
    Descriptor,
    TEXT,
    st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True),
    st.integers(0, 1 << 50),
    artifact_type=st.none() | TEXT,
    platform=st.none() | st.builds(Platform, TEXT, TEXT, st.none() | TEXT),
    annotations=st.none() | st.dictionaries(TEXT, TEXT, max_size=3),
)
MANIFESTS = st.builds(ImageManifest, st.just(2), DESCRIPTORS, st.lists(DESCRIPTORS, max_size=3).map(tuple), TEXT)
INDEXES = st.builds(ImageIndex, st.just(2), st.lists(DESCRIPTORS, max_size=3).map(tuple), TEXT)


@given(MANIFESTS)
def test_a_manifest_that_was_written_is_read_again(document: ImageManifest) -> None:
    assert decode(encode(document), ImageManifest, "it") == document
    assert encode(decode(encode(document), ImageManifest, "it")) == encode(document)


@given(INDEXES)
def test_an_index_that_was_written_is_read_again(document: ImageIndex) -> None:
    assert decode(encode(document), ImageIndex, "it") == document


def test_the_same_annotations_give_the_same_bytes_in_whatever_order_they_came() -> None:
    one = Descriptor(LAYER_TAR, DIGEST, 1, annotations={"a": "1", "b": "2"})
    other = Descriptor(LAYER_TAR, DIGEST, 1, annotations={"b": "2", "a": "1"})

    assert encode(one) == encode(other)


def test_lists_that_the_specification_requires_are_there_though_they_are_empty() -> None:
    """image-spec, manifest.md and image-index.md: `layers` and `manifests` are REQUIRED."""
    config = Descriptor(IMAGE_CONFIG, DIGEST, 1)

    assert json.loads(encode(ImageManifest(2, config, (), IMAGE_MANIFEST)))["layers"] == []
    assert json.loads(encode(ImageIndex(2, (), IMAGE_INDEX))) == {
        "schemaVersion": 2,
        "manifests": [],
        "mediaType": IMAGE_INDEX,
    }


MANIFEST: dict[str, Any] = {
    "schemaVersion": 2,
    "mediaType": IMAGE_MANIFEST,
    "config": {"mediaType": IMAGE_CONFIG, "digest": DIGEST, "size": 2},
    "layers": [{"mediaType": LAYER_TAR, "digest": DIGEST, "size": 1, "urls": ["https://example.com"]}],
    "unknown": {"of": "a later specification"},
}


def test_what_a_later_specification_adds_is_no_error() -> None:
    assert decode(json.dumps(MANIFEST).encode(), ImageManifest, "it").layers[0].digest == DIGEST


def changed(path: str, value: Any) -> bytes:
    """MANIFEST with another value at a place, or without it where the value is `...`."""
    document = json.loads(json.dumps(MANIFEST))
    *way, last = path.split("/")
    at = document
    for step in way:
        at = at[int(step) if step.isdigit() else step]
    if value is ...:
        del at[last]
    else:
        at[last] = value
    return json.dumps(document).encode()


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schemaVersion", 1),
        ("schemaVersion", 3),
        ("schemaVersion", "2"),
        ("config", ...),
        ("config", []),
        ("layers", ...),
        ("layers", None),
        ("layers", {}),
        ("layers/0/digest", ...),
        ("layers/0/digest", HEX),
        ("layers/0/digest", f"sha256:{HEX.upper()}"),
        ("layers/0/digest", f"sha256:{HEX[:-1]}"),
        ("layers/0/digest", f"{DIGEST}0"),
        ("layers/0/digest", f"{DIGEST}\n"),
        ("layers/0/digest", f"sha256:../../{HEX[6:]}"),
        ("layers/0/digest", f"sha512:{HEX}{HEX}"),
        ("layers/0/size", ...),
        ("layers/0/size", -1),
        ("layers/0/size", 1 << 51),
        ("layers/0/size", 1.5),
        ("layers/0/size", "1"),
        ("layers/0/mediaType", ...),
        ("layers/0/annotations", {"a": 1}),
    ],
)
def test_a_manifest_that_does_not_fit_is_an_integrity_error(path: str, value: Any) -> None:
    with pytest.raises(IntegrityError, match="the registry's is no ImageManifest") as caught:
        decode(changed(path, value), ImageManifest, "the registry's")
    assert caught.value.exit_code == 5


def test_more_layers_than_any_image_has_are_refused() -> None:
    layers = MANIFEST["layers"] * (model.MOST_LAYERS + 1)

    with pytest.raises(IntegrityError, match="it is no ImageManifest"):
        decode(changed("layers", layers), ImageManifest, "it")


def test_more_bytes_than_any_manifest_has_are_not_even_read() -> None:
    with pytest.raises(IntegrityError, match=r"it: 4,194,305 bytes are more than a manifest may have"):
        decode(bytes(model.MOST_MANIFEST_BYTES + 1), ImageManifest, "it")


@pytest.mark.parametrize(
    "data", [b"", b"{", b"null", b"[]", b"\xff\xfe", b'{"schemaVersion":2', b"[" * 100_000, b'{"a":' * 100_000]
)
def test_what_is_no_document_is_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="it is no ImageManifest"):
        decode(data, ImageManifest, "it")


@given(st.binary(max_size=200))
def test_any_bytes_are_a_document_or_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError):
        decode(data, ImageManifest, "it")


def test_a_descriptor_tells_the_bytes() -> None:
    # The digest of no bytes is known to everybody.
    empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

    assert digest_of(b"") == empty
    assert descriptor_of(b"", LAYER_TAR) == Descriptor(LAYER_TAR, empty, 0)
    assert Descriptor(LAYER_TAR, empty, 0).hex == empty[7:]


def test_a_bare_descriptor_names_the_bytes_and_no_more() -> None:
    full = Descriptor(LAYER_TAR, DIGEST, 3, "type", Platform("amd64", "linux"), {"a": "b"})

    assert full.bare() == Descriptor(LAYER_TAR, DIGEST, 3)
