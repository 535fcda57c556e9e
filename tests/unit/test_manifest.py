"""The manifest: one canonical form, its schema, and what is damaged, hostile or contradicts itself refused."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from modelbake import manifest
from modelbake.errors import IntegrityError, MachineError, RefusedError, UnknownNameError
from modelbake.manifest import (
    Artifact,
    BundleEntry,
    CoremlPackage,
    FileRef,
    ImagePreprocessing,
    Manifest,
    Parity,
    Quality,
    SourceRecord,
    Tensor,
    Tokenizer,
    bundle_digest,
)
from scripts.write_schema import json_schema
from tests.unit import tiny

SCHEMA_FILE = Path(__file__).resolve().parents[2] / "models" / "manifest.schema.json"
SCHEMA = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
HOSTILE = ("", ".", "/etc/passwd", "../a", "a/../../b", "./a", "a//b", "a\\b", "a\0b", "a\nb")

shas = st.integers(0, 2**256 - 1).map(lambda n: f"{n:064x}")
sizes = st.integers(0, 2**53)
paths = st.lists(st.from_regex(r"[a-zA-Z0-9_é -]{1,8}", fullmatch=True), min_size=1, max_size=3).map(
    # No folder has this ending, so none of them lies in another.
    lambda parts: "/".join(parts) + ".f"
)
names = st.from_regex(r"[a-z0-9]{1,6}(-[a-z0-9]{1,4})?", fullmatch=True)
words = st.text(max_size=12)
versions = st.from_regex(r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,18}", fullmatch=True)
floats = st.floats(0, 1e6, allow_nan=False)
tensors = st.builds(Tensor, words, words, st.lists(st.integers(0, 9) | words, max_size=4).map(tuple))
parities = st.builds(Parity, floats, st.floats(1e-300, 1e6), st.integers(1, 99))
preprocessings = st.builds(
    ImagePreprocessing,
    st.integers(1, 999),
    st.sampled_from(["bicubic", "bilinear"]),
    st.tuples(floats, floats, floats),
    st.tuples(floats, floats, floats),
)


@st.composite
def entries(draw: st.DrawFn) -> BundleEntry:
    refs = [
        FileRef(path, draw(shas), draw(sizes)) for path in draw(st.lists(paths, min_size=2, max_size=6, unique=True))
    ]
    tokenizer = Tokenizer(
        draw(st.sampled_from(["clip-merges", "tokenizer.json"])), refs[-1].path, draw(st.integers(2, 99))
    )
    artifacts = [
        Artifact(
            path=ref.path,
            sha256=ref.sha256,
            size=ref.size,
            format="onnx",
            role=draw(st.sampled_from(["text_encoder", "image_encoder", "boundary_regressor"])),
            precision="fp32",
            inputs=tuple(draw(st.lists(tensors, max_size=2))),
            outputs=tuple(draw(st.lists(tensors, max_size=2))),
            parity=draw(parities),
            tools=draw(st.dictionaries(words, words, max_size=2)),
            external_data=draw(st.sampled_from([(), (refs[-1],)])),
            embedding_dimension=draw(st.none() | st.integers(1, 999)),
            normalized=draw(st.none() | st.booleans()),
            preprocessing=draw(st.none() | preprocessings),
            tokenizer=draw(st.sampled_from([None, tokenizer])),
        )
        for ref in refs[: draw(st.integers(1, 2))]
    ]
    return BundleEntry(
        name=draw(names),
        version=draw(versions),
        kind=draw(words),
        description=draw(words),
        licence=draw(words),
        weights=draw(st.sampled_from(["pretrained", "trained", "sample"])),
        pinned=draw(st.booleans()),
        source=SourceRecord(
            draw(words), tuple(refs[:1]), draw(st.none() | words), draw(st.none() | words), draw(st.none() | sizes)
        ),
        artifacts=tuple(artifacts),
        goldens=refs[1],
        files=tuple(refs),
        digest=bundle_digest(tuple(refs)),
    )


manifests = st.lists(entries(), max_size=3, unique_by=lambda entry: entry.name).map(
    lambda found: Manifest(1, tuple(sorted(found, key=lambda entry: entry.name)))
)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return tiny.models_folder(tmp_path_factory.mktemp("models"))


def test_the_schema_file_is_the_one_that_the_structures_give() -> None:
    written = json.dumps(json_schema(), indent=2) + "\n"
    assert SCHEMA_FILE.read_text(encoding="utf-8") == written, "run scripts/write_schema.py"


def test_the_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@settings(max_examples=20)
@given(manifests)
def test_the_schema_takes_every_manifest(made: Manifest) -> None:
    VALIDATOR.validate(json.loads(manifest.encode(made)))


def set_sha(document: dict[str, Any]) -> None:
    document["bundles"][0]["files"][0]["sha256"] = "A" * 64


def set_long_sha(document: dict[str, Any]) -> None:
    document["bundles"][0]["digest"] += "\n"


def set_version(document: dict[str, Any]) -> None:
    document["schema_version"] = 2


def set_bundle_version(document: dict[str, Any]) -> None:
    document["bundles"][0]["version"] = "1.0"


def set_huge_bundle_version(document: dict[str, Any]) -> None:
    # More digits than int() reads.
    document["bundles"][0]["version"] = f"1.0.{'9' * 5000}"


def set_weights(document: dict[str, Any]) -> None:
    document["bundles"][0]["weights"] = "borrowed"


def set_role(document: dict[str, Any]) -> None:
    document["bundles"][0]["artifacts"][0]["role"] = "oracle"


def set_no_artifacts(document: dict[str, Any]) -> None:
    document["bundles"][0]["artifacts"] = []


def set_negative_size(document: dict[str, Any]) -> None:
    document["bundles"][0]["files"][0]["size"] = -1


def set_unknown_field(document: dict[str, Any]) -> None:
    document["bundles"][0]["artifacts"][0]["made_at"] = "noon"


def set_no_gate(document: dict[str, Any]) -> None:
    document["bundles"][0]["artifacts"][0]["parity"]["gate"] = 0


def remove_digest(document: dict[str, Any]) -> None:
    del document["bundles"][0]["digest"]


@pytest.mark.parametrize(
    "breaks",
    [
        set_sha,
        set_long_sha,
        set_version,
        set_bundle_version,
        set_huge_bundle_version,
        set_weights,
        set_role,
        set_no_artifacts,
        set_negative_size,
        set_unknown_field,
        set_no_gate,
        remove_digest,
    ],
)
def test_the_schema_and_the_reader_refuse_the_same(real: Manifest, breaks: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(manifest.encode(real))
    breaks(document)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate(document)
    with pytest.raises(IntegrityError, match="here: ") as caught:
        manifest.decode(json.dumps(document).encode(), "here")
    assert caught.value.exit_code == 5


@settings(max_examples=40)
@given(manifests)
def test_what_is_written_is_read_back_the_same_and_written_the_same(made: Manifest) -> None:
    data = manifest.encode(made)
    assert manifest.decode(data, "here") == made
    assert manifest.encode(manifest.decode(data, "here")) == data
    assert data.endswith(b"}\n")


@settings(max_examples=40)
@given(manifests, st.randoms(use_true_random=False))
def test_the_bytes_do_not_depend_on_the_order_of_bundles_or_keys(made: Manifest, chance: random.Random) -> None:
    bundles = list(made.bundles)
    chance.shuffle(bundles)
    shuffled = Manifest(
        1, tuple(replace(b, artifacts=tuple(_shuffled(a, chance) for a in b.artifacts)) for b in bundles)
    )
    assert manifest.encode(shuffled) == manifest.encode(made)


def _shuffled(artifact: Artifact, chance: random.Random) -> Artifact:
    tools = list(artifact.tools.items())
    chance.shuffle(tools)
    return replace(artifact, tools=dict(tools))


def test_every_truncation_is_an_integrity_error(real: Manifest) -> None:
    data = manifest.encode(real)
    for length in range(0, len(data.rstrip()), 37):
        with pytest.raises(IntegrityError, match="here: "):
            manifest.decode(data[:length], "here")


@given(st.binary(max_size=50))
def test_any_bytes_are_a_manifest_or_an_integrity_error(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="here: "):
        manifest.decode(data, "here")


@given(st.binary(min_size=1, max_size=3))
def test_bytes_that_are_not_utf8_are_an_integrity_error(noise: bytes) -> None:
    data = b'{"schema_version":1,"bundles":[{"name":"\xff' + noise + b'"}]}'
    with pytest.raises(IntegrityError, match="here: "):
        manifest.decode(data, "here")


@pytest.mark.parametrize("version", ["0", "2", "1.5", '"1"', "null", "1e999"])
def test_a_manifest_of_another_version_is_refused(version: str) -> None:
    with pytest.raises(IntegrityError, match="schema_version"):
        manifest.decode(f'{{"schema_version":{version},"bundles":[]}}'.encode(), "here")


@pytest.mark.parametrize("path", HOSTILE)
@pytest.mark.parametrize(
    "place",
    [
        ("files", 0, "path"),
        ("goldens", "path"),
        ("source", "files", 0, "path"),
        ("artifacts", 0, "path"),
        ("artifacts", 0, "tokenizer", "path"),
        ("artifacts", 0, "external_data", 0, "path"),
    ],
)
def test_a_hostile_path_anywhere_is_refused_for_safety(real: Manifest, place: tuple[str | int, ...], path: str) -> None:
    document = json.loads(manifest.encode(real))
    entry = document["bundles"][1]
    entry["source"]["files"] = [dict(entry["goldens"])]
    entry["artifacts"][0]["external_data"] = [dict(entry["goldens"])]
    manifest.decode(json.dumps(document).encode(), "here")
    target = entry
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = path
    with pytest.raises(RefusedError, match="here: tiny-text") as caught:
        manifest.decode(json.dumps(document).encode(), "here")
    assert caught.value.exit_code == 8


def test_the_lengths_of_a_text_encoder_are_its_package_s_else_its_fixed_shape_s(real: Manifest) -> None:
    free = real.bundle("tiny-text").artifacts[0]
    fixed = replace(free, inputs=(Tensor("attention_mask", "int32", (1, 7)), Tensor("input_ids", "int32", (1, 77))))
    package = CoremlPackage("coreml/Tiny.mlpackage", {}, (64, 32))
    assert replace(fixed, coreml=package).sequence_lengths == (32, 64)
    assert replace(fixed, coreml=replace(package, lengths=())).sequence_lengths == (77,)
    for lacking in (free, replace(free, inputs=()), replace(free, inputs=(Tensor("input_ids", "int32", ()),))):
        with pytest.raises(IntegrityError, match=f"{free.path}: the manifest gives no length of its texts"):
            _ = lacking.sequence_lengths


def unlisted(entry: BundleEntry, path: str) -> BundleEntry:
    return replace(entry, files=tuple(ref for ref in entry.files if ref.path != path))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: unlisted(e, e.artifacts[0].path), "onnx/tiny-text.onnx"),
        (lambda e: unlisted(e, e.goldens.path), "goldens/tiny-text.npz"),
        (lambda e: unlisted(e, e.artifacts[0].tokenizer.path), "tokenizers/tiny-text/tokenizer.json"),
        (lambda e: replace(e, artifacts=(replace(e.artifacts[0], sha256="0" * 64),)), "onnx/tiny-text.onnx"),
        (lambda e: replace(e, goldens=replace(e.goldens, size=1)), "goldens/tiny-text.npz"),
        (
            lambda e: replace(e, artifacts=(replace(e.artifacts[0], external_data=(FileRef("w", "0" * 64, 1),)),)),
            "uses w",
        ),
        (lambda e: replace(e, files=e.files * 2), "lists a file twice"),
        (lambda e: replace(e, files=(*e.files, FileRef(f"{e.goldens.path}/x", "0" * 64, 1))), "is a file"),
        (lambda e: replace(e, files=(*e.files, FileRef(manifest.MANIFEST_NAME, "0" * 64, 1))), "itself"),
        (lambda e: replace(e, artifacts=(replace(e.artifacts[0], parity=None),)), "has none of parity and quality"),
        (
            lambda e: replace(e, artifacts=(replace(e.artifacts[0], quality=Quality(1, 1, 1, 1, 20)),)),
            "has both of parity and quality",
        ),
    ],
)
def test_what_contradicts_itself_is_refused(
    real: Manifest, change: Callable[[BundleEntry], BundleEntry], words: str
) -> None:
    changed = Manifest(1, (change(real.bundle("tiny-text")),))
    with pytest.raises(IntegrityError, match=words):
        manifest.decode(manifest.encode(changed), "here")


def test_one_bundle_twice_is_refused(real: Manifest) -> None:
    with pytest.raises(IntegrityError, match="'tiny-text' is in it twice"):
        manifest.decode(manifest.encode(Manifest(1, (real.bundle("tiny-text"),) * 2)), "here")


def test_merging_keeps_all_bundles_sorted_and_the_later_of_one_name(real: Manifest) -> None:
    image, text = real.bundles
    newer = replace(text, version="2.0.0")
    merged = manifest.merge([Manifest(1, (text,)), Manifest(1, (newer, image))])
    assert merged.bundles == (image, newer)
    assert manifest.merge([]) == Manifest(1, ())


@given(st.lists(st.builds(FileRef, paths, shas, sizes), max_size=6, unique_by=lambda f: f.path), st.randoms())
def test_the_digest_of_files_does_not_depend_on_their_order(files: list[FileRef], chance: random.Random) -> None:
    shuffled = list(files)
    chance.shuffle(shuffled)
    assert bundle_digest(tuple(shuffled)) == bundle_digest(tuple(files))


def test_the_digest_of_files_is_that_of_sha256sum_s_lines() -> None:
    files = (FileRef("b", "1" * 64, 9), FileRef("a", "2" * 64, 9))
    # printf '%s  a\n%s  b\n' 22… 11… | sha256sum
    assert bundle_digest(files) == "fc25e17b5f5131825c5c9ba8aa01dedae1a27894b26b68fb29bbf4bc1e4171d3"
    assert bundle_digest((files[0],)) != bundle_digest(files)


def test_what_a_manifest_does_not_have_is_told_with_what_it_has(real: Manifest) -> None:
    with pytest.raises(UnknownNameError, match=r"It has: tiny-image, tiny-text\."):
        real.bundle("other")
    with pytest.raises(UnknownNameError, match=r"It has: none\."):
        Manifest(1, ()).bundle("other")
    with pytest.raises(UnknownNameError, match="has no image_encoder; it has: text_encoder"):
        real.bundle("tiny-text").artifact("image_encoder")


def test_a_folder_without_a_manifest_has_no_models(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(MachineError, match="there are no models here") as caught:
            manifest.read(folder)
        assert caught.value.exit_code == 7


def test_a_manifest_that_cannot_be_read_is_a_fault_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / manifest.MANIFEST_NAME).mkdir()
    with pytest.raises(MachineError, match="cannot be read"):
        manifest.read(tmp_path)


def test_writing_leaves_one_readable_file(real: Manifest, tmp_path: Path) -> None:
    path = manifest.write(tmp_path, real)
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o644
    assert manifest.read(tmp_path) == real


@pytest.mark.parametrize("broken", ["fsync", "replace"])
def test_a_failure_in_the_middle_leaves_the_old_manifest(
    real: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    path = manifest.write(tmp_path, real)
    old = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, broken, fail)
    with pytest.raises(OSError, match="No space"):
        manifest.write(tmp_path, Manifest(1, ()))
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


def test_parity_figures_and_other_numbers_survive_to_the_last_bit(real: Manifest) -> None:
    figures = Parity(0.1 + 0.2, 5e-324, 1)
    entry = real.bundle("tiny-text")
    changed = Manifest(1, (replace(entry, artifacts=(replace(entry.artifacts[0], parity=figures),)),))
    assert manifest.decode(manifest.encode(changed), "here").bundles[0].artifacts[0].parity == figures
    assert msgspec.json.decode(manifest.encode(changed))["bundles"][0]["artifacts"][0]["parity"]["cases"] == 1


def of_kind(name: str, kind: str, default: bool = False) -> BundleEntry:
    ref = FileRef("x", "0" * 64, 1)
    source = SourceRecord("sample", (), seed=0)
    return BundleEntry(name, "1.0.0", kind, "", "MIT", "sample", True, source, (), ref, (ref,), "0" * 64, default)


def test_a_kind_s_name_stands_for_its_default_bundle_or_its_only_one() -> None:
    made = Manifest(1, (of_kind("a", "clip"), of_kind("b", "clip", default=True), of_kind("c", "text_encoder")))
    assert [made.bundle_or_default(name).name for name in ("a", "clip", "text_encoder")] == ["a", "b", "c"]
    with pytest.raises(UnknownNameError, match=r"no bundle 'cross_encoder'\. It has: a, b, c"):
        made.bundle_or_default("cross_encoder")


def test_a_bundle_s_own_name_goes_before_a_kind_s() -> None:
    made = Manifest(1, (of_kind("clip", "text_encoder"), of_kind("b", "clip", default=True)))
    assert made.bundle_or_default("clip").name == "clip"


def test_a_kind_with_several_bundles_and_no_default_is_asked_for_a_name() -> None:
    made = Manifest(1, (of_kind("a", "clip"), of_kind("b", "clip")))
    with pytest.raises(UnknownNameError, match="no default bundle of the kind clip; name one of: a, b") as caught:
        made.bundle_or_default("clip")
    assert caught.value.exit_code == 3


def test_of_merged_manifests_the_later_default_of_a_kind_stays() -> None:
    first = Manifest(1, (of_kind("a", "clip", default=True), of_kind("t", "text_encoder", default=True)))
    merged = manifest.merge([first, Manifest(1, (of_kind("b", "clip", default=True),))])
    assert {entry.name: entry.default for entry in merged.bundles} == {"a": False, "b": True, "t": True}


def test_a_manifest_with_two_defaults_of_a_kind_is_refused(tmp_path: Path) -> None:
    made = tiny.models_folder(tmp_path)
    both = Manifest(1, tuple(replace(entry, kind="clip", default=True) for entry in made.bundles))
    with pytest.raises(IntegrityError, match="the kind clip has two defaults"):
        manifest.decode(manifest.encode(both), "m")
