"""The store: what is in it is whole, whoever adds, tags, removes or sweeps; damage is found and never spread."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from pathlib import Path

import pytest

from modelbake.errors import IntegrityError, MachineError, UnknownNameError
from modelbake.oci import store as store_module
from modelbake.oci.blob import Blob, of_bytes
from modelbake.oci.model import (
    IMAGE_INDEX,
    IMAGE_MANIFEST,
    LAYER_TAR,
    Descriptor,
    ImageIndex,
    Platform,
    descriptor_of,
    digest_of,
    encode,
)
from modelbake.oci.place import MOST_DEPTH, reachable
from modelbake.oci.store import Store, Swept
from tests.unit.oci.conftest import Image, left_over, on_disk


def test_what_was_put_in_is_found_by_name_and_digest_and_read_back(store: Store, first: Image) -> None:
    first.put(store, "minilm:1")

    assert store.names() == ["minilm:1"]
    assert store.resolve("minilm:1") == store.resolve(first.root.digest) == first.root
    for blob in first.blobs:
        assert b"".join(store.blob(blob.descriptor).chunks()) == b"".join(blob.chunks())
        assert store.part(blob.descriptor, 3, 10) == b"".join(blob.chunks())[3:13]
    assert store.read(first.root) == b"".join(first.blobs[-1].chunks())
    assert left_over(store) == []


def test_the_folder_is_an_oci_image_layout(store: Store, first: Image) -> None:
    """image-spec, image-layout.md: oci-layout, index.json, blobs/<algorithm>/<hex>."""
    first.put(store, "minilm:1")

    assert json.loads((store.folder / "oci-layout").read_bytes()) == {"imageLayoutVersion": "1.0.0"}
    assert json.loads((store.folder / "index.json").read_bytes()) == {
        "schemaVersion": 2,
        "mediaType": IMAGE_INDEX,
        "manifests": [
            {
                "mediaType": IMAGE_MANIFEST,
                "digest": first.root.digest,
                "size": first.root.size,
                "annotations": {"org.opencontainers.image.ref.name": "minilm:1"},
            }
        ],
    }
    assert on_disk(store) == first.digests


def test_a_store_that_does_not_exist_is_empty_and_is_not_made_by_looking(store: Store, first: Image) -> None:
    assert store.names() == []
    assert not store.has(first.root)
    assert store.verify() == []
    assert store.gc() == Swept(0, 0)
    with pytest.raises(UnknownNameError, match=r"has no 'minilm'; it has: nothing"):
        store.resolve("minilm")
    with pytest.raises(UnknownNameError, match="has no 'minilm'"):
        store.remove(["minilm"])
    assert not store.folder.exists()


def test_an_unknown_name_is_an_error_that_lists_the_known(store: Store, first: Image) -> None:
    first.put(store, "b:1", "a:1")

    with pytest.raises(UnknownNameError, match=r"has no 'c:1'; it has: a:1, b:1") as caught:
        store.resolve("c:1")
    assert caught.value.exit_code == 3


def test_a_tag_over_a_tag_leads_to_the_new_image_alone(store: Store, first: Image, second: Image) -> None:
    first.put(store, "minilm:latest", "minilm:1")
    second.put(store, "minilm:latest")

    assert store.resolve("minilm:latest") == second.root
    assert store.resolve("minilm:1") == first.root
    store.remove(["minilm:1"])
    assert store.gc().blobs == len(first.digests)
    assert on_disk(store) == second.digests


def test_remove_takes_names_and_gc_what_no_name_leads_to(store: Store, first: Image, second: Image) -> None:
    first.put(store, "a", "b")
    second.put(store, "c")

    store.remove(["a"])
    assert store.gc() == Swept(0, 0)
    store.remove(["b"])
    assert on_disk(store) == first.digests | second.digests
    swept = store.gc()
    assert swept == Swept(len(first.digests), sum(blob.descriptor.size for blob in first.blobs))
    assert on_disk(store) == second.digests
    assert store.verify()


def test_removing_a_digest_takes_all_its_names(store: Store, first: Image, second: Image) -> None:
    first.put(store, "a", "b")
    second.put(store, "c")

    store.remove([first.root.digest])

    assert store.names() == ["c"]


def test_when_one_name_is_unknown_none_is_removed(store: Store, first: Image) -> None:
    first.put(store, "a")

    with pytest.raises(UnknownNameError, match="'z'"):
        store.remove(["a", "z"])

    assert store.names() == ["a"]


def test_blobs_that_images_share_stay_while_one_is_named(store: Store, first: Image, second: Image) -> None:
    index = encode(
        ImageIndex(
            2, (first.root, Descriptor(second.root.media_type, second.root.digest, second.root.size)), IMAGE_INDEX
        )
    )
    first.put(store, "a")
    second.put(store)
    with store.adding():
        store.add(of_bytes(index, descriptor_of(index, IMAGE_INDEX)))
        store.tag("both", descriptor_of(index, IMAGE_INDEX))
    store.remove(["a"])

    assert store.gc() == Swept(0, 0)
    assert on_disk(store) == first.digests | second.digests | {digest_of(index)}
    assert {one.digest for one in reachable(store, store.resolve("both"))} == on_disk(store)


# ---- bytes that are not what was promised -----------------------------------------------------------------------------


def test_other_bytes_than_the_digest_are_refused_and_nothing_is_kept(store: Store) -> None:
    promised = Descriptor(LAYER_TAR, digest_of(b"right"), 5)

    with (
        store.adding(),
        pytest.raises(
            IntegrityError,
            match=r"not the 5 bytes of sha256:\w+: its 5 bytes are of sha256:\w+. Nothing of it was kept",
        ) as caught,
    ):
        store.add(of_bytes(b"wrong", promised))

    assert caught.value.exit_code == 5
    assert (on_disk(store), left_over(store)) == (set(), [])


def test_another_size_than_promised_is_refused(store: Store) -> None:
    with store.adding(), pytest.raises(IntegrityError, match=r"not the 6 bytes of .*: its 5 bytes are of"):
        store.add(of_bytes(b"right", Descriptor(LAYER_TAR, digest_of(b"right"), 6)))
    assert on_disk(store) == set()


@pytest.mark.parametrize("how", ["shorter", "gone", "unreadable"])
def test_a_file_that_changes_while_it_is_added_leaves_nothing(store: Store, first: Image, how: str) -> None:
    layer = first.blobs[0]
    file = next(piece.path for piece in layer.pieces if not isinstance(piece, bytes))
    if how == "shorter":
        file.write_bytes(file.read_bytes()[:-1])
    else:
        file.unlink()
    if how == "unreadable":
        file.mkdir()

    words = {"shorter": "became shorter", "gone": "is gone", "unreadable": "cannot be read"}
    with store.adding(), pytest.raises((IntegrityError, MachineError), match=words[how]):
        store.add(layer)

    assert (on_disk(store), left_over(store)) == (set(), [])


def test_what_is_there_already_is_not_read_again(store: Store, first: Image) -> None:
    first.put(store, "a")
    layer = first.blobs[0]

    with store.adding():
        store.add(Blob(layer.descriptor, (b"other bytes",)))

    assert b"".join(store.blob(layer.descriptor).chunks()) == b"".join(layer.chunks())


def test_a_name_cannot_lead_to_what_is_not_there(store: Store, first: Image) -> None:
    with store.adding():
        store.add(first.blobs[1])
        store.add(first.blobs[2])
        with pytest.raises(UnknownNameError, match=f"has no blob {first.blobs[0].descriptor.digest}"):
            store.tag("a", first.root)

    assert store.names() == []


# ---- damage on the disk -----------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize("which", [0, 1, 2], ids=["layer", "config", "manifest"])
def test_verify_finds_a_flipped_bit(store: Store, first: Image, second: Image, which: int) -> None:
    first.put(store, "a")
    second.put(store, "b")
    assert {one.digest for one in store.verify()} == first.digests | second.digests
    damaged = first.blobs[which].descriptor
    flip(store.path(damaged))

    with pytest.raises(IntegrityError, match=rf"Damaged or missing in .*{damaged.digest}\. Take away") as caught:
        store.verify()
    assert not [digest for digest in second.digests if digest in str(caught.value)]


def test_verify_names_all_that_are_damaged_missing_or_cut(store: Store, first: Image, second: Image) -> None:
    first.put(store, "a")
    second.put(store, "b")
    bad = [first.blobs[0].descriptor, first.blobs[1].descriptor, second.blobs[0].descriptor]
    flip(store.path(bad[0]))
    store.path(bad[1]).unlink()
    os.truncate(store.path(bad[2]), 100)

    with pytest.raises(IntegrityError) as caught:
        store.verify()

    assert all(one.digest in str(caught.value) for one in bad)


def test_what_verify_advises_mends_the_store(store: Store, first: Image) -> None:
    first.put(store, "a")
    flip(store.path(first.blobs[0].descriptor))
    store.path(first.blobs[0].descriptor).unlink()

    first.put(store, "a")

    assert {one.digest for one in store.verify()} == first.digests


def test_a_damaged_manifest_is_not_read_and_stops_gc_before_it_takes_anything(
    store: Store, first: Image, second: Image
) -> None:
    first.put(store, "a")
    second.put(store)
    flip(store.path(first.root))

    with pytest.raises(IntegrityError, match="is damaged; take it away, then pull or pack again"):
        store.read(first.root)
    with pytest.raises(IntegrityError, match="is damaged"):
        store.gc()
    assert on_disk(store) == first.digests | second.digests


def test_a_blob_too_large_for_a_manifest_is_not_read_into_memory(store: Store) -> None:
    with pytest.raises(IntegrityError, match="more than a manifest may have"):
        store.read(Descriptor(IMAGE_MANIFEST, digest_of(b""), 1 << 40))


@pytest.mark.parametrize("length", [0, 1, 40, -2])
def test_a_truncated_index_is_an_error_and_never_overwritten(
    store: Store, first: Image, second: Image, length: int
) -> None:
    first.put(store, "a")
    index = store.folder / "index.json"
    cut = index.read_bytes()[:length]
    index.write_bytes(cut)

    for attempt in (
        store.names,
        store.gc,
        store.verify,
        lambda: store.resolve("a"),
        lambda: store.remove(["a"]),
        lambda: second.put(store, "b"),
    ):
        with pytest.raises(IntegrityError, match=r"index\.json is no ImageIndex") as caught:
            attempt()
        assert caught.value.exit_code == 5
    assert index.read_bytes() == cut
    assert first.digests <= on_disk(store)


def test_an_index_that_leads_to_no_digest_but_a_path_is_refused(store: Store, first: Image) -> None:
    first.put(store, "a")
    index = store.folder / "index.json"
    index.write_text(index.read_text().replace(first.root.hex, "../../../../etc/passwd"))

    with pytest.raises(IntegrityError, match=r"index\.json is no ImageIndex"):
        store.gc()


def test_documents_nested_without_end_are_refused(store: Store, first: Image) -> None:
    first.put(store)
    inner, depth = first.root, 1
    with store.adding():
        while depth <= MOST_DEPTH:
            data = encode(ImageIndex(2, (inner,), IMAGE_INDEX))
            inner = descriptor_of(data, IMAGE_INDEX)
            store.add(of_bytes(data, inner))
            store.tag("deep", inner) if depth < MOST_DEPTH else None
            depth += 1
        with pytest.raises(IntegrityError, match="nested more than 8 documents deep"):
            store.tag("too-deep", inner)
    assert store.names() == ["deep"]


# ---- layouts of other tools -------------------------------------------------------------------------------------------


def test_a_layout_that_another_tool_made_is_a_store(store: Store, first: Image, second: Image) -> None:
    """No folders but blobs, an index with entries without names and with fields that are not ours."""
    first.put(store, "a")
    for name in ("ingest", "locks"):
        shutil.rmtree(store.folder / name)
    index = json.loads((store.folder / "index.json").read_bytes())
    index["manifests"][0] = {**index["manifests"][0], "urls": ["https://example.com"], "annotations": {"x": "y"}}
    (store.folder / "index.json").write_text(json.dumps(index, indent=2))

    assert store.names() == []
    assert store.gc() == Swept(0, 0)
    second.put(store, "b")
    assert store.resolve(first.root.digest) == first.root
    assert {one.digest for one in store.verify()} == first.digests | second.digests


def test_an_image_of_several_platforms_is_kept_whole(store: Store, first: Image, second: Image) -> None:
    first.put(store)
    second.put(store)
    platforms = [Platform("amd64", "linux"), Platform("arm64", "linux", "v8")]
    manifests = tuple(
        Descriptor(one.root.media_type, one.root.digest, one.root.size, platform=platform)
        for one, platform in zip((first, second), platforms, strict=True)
    )
    data = encode(ImageIndex(2, manifests, IMAGE_INDEX))
    with store.adding():
        store.add(of_bytes(data, descriptor_of(data, IMAGE_INDEX)))
        store.tag("both", descriptor_of(data, IMAGE_INDEX))

    assert store.gc() == Swept(0, 0)
    assert on_disk(store) == first.digests | second.digests | {digest_of(data)}


def test_no_index_is_written_that_could_not_be_read_again(
    store: Store, first: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MOST_LAYERS", 2)
    first.put(store, "a", "b")

    with pytest.raises(MachineError, match=r"as many names as a store can have; remove some"):
        first.put(store, "c")
    first.put(store, "b")

    assert store.names() == ["a", "b"]


# ---- locks ------------------------------------------------------------------------------------------------------------


def gc_may_run(store: Store) -> bool:
    """Whether nobody holds the lock that `gc` needs."""
    with (store.folder / "locks" / "gc").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_gc_waits_while_anybody_adds(store: Store, first: Image) -> None:
    with store.adding():
        assert not gc_may_run(store)
        with store.adding():
            store.add(first.blobs[0])
        assert not gc_may_run(store)
    assert gc_may_run(store)


def test_gc_may_run_after_adding_failed(store: Store) -> None:
    with pytest.raises(KeyError), store.adding():
        raise KeyError
    assert gc_may_run(store)


def test_a_digest_leads_to_its_own_document_whatever_the_index_says(store: Store, first: Image, second: Image) -> None:
    first.put(store, "a")
    second.put(store, "b")
    index = store.folder / "index.json"
    # As another tool may write it, or whoever made the layout.
    index.write_bytes(index.read_bytes().replace(b'"a"', f'"{second.root.digest}"'.encode()))
    assert store.resolve(second.root.digest).digest == second.root.digest
    assert store.resolve(first.root.digest).digest == first.root.digest
