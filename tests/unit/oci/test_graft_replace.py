"""--replace: the old version's files go, what others list stays, and putting the old version back gives the first image."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelbake import manifest
from modelbake.errors import IntegrityError, RefusedError
from modelbake.oci.graft import Source, graft, plan
from modelbake.oci.model import IMAGE_MANIFEST, LAYER_TAR, Descriptor, ImageManifest, descriptor_of, digest_of, encode
from modelbake.oci.pack import BUNDLES
from modelbake.oci.store import Store
from tests.unit.oci import made

MANIFEST = "models/model_manifest.json"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def grafted(runtime: Source, *bundles: Source, replace: tuple[str, ...] = ()) -> Source:
    return runtime[0], graft(runtime, bundles, runtime[0], "new", replace)[0].image


FILES = st.dictionaries(
    st.sampled_from(["x", "y", "onnx/x", "onnx/y", "goldens/deep/er/x"]), st.binary(max_size=3), min_size=1, max_size=4
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(old=FILES, new=FILES, bare=st.booleans())
def test_there_and_back_gives_the_first_digest(
    store: Store, old: dict[str, bytes], new: dict[str, bytes], bare: bool
) -> None:
    one, two = made.bundle(store, "a", old, "1.0.0"), made.bundle(store, "a", new, "2.0.0")
    first = grafted(made.runtime(store), one, made.bundle(store, "b"))
    image = made.without_annotations(first) if bare else first

    swapped = grafted(image, two, replace=("a",))
    assert swapped == grafted(made.runtime(store), made.bundle(store, "b"), two)
    assert grafted(swapped, one, replace=("a",)) == first
    models = {path for path in made.unpacked(swapped) if path.startswith("models/")}
    assert models == {f"models/{path}" for path in (*new, "onnx/b.onnx", "goldens/b.npz", "model_manifest.json")}


def test_a_file_that_another_bundle_lists_stays(store: Store) -> None:
    a = made.bundle(store, "a", {"onnx/a": b"a", "shared": b"same"})
    b = made.bundle(store, "b", {"onnx/b": b"b", "shared": b"same"})
    image = grafted(made.runtime(store), a, b)
    files = made.unpacked(grafted(image, made.bundle(store, "a", {"onnx/a": b"new"}, "2.0.0"), replace=("a",)))

    assert (files["models/shared"], files["models/onnx/a"]) == (b"same", b"new")


def test_a_new_version_that_would_change_another_bundle_s_file_is_refused(store: Store) -> None:
    a = made.bundle(store, "a", {"onnx/a": b"a", "shared": b"same"})
    b = made.bundle(store, "b", {"onnx/b": b"b", "shared": b"same"})
    image = grafted(made.runtime(store), a, b)

    with pytest.raises(IntegrityError, match="shared of a and of b are different"):
        plan(image, [made.bundle(store, "a", {"onnx/a": b"new", "shared": b"other"}, "2.0.0")], ["a"])


def test_several_are_replaced_at_once(store: Store) -> None:
    runtime = made.runtime(store)
    image = grafted(runtime, made.bundle(store, "a"), made.bundle(store, "b"))
    two = [made.bundle(store, name, version="2.0.0") for name in ("a", "b")]

    assert grafted(image, *two, replace=("a", "b")) == grafted(runtime, *two)


def test_labels_of_the_runtime_follow(store: Store) -> None:
    image = grafted(made.runtime(store), made.bundle(store, "a"))
    new = grafted(image, made.bundle(store, "a", version="2.0.0"), made.bundle(store, "b"), replace=("a",))

    assert made.config_of(new)["config"]["Labels"][BUNDLES] == "a,b"
    assert (made.manifest_of(new).annotations or {})[BUNDLES] == "a,b"


def test_an_image_of_compressed_layers_is_refused_with_the_way_out(store: Store) -> None:
    image = made.compressed(grafted(made.runtime(store, packed=False), made.bundle(store, "a")))

    with pytest.raises(RefusedError, match="compression=uncompressed"):
        plan(image, [made.bundle(store, "a", version="2.0.0")], ["a"])
    with pytest.raises(RefusedError, match="compression=uncompressed"):
        plan(image, [made.bundle(store, "b")])


def half_compressed(source: Source, path: str) -> Source:
    """The image with the layer of one file in gzip."""
    import gzip

    store, found = source[0], made.manifest_of(source)
    assert isinstance(store, Store)
    layers, blobs = [], []
    for one in found.layers:
        if (one.annotations or {}).get("io.modelbake.path") == path:
            blobs.append(gzip.compress(b"".join(store.blob(one).chunks()), mtime=0))
            one = descriptor_of(blobs[-1], f"{LAYER_TAR}+gzip", annotations=one.annotations)
        layers.append(one)
    return store, made.put(store, ImageManifest(2, found.config, tuple(layers), IMAGE_MANIFEST), blobs)


def test_one_compressed_layer_hinders_its_own_bundle_s_replacement_alone(store: Store) -> None:
    a, b = made.bundle(store, "a"), made.bundle(store, "b")
    image = half_compressed(grafted(made.runtime(store), a, b), "onnx/a.onnx")

    with pytest.raises(RefusedError, match=r"no layer in modelbake's format for onnx/a\.onnx of a"):
        plan(image, [made.bundle(store, "a", version="2.0.0")], ["a"])
    files = made.unpacked(grafted(image, made.bundle(store, "b", version="2.0.0"), replace=("b",)))
    assert (files["models/onnx/a.onnx"], files["models/onnx/b.onnx"]) == (b"a 1.0.0", b"b 2.0.0")


def test_a_layer_that_is_not_the_size_of_its_file_is_not_left_out(store: Store) -> None:
    image = grafted(made.runtime(store), made.bundle(store, "a", {"onnx/a": b"a", "y": bytes(6000)}))
    found = made.manifest_of(image)
    # onnx/a and y change their annotations.
    names = [one.annotations for one in found.layers]
    layers = [
        Descriptor(LAYER_TAR, one.digest, one.size, annotations=names[number]) if number > 1 else one
        for one, number in zip(found.layers, (0, 1, 3, 2, 4), strict=True)
    ]
    lying = store, made.put(store, ImageManifest(2, found.config, tuple(layers), IMAGE_MANIFEST))

    with pytest.raises(IntegrityError, match="is not that of"):
        plan(lying, [made.bundle(store, "a", version="2.0.0")], ["a"])


def test_layers_that_look_like_a_bundle_s_but_are_listed_nowhere_stay(store: Store) -> None:
    own = made.file_layer("own/file", b"mine")
    image = grafted(made.runtime(store, [own], packed=False, history=[]), made.bundle(store, "a"))
    new = grafted(image, made.bundle(store, "a", version="2.0.0"), replace=("a",))

    assert made.unpacked(new)["models/own/file"] == b"mine"


def test_of_stacked_images_the_upper_files_and_manifest_count(store: Store) -> None:
    """As a Dockerfile makes it that copies the layers of one bundle upon another's."""
    lower, upper = (made.bundle(store, "a", version=version) for version in ("1.0.0", "2.0.0"))
    layers = [one.bare() for source in (lower, upper) for one in made.manifest_of(source).layers]
    config = made.config_of(lower) | {"rootfs": {"type": "layers", "diff_ids": [one.digest for one in layers]}}
    data = encode(config | {"history": []})
    document = ImageManifest(
        2, descriptor_of(data, "application/vnd.oci.image.config.v1+json"), tuple(layers), IMAGE_MANIFEST
    )
    stacked = store, made.put(store, document, [data])

    new = grafted(stacked, made.bundle(store, "b"))
    assert len(made.manifest_of(new).layers) == 5
    files = made.unpacked(new)
    assert files["models/onnx/a.onnx"] == b"a 2.0.0"
    assert {e.name: e.version for e in manifest.decode(files[MANIFEST], "t").bundles} == {"a": "2.0.0", "b": "1.0.0"}


@pytest.mark.parametrize("data", [b"{}", b'{"schema_version": 1, "bundles": [5]}', b"\xff", b""])
def test_a_damaged_models_manifest_in_an_image_is_named(store: Store, data: bytes) -> None:
    image = made.runtime(store, [made.file_layer("model_manifest.json", data)], packed=False, history=[])

    with pytest.raises(IntegrityError, match="models manifest in"):
        plan(image, [made.bundle(store, "a")])


def test_bytes_that_changed_in_the_store_are_found(store: Store) -> None:
    image = grafted(made.runtime(store), made.bundle(store, "a"))
    last = made.manifest_of(image).layers[-1]
    data = bytearray(store.path(last).read_bytes())
    data[600] ^= 1
    store.path(last).write_bytes(data)
    assert digest_of(bytes(data)) != last.digest

    with pytest.raises(IntegrityError, match="damaged"):
        plan(image, [made.bundle(store, "b")])
