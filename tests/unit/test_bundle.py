"""Definitions of bundles: the repository's own parse, and what does not fit is refused by file and field."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelbake.bundle import Bundle, Fp16Variant, HubSource, Int8Variant, QualityGates, parse_bundle, safe_relative_path
from modelbake.catalog import Catalog
from modelbake.errors import IntegrityError, RefusedError, UnknownNameError
from modelbake.export.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]
CATALOG = Catalog(ROOT / "bundles")
SHA = "0123456789abcdef" * 4
COMMIT = "0123456789abcdef0123456789abcdef01234567"
WHERE = "bundles/tiny/bundle.toml"

HOSTILE = (
    "",
    ".",
    "..",
    "/",
    "/etc/passwd",
    "../a",
    "a/../b",
    "a/..",
    "./a",
    "a/./b",
    "a//b",
    "a/",
    "a\\b",
    "a\0b",
    "a\nb",
    "a\x7f",
)


def definition(**changes: Any) -> dict[str, Any]:
    """A definition that parses, with changes."""
    return {
        "schema_version": 1,
        "name": "tiny",
        "version": "1.0.0",
        "description": "a model",
        "licence": "MIT",
        "pinned": True,
        "model": {"kind": "text_encoder", "model": "Tiny", "max_tokens": 8},
        "sources": [{"type": "hub", "repository": "o/r", "revision": COMMIT}],
        "files": [{"path": "model.safetensors", "sha256": SHA, "size": 3}],
        **changes,
    }


def toml(document: dict[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in document.items())


def _value(value: Any) -> str:
    match value:
        case dict():
            return "{ " + ", ".join(f"{key} = {_value(item)}" for key, item in value.items()) + " }"
        case list():
            return "[" + ", ".join(map(_value, value)) + "]"
        case float():
            return str(value)
        case _:
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def parse(document: dict[str, Any]) -> Bundle:
    return parse_bundle(toml(document), WHERE)


@pytest.mark.parametrize("name", CATALOG.names())
def test_every_bundle_of_the_repository_parses(name: str) -> None:
    bundle = CATALOG.get(name)
    assert bundle.name == name
    assert bundle.kind in FAMILIES


def test_a_full_definition_parses_into_its_fields() -> None:
    bundle = parse(definition())
    assert bundle.kind == "text_encoder"
    assert bundle.sources == (HubSource("o/r", COMMIT),)
    assert (bundle.files[0].path, bundle.files[0].sha256, bundle.files[0].size) == ("model.safetensors", SHA, 3)
    assert bundle.sample_source is None
    assert bundle.gates.max_abs_diff == 1e-5


@given(
    place=st.sampled_from(["", "model", "sources", "files", "gates"]),
    field=st.from_regex(r"[a-z]{1,8}_x", fullmatch=True),
)
def test_an_unknown_field_is_refused_and_named(place: str, field: str) -> None:
    document = definition(gates={})
    target = document[place] if place else document
    (target[0] if isinstance(target, list) else target)[field] = 1
    with pytest.raises(IntegrityError, match=f"(?s){WHERE}.*{field}") as caught:
        parse(document)
    assert caught.value.exit_code == 5


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("files[0].sha256", {"files": [{"path": "a", "sha256": SHA[1:]}]}),
        ("files[0].sha256", {"files": [{"path": "a", "sha256": SHA.upper()}]}),
        ("files[0].sha256", {"files": [{"path": "a", "sha256": SHA + "\n"}]}),
        ("files[0].size", {"files": [{"path": "a", "sha256": SHA, "size": -1}]}),
        ("files", {"files": []}),
        ("sources", {"sources": []}),
        ("sources[0]", {"sources": [{"type": "ftp"}]}),
        ("sources[0].url", {"sources": [{"type": "url", "url": "ftp://host/"}]}),
        ("sources[0].url", {"sources": [{"type": "url", "url": "https://host/no-slash"}]}),
        ("sources[0].url", {"sources": [{"type": "url", "url": "https://host/\n"}]}),
        ("model", {"model": {"kind": "diffusion", "model": "x"}}),
        ("model.max_tokens", {"model": {"kind": "text_encoder", "model": "x", "max_tokens": 1}}),
        ("name", {"name": "../tiny"}),
        ("name", {"name": "Tiny"}),
        ("name", {"name": "tiny\n"}),
        ("name", {"name": "a" * 65}),
        ("version", {"version": "1.0"}),
        ("version", {"version": "1.0.0\n"}),
        ("version", {"version": "1.0.٣"}),
        ("schema_version", {"schema_version": 2}),
        ("pinned", {"pinned": "yes"}),
        ("gates.max_abs_diff", {"gates": {"max_abs_diff": 0.0}}),
        ("gates.max_abs_diff", {"gates": {"max_abs_diff": float("nan")}}),
        ("gates.max_abs_diff", {"gates": {"max_abs_diff": float("inf")}}),
        ("model.safetensors", {"files": [{"path": "model.safetensors", "sha256": SHA}] * 2}),
        ("weights.bin", {"model": {"kind": "clip", "model": "x", "architecture": "y", "weights": "weights.bin"}}),
        ("data.json", {"model": {"kind": "boundary_regressor", "model": "x", "data": "data.json"}}),
    ],
)
def test_a_value_that_does_not_fit_is_refused_and_named(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError) as caught:
        parse(definition(**change))
    assert WHERE in str(caught.value)
    assert field in str(caught.value)


@pytest.mark.parametrize(
    "field", ["schema_version", "name", "version", "description", "licence", "model", "sources", "files"]
)
def test_a_missing_field_is_refused_and_named(field: str) -> None:
    document = definition()
    del document[field]
    with pytest.raises(IntegrityError, match=f"(?s){WHERE}.*{field}"):
        parse(document)


@pytest.mark.parametrize("text", ["", "name = ", "a = 1\na = 2", "= [", "x = [[[[", 'name = "\\ud800"'])
def test_what_is_no_toml_is_refused(text: str) -> None:
    with pytest.raises(IntegrityError, match=WHERE):
        parse_bundle(text, WHERE)


@given(st.text(max_size=60))
def test_any_text_is_a_bundle_or_an_integrity_error(text: str) -> None:
    with pytest.raises(IntegrityError, match=WHERE):
        parse_bundle(text, WHERE)


@pytest.mark.parametrize("path", HOSTILE)
def test_a_hostile_file_path_is_refused_for_safety(path: str) -> None:
    files = [{"path": "model.safetensors", "sha256": SHA}, {"path": path, "sha256": SHA}]
    with pytest.raises(RefusedError) as caught:
        parse(definition(files=files))
    assert caught.value.exit_code == 8
    assert f"{WHERE}: files[1].path" in str(caught.value)
    assert repr(path) in str(caught.value)


@pytest.mark.parametrize("path", HOSTILE)
def test_a_hostile_source_folder_or_model_name_is_refused_for_safety(path: str) -> None:
    with pytest.raises(RefusedError, match=r"sources\[0\]\.folder"):
        parse(definition(sources=[{"type": "local", "folder": path}]))
    with pytest.raises(RefusedError, match=r"model\.model"):
        parse(definition(model={"kind": "text_encoder", "model": path, "max_tokens": 8}))


@given(st.lists(st.sampled_from(["a", "b.c", ".", "..", "", "/", "\\", "\0", " ", "é", "..."]), max_size=6))
def test_a_safe_path_stays_below_its_root_under_its_own_name(parts: list[str]) -> None:
    path = "/".join(parts)
    try:
        safe = safe_relative_path(path, "a test")
    except RefusedError:
        return
    root = PurePosixPath("/root")
    assert str(safe) == path
    assert (root / safe).is_relative_to(root)
    assert root / safe != root
    assert ".." not in safe.parts


@given(st.lists(st.from_regex(r"[A-Za-z0-9_ é-]{1,6}(\.[a-z]{1,3})?", fullmatch=True), min_size=1, max_size=4))
def test_plain_paths_are_taken(parts: list[str]) -> None:
    assert safe_relative_path("/".join(parts), "a test").parts == tuple(parts)


def test_a_pinned_bundle_needs_every_sha256() -> None:
    with pytest.raises(IntegrityError, match=r"'b' has no sha256 although pinned"):
        parse(definition(files=[{"path": "a", "sha256": SHA}, {"path": "b"}]))


@pytest.mark.parametrize("revision", ["main", "v1.0", COMMIT[:7], COMMIT.upper(), COMMIT + "\n"])
def test_a_pinned_bundle_needs_a_commit(revision: str) -> None:
    source = {"type": "hub", "repository": "o/r", "revision": revision}
    with pytest.raises(IntegrityError, match="o/r is no commit although pinned"):
        parse(definition(sources=[source]))
    assert not parse(definition(sources=[source], pinned=False, files=[{"path": "a"}])).pinned


def test_the_digest_does_not_see_white_space_comments_or_order_of_fields() -> None:
    text = toml(definition())
    plain = parse_bundle(text, WHERE)
    commented = parse_bundle("# a comment\n\n" + text.replace(" = ", "   =  ").replace("\n", " # more\n\n"), WHERE)
    reordered = parse(dict(reversed(definition().items())))
    assert plain.digest == commented.digest == reordered.digest


def test_the_digest_depends_on_every_field() -> None:
    changes: list[dict[str, Any]] = [
        {},
        {"name": "other"},
        {"version": "1.0.1"},
        {"description": "another model"},
        {"licence": "Apache-2.0"},
        {"pinned": False},
        {"default": True},
        {"gates": {"max_abs_diff": 2e-5}},
        {"model": {"kind": "text_encoder", "model": "Other", "max_tokens": 8}},
        {"model": {"kind": "text_encoder", "model": "Tiny", "max_tokens": 9}},
        {"model": {"kind": "text_encoder", "model": "Tiny", "max_tokens": 8, "architecture": {"layers": 1}}},
        {"sources": [{"type": "hub", "repository": "o/q", "revision": COMMIT}]},
        {"sources": [{"type": "hub", "repository": "o/r", "revision": COMMIT[::-1]}]},
        {"sources": [{"type": "hub", "repository": "o/r", "revision": COMMIT}, {"type": "sample", "seed": 1}]},
        {"sources": [{"type": "hub", "repository": "o/r", "revision": COMMIT}, {"type": "sample", "seed": 2}]},
        {"files": [{"path": "model.safetensor", "sha256": SHA, "size": 3}]},
        {"files": [{"path": "model.safetensors", "sha256": SHA[::-1], "size": 3}]},
        {"files": [{"path": "model.safetensors", "sha256": SHA, "size": 4}]},
        {"files": [{"path": "model.safetensors", "sha256": SHA}]},
        {"evaluation": ["a text"]},
        {"variants": [{"precision": "fp16"}]},
        {"variants": [{"precision": "int8", "block": 64}]},
        {"fallbacks": [fallback()]},
        {"fallbacks": [fallback(licence="MIT")]},
    ]
    assert len({parse(definition(**change)).digest for change in changes}) == len(changes)
    named = {field for change in changes for field in change}
    assert named | {"schema_version"} == set(Bundle.__struct_fields__)


def write(folder: Path, name: str, data: bytes) -> None:
    (folder / name).mkdir()
    (folder / name / "bundle.toml").write_bytes(data)


def test_the_catalog_gives_bundles_by_name_in_the_order_asked_and_once(tmp_path: Path) -> None:
    for name in ("b", "a", "c"):
        write(tmp_path, name, toml(definition(name=name)).encode())
    (tmp_path / "no-bundle").mkdir()
    catalog = Catalog(tmp_path)
    assert catalog.names() == ["a", "b", "c"]
    assert [bundle.name for bundle in catalog.select(("c", "a", "c"))] == ["c", "a"]
    assert [bundle.name for bundle in catalog.select(())] == ["a", "b", "c"]


def test_a_kind_has_one_default_at_most(tmp_path: Path) -> None:
    for name, default in (("a", True), ("b", False), ("c", True)):
        write(tmp_path, name, toml(definition(name=name, default=default)).encode())
    catalog = Catalog(tmp_path)
    assert [bundle.default for bundle in catalog.select(("a", "b"))] == [True, False]
    with pytest.raises(
        IntegrityError, match=r"a and c say default = true, but a kind \(text_encoder\) has one default"
    ):
        catalog.select(())


@pytest.mark.parametrize("name", ["nothing", "../a", "", "/"])
def test_an_unknown_name_is_told_with_the_known_ones(tmp_path: Path, name: str) -> None:
    write(tmp_path, "a", toml(definition(name="a")).encode())
    with pytest.raises(UnknownNameError, match=r"Known bundles: a\.") as caught:
        Catalog(tmp_path).get(name)
    assert caught.value.exit_code == 3


def test_a_definition_must_bear_its_folder_s_name(tmp_path: Path) -> None:
    write(tmp_path, "a", toml(definition(name="b")).encode())
    with pytest.raises(IntegrityError, match="name is 'b', but its folder is called 'a'"):
        Catalog(tmp_path).get("a")


def test_a_definition_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    write(tmp_path, "a", b'description = "caf\xe9"\n')
    with pytest.raises(IntegrityError, match=r"bundle\.toml is no UTF-8"):
        Catalog(tmp_path).get("a")


def fallback(**changes: Any) -> dict[str, Any]:
    return {
        "model": {"kind": "text_encoder", "model": "Other", "max_tokens": 8},
        "licence": "Apache-2.0",
        "sources": [{"type": "hub", "repository": "o/other", "revision": COMMIT}],
        "files": [{"path": "model.safetensors", "sha256": SHA, "size": 4}],
        **changes,
    }


def test_candidates_are_the_bundle_itself_and_then_its_fallbacks() -> None:
    bundle = parse(definition(fallbacks=[fallback()]))
    own, other = bundle.candidates
    assert own == parse(definition())
    assert (other.name, other.model.model, other.licence, other.files[0].size) == ("tiny", "Other", "Apache-2.0", 4)
    assert other.candidates == (other,)
    assert own.digest != bundle.digest
    assert parse(definition()).candidates == (parse(definition()),)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"files": [{"path": "model.safetensors"}]}, "fallback 1: file 'model.safetensors' has no sha256"),
        (
            {"sources": [{"type": "hub", "repository": "o/r", "revision": "main"}]},
            "fallback 1: revision 'main' of o/r is no commit",
        ),
        ({"sources": [{"type": "sample", "seed": 1}]}, "sample weights are drawn for the bundle's own model alone"),
        (
            {"model": {"kind": "cross_encoder", "model": "Other", "max_tokens": 8}},
            "is a cross_encoder, the bundle is a",
        ),
        ({"model": {"kind": "text_encoder", "model": "Tiny", "max_tokens": 8}}, "the model 'Tiny' is there twice"),
        ({"files": [{"path": name, "sha256": SHA} for name in "ab"]}, "it has 2 files, the bundle's own model has 1"),
        ({"sources": []}, r"`\$.fallbacks\[0\].sources`"),
        ({"fallbacks": []}, "unknown field `fallbacks`"),
    ],
)
def test_a_fallback_that_does_not_fit_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(IntegrityError, match=message):
        parse(definition(fallbacks=[fallback(**changes)]))


@pytest.mark.parametrize(
    ("changes", "place"),
    [
        ({"files": [{"path": "../a", "sha256": SHA}]}, r"fallbacks\[0\]\.files\[0\]\.path"),
        ({"sources": [{"type": "local", "folder": "/a"}]}, r"fallbacks\[0\]\.sources\[0\]\.folder"),
        ({"model": {"kind": "text_encoder", "model": "../a", "max_tokens": 8}}, r"fallbacks\[0\]\.model\.model"),
    ],
)
def test_a_fallback_s_path_that_leaves_its_folder_is_refused(changes: dict[str, Any], place: str) -> None:
    with pytest.raises(RefusedError, match=place):
        parse(definition(fallbacks=[fallback(**changes)]))


def test_variants_have_the_gates_of_their_precision_unless_they_say_others() -> None:
    text = toml(definition()) + (
        '[[variants]]\nprecision = "fp16"\n[[variants]]\nprecision = "int8"\nmethod = "dynamic"\n'
        "gates = { mean_cosine = 0.9, top10_overlap = 0.8 }\n"
    )
    assert parse_bundle(text, "x").variants == (
        Fp16Variant((), QualityGates(0.99999, 0.99)),
        Int8Variant((), "dynamic", 128, True, (), QualityGates(0.9, 0.8)),
    )
    assert Int8Variant().gates == QualityGates(0.995, 0.95)


@pytest.mark.parametrize(
    ("variants", "said"),
    [
        ('precision = "int4"', "int4"),
        ('precision = "fp16"\nblock = 32', "block"),
        ('precision = "int8"\nblock = 100', "100"),
        ('precision = "int8"\nkeep_fp32 = ["["]', "keep_fp32 holds '\\['"),
        ('precision = "int8"\n[[variants]]\nprecision = "int8"\nroles = ["text_encoder"]', "two variants of int8"),
        ('precision = "fp16"\ngates = { mean_cosine = 1.1, top10_overlap = 1 }', "mean_cosine"),
    ],
)
def test_variants_that_cannot_be_are_refused_and_named(variants: str, said: str) -> None:
    with pytest.raises(IntegrityError, match=said):
        parse_bundle(toml(definition()) + f"[[variants]]\n{variants}\n", "x")


def test_the_evaluation_set_beside_a_definition_is_part_of_it(tmp_path: Path) -> None:
    write(tmp_path, "one", toml(definition(name="one")).encode())
    without = Catalog(tmp_path).get("one")
    (tmp_path / "one" / "evaluation.txt").write_text("first\nnaïve, second\n", encoding="utf-8")
    bundle = Catalog(tmp_path).get("one")
    assert (without.evaluation, bundle.evaluation) == ((), ("first", "naïve, second"))
    assert bundle.digest != without.digest
    (tmp_path / "one" / "evaluation.txt").write_bytes(b"\xff")
    with pytest.raises(IntegrityError, match=r"evaluation\.txt is no UTF-8"):
        Catalog(tmp_path).get("one")


def test_the_repository_s_evaluation_sets_are_many_different_texts_and_small() -> None:
    sets = list(CATALOG.folder.glob("*/evaluation.txt"))
    assert sets
    for path in sets:
        texts = path.read_text(encoding="utf-8").splitlines()
        assert len(set(texts)) == len(texts) >= 200
        assert path.stat().st_size < 100_000
        assert path.with_name("README.md").is_file()
