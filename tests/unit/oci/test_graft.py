"""Grafted images: what they hold, what they keep of the runtime, and that the same parts give the same digest."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelbake import manifest
from modelbake.errors import IntegrityError, RefusedError, UnknownNameError, UsageError
from modelbake.oci import graft as graft_module
from modelbake.oci.graft import Source, graft, plan
from modelbake.oci.model import (
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    LAYER_TAR,
    Descriptor,
    ImageIndex,
    ImageManifest,
    Platform,
    decode,
    descriptor_of,
    encode,
)
from modelbake.oci.pack import BUNDLES, PATH, WEIGHTS
from modelbake.oci.place import reachable
from modelbake.oci.store import Store
from tests.unit.oci import made

MANIFEST = "models/model_manifest.json"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def grafted(runtime: Source, *bundles: Source, replace: tuple[str, ...] = ()) -> Source:
    """The grafted image, in the store of the runtime."""
    found, _ = graft(runtime, bundles, runtime[0], "new", replace)
    assert runtime[0].resolve("new") == found.image
    return runtime[0], found.image


def test_an_image_holds_the_runtime_then_the_bundles_files_then_their_manifest(store: Store) -> None:
    runtime, a, b = made.runtime(store), made.bundle(store, "a"), made.bundle(store, "b")
    new = grafted(runtime, b, a)

    layers = made.manifest_of(new).layers
    assert [one.bare() for one in layers[:2]] == list(made.manifest_of(runtime).layers)
    paths = [(one.annotations or {})[PATH] for one in layers[2:]]
    assert paths == ["goldens/a.npz", "goldens/b.npz", "onnx/a.onnx", "onnx/b.onnx", "model_manifest.json"]
    files = made.unpacked(new)
    assert {path: files[path] for path in ("bin/sh", "opt/app", "models/onnx/a.onnx")} == {
        "bin/sh": b"shell",
        "opt/app": b"app",
        "models/onnx/a.onnx": b"a 1.0.0",
    }
    assert [entry.name for entry in manifest.decode(files[MANIFEST], "test").bundles] == ["a", "b"]


def test_the_layers_of_the_bundles_are_the_very_blobs_of_their_images(store: Store) -> None:
    a = made.bundle(store, "a")
    new = grafted(made.runtime(store), a)

    assert made.manifest_of(new).layers[2:4] == made.manifest_of(a).layers[:2]


def test_everything_that_the_image_needs_is_in_the_place_that_it_went_to(store: Store, tmp_path: Path) -> None:
    to = Store(tmp_path / "to")
    parts = made.runtime(store), [made.bundle(store, "a")]
    found, moved = graft(*parts, to, "x:1")

    needed = list(reachable(to, found.image))
    assert len(to.verify()) == len(needed) == 7
    assert to.names() == ["x:1"]
    assert (moved.sent_blobs, moved.sent, moved.total) == (7, sum(one.size for one in needed), moved.sent)
    assert graft(*parts, to, "x:2")[1].sent == 0


def test_the_config_is_the_runtime_s_with_what_the_bundles_add(store: Store) -> None:
    runtime = made.runtime(store, created="2020-01-01T00:00:00Z", moreover={"x": [1, None, "ü"]})
    old, new = made.config_of(runtime), made.config_of(grafted(runtime, made.bundle(store, "a", weights="trained")))

    labels = new["config"].pop("Labels")
    assert labels == {"kept": "yes", BUNDLES: "a", WEIGHTS: "a=trained"}
    history, diff_ids = new.pop("history"), new.pop("rootfs")["diff_ids"]
    assert history[:3] == old.pop("history")
    assert [entry["created_by"] for entry in history[3:]] == [
        "modelbake: goldens/a.npz",
        "modelbake: onnx/a.onnx",
        "modelbake: model_manifest.json",
    ]
    assert diff_ids[:2] == old.pop("rootfs")["diff_ids"]
    old["config"] = {key: value for key, value in old["config"].items() if key != "Labels"}
    assert new == old


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
SLOW_STORE = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@SLOW_STORE
@given(
    outer=st.dictionaries(st.text(min_size=12, max_size=16), JSON, max_size=3),
    inner=st.dictionaries(st.sampled_from(["Healthcheck", "StopSignal", "Volumes", "OnBuild", "strange"]), JSON),
)
def test_unknown_fields_of_a_config_stay(store: Store, outer: dict[str, Any], inner: dict[str, Any]) -> None:
    runtime = made.runtime(store, **(outer | {"config": inner}))
    new = made.config_of(grafted(runtime, made.bundle(store, "a")))

    assert {key: new[key] for key in outer} == outer
    assert {key: new["config"][key] for key in inner} == inner


@pytest.mark.parametrize("history", [[], None, [{"created_by": "all of it"}]])
def test_a_history_that_does_not_tell_the_layers_apart_is_left_out(store: Store, history: object) -> None:
    assert "history" not in made.config_of(grafted(made.runtime(store, history=history), made.bundle(store, "a")))


def test_a_config_without_a_run_part_gets_the_labels(store: Store) -> None:
    new = made.config_of(grafted(made.runtime(store, config=None), made.bundle(store, "a")))

    assert new["config"] == {"Labels": {BUNDLES: "a", WEIGHTS: "a=sample"}}


def test_docker_s_media_types_become_oci_s_and_the_blobs_stay(store: Store) -> None:
    bundle = made.bundle(store, "a")
    docker, oci = made.runtime(store, docker=True), made.runtime(store)

    assert docker[1].digest != oci[1].digest
    assert grafted(docker, bundle) == grafted(oci, bundle)


def test_bundles_in_any_order_at_once_or_one_by_one_give_one_digest(store: Store) -> None:
    bundles = [made.bundle(store, name) for name in ("a", "b", "c")]
    runtime = made.runtime(store)
    found = {grafted(runtime, *some)[1].digest for some in itertools.permutations(bundles)}
    for some in itertools.permutations(bundles):
        step = runtime
        for one in some:
            step = grafted(step, one)
        found.add(step[1].digest)

    assert len(found) == 1


def test_another_store_and_a_bundle_of_a_build_without_annotations_give_the_same_digest(
    store: Store, tmp_path: Path
) -> None:
    other = Store(tmp_path / "other")
    mine = grafted(made.runtime(store), made.bundle(store, "a"))
    theirs = grafted(made.runtime(other), made.without_annotations(made.bundle(other, "a")))

    assert mine[1] == theirs[1]


def test_an_image_whose_layers_have_no_annotations_is_grafted_upon_like_one_that_has(store: Store) -> None:
    a, b = made.bundle(store, "a"), made.bundle(store, "b")
    baked = made.without_annotations(grafted(made.runtime(store), a))

    assert grafted(baked, b) == grafted(made.runtime(store), a, b)


def test_the_later_default_of_a_kind_stays_the_default(store: Store) -> None:
    runtime = made.runtime(store)
    a, b = (made.bundle(store, name, kind="text", default=True) for name in ("a", "b"))
    files = made.unpacked(grafted(grafted(runtime, a), b))

    assert {e.name: e.default for e in manifest.decode(files[MANIFEST], "test").bundles} == {"a": False, "b": True}


def test_every_platform_of_the_runtime_is_grafted_and_attestations_are_not(store: Store) -> None:
    amd64, arm64 = made.runtime(store), made.runtime(store, [made.tar_of({"bin/sh": b"arm"})], made.ARM64)
    unknown = made.runtime(store, [made.tar_of({"a": b"b"})], Platform("unknown", "unknown"))[1]
    marked = Descriptor(
        IMAGE_MANIFEST, unknown.digest, unknown.size, annotations={"vnd.docker.reference.type": "attestation-manifest"}
    )
    new = grafted(made.index(store, amd64, arm64, more=[unknown, marked]), made.bundle(store, "a"))

    assert new[1].media_type == IMAGE_INDEX
    listed = decode(store.read(new[1]), ImageIndex, "test").manifests
    assert [one.platform for one in listed] == [made.AMD64, made.ARM64]
    assert listed[0].bare() == grafted(amd64, made.bundle(store, "a"))[1]
    for one, shell in zip(listed, (b"shell", b"arm"), strict=True):
        files = made.unpacked((store, one))
        assert (files["bin/sh"], files["models/onnx/a.onnx"]) == (shell, b"a 1.0.0")
    assert made.config_of((store, listed[1]))["variant"] == "v8"


def test_one_platform_with_its_attestation_gives_a_plain_image(store: Store) -> None:
    runtime = made.runtime(store)
    unknown = made.runtime(store, [made.tar_of({"a": b"b"})], Platform("unknown", "unknown"))[1]

    bundle = made.bundle(store, "a")
    assert grafted(made.index(store, runtime, more=[unknown]), bundle) == grafted(runtime, bundle)


def test_of_a_bundle_of_several_platforms_the_first_image_is_taken(store: Store) -> None:
    a = made.bundle(store, "a")

    assert grafted(made.runtime(store), made.index(store, a)) == grafted(made.runtime(store), a)


def test_a_file_that_two_bundles_share_is_one_layer(store: Store) -> None:
    a = made.bundle(store, "a", {"onnx/a": b"a", "shared": b"same"})
    b = made.bundle(store, "b", {"onnx/b": b"b", "shared": b"same"})

    assert len(made.manifest_of(grafted(made.runtime(store), a, b)).layers) == 2 + 3 + 1


@pytest.mark.parametrize("other", [{"onnx/b": b"b", "shared": b"not the same"}, {"shared/b": b"b"}])
def test_bundles_whose_files_are_in_each_other_s_way_are_refused(store: Store, other: dict[str, bytes]) -> None:
    a = made.bundle(store, "a", {"onnx/a": b"a", "shared": b"same"})
    b = made.bundle(store, "b", other)

    with pytest.raises(IntegrityError, match="shared"):
        plan(made.runtime(store), [a, b])
    with pytest.raises(IntegrityError, match="shared"):
        plan(grafted(made.runtime(store), a), [b])


def test_a_bundle_s_compressed_layers_are_refused_with_the_way_out(store: Store) -> None:
    bundle = made.compressed(made.bundle(store, "a"))

    with pytest.raises(RefusedError, match="compression=uncompressed"):
        plan(made.runtime(store), [bundle])


def test_an_image_without_bundles_is_no_bundle(store: Store) -> None:
    with pytest.raises(IntegrityError, match="holds no bundle"):
        plan(made.runtime(store), [made.runtime(store)])


def test_a_modelpack_manifest_is_no_image(store: Store) -> None:
    config = descriptor_of(b"{}", "application/vnd.cncf.model.config.v1+json")
    model = made.put(store, ImageManifest(2, config, (), IMAGE_MANIFEST), [b"{}"])

    with pytest.raises(IntegrityError, match=r"is no image.*-modelpack"):
        plan((store, model), [made.bundle(store, "a")])


def test_a_bundle_given_twice_is_a_matter_of_usage(store: Store) -> None:
    with pytest.raises(UsageError, match="a is given twice"):
        plan(made.runtime(store), [made.bundle(store, "a"), made.bundle(store, "a", version="2.0.0")])


def test_a_bundle_s_layer_is_known_by_its_bytes_and_not_by_what_is_said_of_it(store: Store) -> None:
    a = made.bundle(store, "a", {"goldens/a": b"1", "onnx/a": b"2"})
    found = made.manifest_of(a)
    names = [one.annotations for one in found.layers]
    names[0], names[1] = names[1], names[0]
    swapped = tuple(
        Descriptor(LAYER_TAR, one.digest, one.size, annotations=name)
        for one, name in zip(found.layers, names, strict=True)
    )
    lying = store, made.put(store, ImageManifest(2, found.config, swapped, IMAGE_MANIFEST))

    assert grafted(made.runtime(store), lying) == grafted(made.runtime(store), a)


@pytest.mark.parametrize("hostile", [{"usr/bin/python3": b"#!"}, {"models/onnx/a": b"1", "etc/passwd": b""}])
def test_a_layer_of_something_else_does_not_come_in_under_a_file_s_name(
    store: Store, hostile: dict[str, bytes]
) -> None:
    a = made.bundle(store, "a", {"goldens/a": b"1", "onnx/a": b"2"})
    found, data = made.manifest_of(a), made.tar_of(hostile)
    other = descriptor_of(data, LAYER_TAR, annotations=found.layers[1].annotations)
    layers = (found.layers[0], other, found.layers[2])
    config = made.config_of(a) | {"rootfs": {"type": "layers", "diff_ids": [one.digest for one in layers]}}
    described = descriptor_of(encode(config), found.config.media_type)
    lying = made.put(store, ImageManifest(2, described, layers, IMAGE_MANIFEST), [data, encode(config)])

    with pytest.raises(IntegrityError, match="has no layer of onnx/a in modelbake's format"):
        plan(made.runtime(store), [(store, lying)])


def test_a_layer_of_another_size_than_the_listed_file_is_refused(store: Store) -> None:
    a = made.bundle(store, "a", {"goldens/a": b"1", "onnx/a": b"2"})
    found, data = made.manifest_of(a), made.file_layer("onnx/a", bytes(5000))
    layers = (found.layers[0], descriptor_of(data, LAYER_TAR), found.layers[2])
    config = made.config_of(a) | {"rootfs": {"type": "layers", "diff_ids": [one.digest for one in layers]}}
    described = descriptor_of(encode(config), found.config.media_type)
    lying = made.put(store, ImageManifest(2, described, layers, IMAGE_MANIFEST), [data, encode(config)])

    with pytest.raises(IntegrityError, match="is not that of onnx/a, which has 1 bytes"):
        plan(made.runtime(store), [(store, lying)])


def test_a_config_that_counts_other_layers_is_refused(store: Store) -> None:
    runtime = made.runtime(store, rootfs={"type": "layers", "diff_ids": []})

    with pytest.raises(IntegrityError, match="2 layers, but its config tells of 0"):
        plan(runtime, [made.bundle(store, "a")])


@pytest.mark.parametrize("config", [{"rootfs": 5}, {"rootfs": {"diff_ids": ["sha256:../.."]}}, {"config": []}])
def test_a_config_of_another_shape_is_refused(store: Store, config: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError, match="config"):
        plan(made.runtime(store, **config), [made.bundle(store, "a")])


def test_a_layer_that_cannot_be_distributed_is_refused(store: Store) -> None:
    runtime = made.runtime(store)
    found = made.manifest_of(runtime)
    foreign = tuple(
        Descriptor("application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", one.digest, one.size)
        for one in found.layers
    )
    other = made.put(store, ImageManifest(2, found.config, foreign, IMAGE_MANIFEST))

    with pytest.raises(IntegrityError, match=r"foreign\.diff"):
        plan((store, other), [made.bundle(store, "a")])


def test_an_image_of_more_layers_than_engines_take_is_refused(store: Store) -> None:
    most = graft_module.MOST_LAYERS
    runtime = made.runtime(store)
    fits = {f"f{number:03}": b"%d" % number for number in range(most - 3)}

    assert len(made.manifest_of(grafted(runtime, made.bundle(store, "a", fits))).layers) == most
    with pytest.raises(IntegrityError, match=f"{most + 1} layers"):
        plan(runtime, [made.bundle(store, "a", {**fits, "one-more": b""})])


def test_names_to_replace_must_be_in_the_image_and_among_the_bundles(store: Store) -> None:
    runtime, a, b = made.runtime(store), made.bundle(store, "a"), made.bundle(store, "b")

    with pytest.raises(UnknownNameError, match=r"no bundle a to replace\. It has: none"):
        plan(runtime, [a], ["a"])
    with pytest.raises(UsageError, match="none of the bundles given is it: a"):
        plan(grafted(runtime, b), [a], ["b"])
    with pytest.raises(RefusedError, match="holds a already; say --replace a"):
        plan(grafted(runtime, a), [a])


def test_the_manifest_is_the_merged_one_and_reads_the_same(store: Store) -> None:
    new = grafted(made.runtime(store), made.bundle(store, "a"), made.bundle(store, "b", version="2.0.0"))
    found = json.loads(made.unpacked(new)[MANIFEST])

    assert [(entry["name"], entry["version"]) for entry in found["bundles"]] == [("a", "1.0.0"), ("b", "2.0.0")]
