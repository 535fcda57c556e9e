"""The rules of the Swift tokenizer against the tokenizers package, whose ids it must give; and what it refuses to be written for."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from modelbake.errors import IntegrityError, UsageError
from modelbake.swift import source
from modelbake.swift.tokenizer import WordPiece, read_wordpiece
from tests.unit.swift import by_hand, made

# Characters that Unicode had before it was at 3.2, and whose kind has not changed: later ones are known to some versions alone.
SETTLED = [
    chr(code)
    for code in range(0x110000)
    if not 0xD800 <= code < 0xE000
    and unicodedata.ucd_3_2_0.category(chr(code)) == unicodedata.category(chr(code)) != "Cn"
]
VARIANTS: dict[str, dict[str, Any]] = {
    "uncased": {},
    "cased": {"lowercase": False},
    "accents stay": {"strip_accents": False},
    "accents go, case stays": {"strip_accents": True, "lowercase": False},
    "nothing is cleaned": {"clean_text": False},
    "ideographs stay": {"handle_chinese_chars": False},
}


def both(folder: Path, text: str, **changes: Any) -> tuple[list[int], list[int]]:
    """The ids by hand, and the tokenizers package's."""
    document = made.tokenizer_json(**changes)
    path = folder / "tokenizer.json"
    made.write_tokenizer(path, document)
    vocabulary = {piece.encode(): number for piece, number in document["model"]["vocab"].items()}
    ids = by_hand.encode(text, read_wordpiece(path), vocabulary, made.MOST_TOKENS)
    reference = Tokenizer.from_file(str(path))
    reference.no_padding()
    return ids, reference.encode(text).ids


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Hello, world!",
        "unaffable cats",
        "HÉLLO Straße naïve İstanbul ΠΣΑΣ",
        "e\u0301 \u00e9 E\u0301",
        "東京tower 東",
        "tab\tnew\nline\r\u00a0\u2003\u2028\u0085end\u200bzero\u00adsoft\ufeff",
        "\x00nul\x00 \ufffd \x07bell \x1funit",
        "[CLS]hello[SEP] [MASK][UNK] [PAD]] [[MASK] [mask] [CLS",
        "a" * 100 + " " + "a" * 101,
        "the cat " * 100,
        "—¿№№k\u212a",
        "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~",
        "\U0001f600 \U00020000x \U0002b820y",
        "q\u0323\u0307 \uac00 \u1100\u1161",
    ],
    ids=repr,
)
def test_the_ids_are_those_of_the_tokenizers_package(tmp_path: Path, variant: str, text: str) -> None:
    ids, reference = both(tmp_path, text, **VARIANTS[variant])
    assert ids == reference


@given(st.text(st.sampled_from(SETTLED), max_size=40), st.sampled_from(sorted(VARIANTS)))
def test_so_they_are_of_any_text(tmp_path_factory: pytest.TempPathFactory, text: str, variant: str) -> None:
    ids, reference = both(tmp_path_factory.getbasetemp(), text, **VARIANTS[variant])
    assert ids == reference


def test_every_settled_character_alone_and_within_a_word_is_taken_alike(tmp_path: Path) -> None:
    document = made.tokenizer_json()
    path = tmp_path / "tokenizer.json"
    made.write_tokenizer(path, document)
    facts = read_wordpiece(path)
    vocabulary = {piece.encode(): number for piece, number in document["model"]["vocab"].items()}
    reference = Tokenizer.from_file(str(path))
    reference.no_padding()
    texts = [f"the{character}cat {character}" for character in SETTLED if unicodedata.category(character) != "Co"]
    found = [encoding.ids for encoding in reference.encode_batch_fast(texts)]
    wrong = [
        text
        for text, ids in zip(texts, found, strict=True)
        if by_hand.encode(text, facts, vocabulary, made.MOST_TOKENS) != ids
    ]
    assert not wrong


def test_the_facts_are_those_of_the_file(tmp_path: Path) -> None:
    made.write_tokenizer(tmp_path / "t.json", made.tokenizer_json())
    assert read_wordpiece(tmp_path / "t.json") == WordPiece(
        special=(("[MASK]", 4), ("[CLS]", 2), ("[PAD]", 0), ("[SEP]", 3), ("[UNK]", 1)),
        before=(2,),
        after=(3,),
        unknown=1,
        padding=0,
        continuation="##",
        longest_word=100,
        clean_text=True,
        chinese=True,
        strip_accents=True,
        lowercase=True,
    )


def test_what_the_samples_have_around_a_text_is_read_as_well(tmp_path: Path) -> None:
    from modelbake.export.sample_tokenizer import character_wordpiece

    character_wordpiece().save(str(tmp_path / "t.json"))
    facts = read_wordpiece(tmp_path / "t.json")
    vocabulary = json.loads((tmp_path / "t.json").read_bytes())["model"]["vocab"]
    assert (facts.before, facts.after) == ((vocabulary["[CLS]"],), (vocabulary["[SEP]"],))


def _changed(key: str, value: Any) -> dict[str, Any]:
    return made.tokenizer_json() | {key: value}


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        (_changed("model", {"type": "BPE", "vocab": {}, "merges": []}), UsageError),
        (_changed("pre_tokenizer", {"type": "Whitespace"}), UsageError),
        (_changed("normalizer", {"type": "Lowercase"}), UsageError),
        (_changed("post_processor", {"type": "RobertaProcessing"}), UsageError),
        (
            _changed(
                "added_tokens",
                [{"id": 0, "content": "x", "normalized": True, "single_word": False, "lstrip": False, "rstrip": False}],
            ),
            UsageError,
        ),
        (_changed("normalizer", None), IntegrityError),
        (_changed("added_tokens", 7), IntegrityError),
        ({}, IntegrityError),
        ([], IntegrityError),
    ],
)
def test_what_swift_is_not_written_for_is_refused(tmp_path: Path, document: Any, kind: type[Exception]) -> None:
    path = tmp_path / "tokenizer.json"
    made.write_tokenizer(path, document)
    with pytest.raises(kind, match=r"tokenizer\.json"):
        read_wordpiece(path)


def test_the_variants_are_written_out(tmp_path: Path) -> None:
    entry = made.bundle(tmp_path)
    (artifact,) = entry.artifacts
    lines = {
        "clean_text": "isControl(original) { continue }",
        "handle_chinese_chars": "if isIdeograph(scalar) {",
        "strip_accents": "decomposedStringWithCanonicalMapping",
        "lowercase": "lowercaseMapping",
    }
    for name, line in lines.items():
        made.write_tokenizer(tmp_path / made.TOKENIZER, made.tokenizer_json(**{name: True}))
        assert line in source.swift_source(tmp_path, entry, artifact)
        made.write_tokenizer(tmp_path / made.TOKENIZER, made.tokenizer_json(**{name: False}))
        assert line not in source.swift_source(tmp_path, entry, artifact)
