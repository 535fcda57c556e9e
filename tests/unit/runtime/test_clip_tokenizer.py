"""CLIP's tokenizer against open_clip's own, on hard texts and on random ones."""
# ruff: noqa: RUF001 -- look-alike characters are what is tested.

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelbake.errors import IntegrityError, UsageError
from modelbake.export._torchvision import declare_missing_ops
from modelbake.runtime import clip_tokenizer
from modelbake.runtime.clip_tokenizer import (
    CACHED_WORDS,
    END_OF_TEXT,
    MERGES,
    MERGES_SHA256,
    START_OF_TEXT,
    ClipTokenizer,
    eot_positions,
    write_tokenizer_file,
)

Reference = Callable[..., "np.ndarray"]

HARD_TEXTS = {
    "plain": "a photo of a cat",
    "upper case and numbers": "In 2024 The QUICK brown fox jumped 3.14159 times!!",
    "contractions": "I'll she'd we're they've it's can't I'm o'clock 'tis rock'n'roll",
    "upper case contractions": "I'LL SHE'D WE'RE CAN'T",
    "curly quotes": "don’t it’s ‘quoted’ “double” „low“ I‘ll",
    "emoji": "😀😃 party 🎉 flag 🇩🇪 heart ❤️ skin 👍🏽",
    "zero width joiner": "family 👨‍👩‍👧‍👦 and 👩🏾‍🚀",
    "html entities": "fish &amp; chips &lt;b&gt; caf&eacute; &#128512; &#x1F600; &nbsp;x &hellip;",
    "doubly escaped": "a &amp;amp; b &amp;lt;i&amp;gt; &amp;amp;amp;amp; &amp;#39;",
    "entities beside a tag": "<p>fish &amp; chips</p>\nfish &amp; chips",
    "broken entities": "&; &# &#x; &amp &unknown; &#0; &#55357; &#x110000; &#x0b;",
    "control characters": "a\x00b\x01c\x07d\x08e\x1bf\x7fg\x85h\x9fi",
    "terminal escapes": "\x1b[31mred\x1b[0m text \x1b]0;title\x07",
    "only NULs": "\x00\x00\x00",
    "lone surrogates": "a\ud800b \udfff c",
    "surrogate pair in two characters": "x \ud83d\ude00 y",
    "mixed scripts": "Москва 東京 서울 Αθήνα กรุงเทพ दिल्ली",
    "right to left": "مرحبا بالعالم שלום עולם \u202eabc\u202c",
    "combining marks": "e\u0301\u0327 n\u0303 a\u0308\u0323 Z͑ͫ̓ͪ̂ͫ̽͏̴̙̤̞͉͚̯̞̠͍A",
    "case mapping": "İstanbul STRASSE ẞ straße ΣΑΣ Σ ǅ ŉ",
    "long s in a contraction": "'ſ it'ſ <ſtart_of_text>",
    "compatibility forms": "ﬁ ﬀ １２３ ＬＯＵＤ Ⅷ ½ ² ㎏",
    "mojibake": "schÃ¶n cafÃ© â€œquotesâ€\x9d itâ€™s âœ” ã\x83\x84",
    "mojibake twice": "l’humanitÃƒÂ©",
    "special tokens": "<start_of_text> a cat <end_of_text> b",
    "special tokens in other case": "<START_OF_TEXT><End_Of_Text>",
    "special token after punctuation": "end!<end_of_text> (<end_of_text>)",
    "special token from entities": "&lt;end_of_text&gt; x &amp;lt;start_of_text&amp;gt;",
    "other tokenizers' special tokens": "<|startoftext|> <|endoftext|> [CLS] </s>",
    "underscores and symbols": "snake_case __init__ a+b=c #tag @user $5 100% ~/path\\x",
    "empty": "",
    "spaces": "     ",
    "all kinds of white space": " \t\r\n\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u2003\u2028\u2029\u3000 ",
    "white space between": "a\tb\r\nc\x0bd\x0ce\x1cf\x1fg\x85h\xa0i\u2003j\u2028k\u3000l\ufeffm\u200bn",
    "line endings": "one\rtwo\r\nthree\n\nfour\u2028five",
    "zero width": "zero\u200bwidth\u200cjoin\u200der\u2060\ufeff",
    "private and unassigned": "\ue000 \uf8ff \U0010ffff \ufffe \ufffd \U000e0001",
    "exactly at the limit": "cat " * 75,
    "one over the limit": "cat " * 76,
    "limit inside a word": "cat " * 74 + "antidisestablishmentarianism",
    "unbroken letters": "".join(random.Random(1).choices("etaoinshrdlu", k=2000)),
    "unbroken digits": "0123456789" * 100,
    "one letter repeated": "a" * 5000,
    "unbroken punctuation": "!?" * 3000,
    "unbroken emoji": "😀" * 1000,
    "100000 characters of words": "the quick brown fox " * 5000,
    "100000 characters of one letter": "x" * 100_000,
    "100000 characters with entities": "é &amp; " * 12_500,
}

_ENTITIES = ["&", "&amp;", "&amp;amp;", "&lt;", "&#39;", "&#x27;", "&eacute;", "&#128512;", "&nbsp;", "&quot"]
_PIECES = [*_ENTITIES, "<start_of_text>", "<end_of_text>", "'s", "’t", "'LL", "Ã©", "â€™", "\u200d", "\ufe0f", "\ud800"]
any_text = st.lists(
    st.one_of(
        st.text(st.characters(), max_size=12),
        st.text(st.characters(max_codepoint=0x2FF), max_size=12),
        st.text(st.sampled_from("abcdefghijklmnopqrstuvwxyz '"), max_size=24),
        st.sampled_from(_PIECES),
        st.sampled_from([" ", "\n", "\t"]),
    ),
    max_size=10,
).map("".join)
plain_text = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, include_characters="\t\n\r"), max_size=80)


@pytest.fixture(scope="session")
def reference() -> Reference:
    """open_clip's tokenizer for ViT-B-32."""
    declare_missing_ops()
    import open_clip

    return open_clip.get_tokenizer("ViT-B-32")


@pytest.fixture(scope="session")
def vocabulary() -> Path:
    """The vocabulary file that open_clip ships."""
    spec = importlib.util.find_spec("open_clip")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).with_name("bpe_simple_vocab_16e6.txt.gz")


@pytest.fixture(scope="session")
def merges(vocabulary: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runtime's merges file."""
    path = tmp_path_factory.mktemp("clip") / "merges.txt"
    write_tokenizer_file(vocabulary, path)
    return path


@pytest.fixture(scope="session")
def tokenizer(merges: Path) -> ClipTokenizer:
    """The tokenizer under test, at 77 tokens."""
    return ClipTokenizer(merges)


@pytest.mark.parametrize("text", HARD_TEXTS.values(), ids=HARD_TEXTS.keys())
def test_hard_texts_get_open_clips_ids(text: str, tokenizer: ClipTokenizer, reference: Reference) -> None:
    ids = tokenizer([text])

    np.testing.assert_array_equal(ids, np.asarray(reference([text])))


@settings(max_examples=600, deadline=None)
@given(text=any_text)
def test_random_texts_get_open_clips_ids(text: str, tokenizer: ClipTokenizer, reference: Reference) -> None:
    np.testing.assert_array_equal(tokenizer([text]), np.asarray(reference([text])))


@settings(max_examples=300, deadline=None)
@given(text=plain_text)
def test_random_ascii_texts_get_open_clips_ids(text: str, tokenizer: ClipTokenizer, reference: Reference) -> None:
    np.testing.assert_array_equal(tokenizer([text]), np.asarray(reference([text])))


@settings(max_examples=100, deadline=None)
@given(word=st.text(st.sampled_from("abcdefghinorstü"), min_size=1, max_size=200))
def test_random_words_longer_than_the_cache_takes_are_encoded_whole_as_open_clip_does(
    word: str, tokenizer: ClipTokenizer, reference: Reference
) -> None:
    assert tokenizer.encode(word) == reference.encode(word)


def test_every_two_byte_character_gets_open_clips_ids(tokenizer: ClipTokenizer, reference: Reference) -> None:
    texts = [f"{chr(point)}a {chr(point)}" for point in range(0x800)]

    np.testing.assert_array_equal(tokenizer(texts), np.asarray(reference(texts)))


def test_a_batch_of_texts_gets_a_row_each(tokenizer: ClipTokenizer, reference: Reference) -> None:
    texts = list(HARD_TEXTS.values())[:12]

    ids = tokenizer(texts)

    assert ids.dtype == np.int64
    assert ids.shape == (12, 77)
    np.testing.assert_array_equal(ids, np.asarray(reference(texts)))


def test_hello_world_gets_the_published_ids(tokenizer: ClipTokenizer) -> None:
    assert tokenizer("hello world!")[0, :6].tolist() == [START_OF_TEXT, 3306, 1002, 256, END_OF_TEXT, 0]


def test_no_texts_give_no_rows(tokenizer: ClipTokenizer) -> None:
    assert tokenizer([]).shape == (0, 77)


def test_a_single_string_is_one_text_and_not_its_characters(tokenizer: ClipTokenizer) -> None:
    np.testing.assert_array_equal(tokenizer("a cat"), tokenizer(["a cat"]))


@pytest.mark.parametrize("context_length", [2, 3, 16, 200])
def test_other_context_lengths_cut_as_open_clip_does(context_length: int, merges: Path, reference: Reference) -> None:
    texts = ["", "one", "the quick brown fox jumps " * 60]

    ids = ClipTokenizer(merges, context_length)(texts)

    np.testing.assert_array_equal(ids, np.asarray(reference(texts, context_length=context_length)))


def test_a_context_too_short_for_start_and_end_is_a_usage_error(merges: Path) -> None:
    with pytest.raises(UsageError, match="at least 2"):
        ClipTokenizer(merges, 1)


def test_a_cut_text_ends_in_end_of_text(tokenizer: ClipTokenizer) -> None:
    assert tokenizer(["word " * 500])[0, -1] == END_OF_TEXT


def test_eot_positions_are_where_open_clip_pools(tokenizer: ClipTokenizer) -> None:
    ids = tokenizer(["", "a cat", "a <end_of_text> in the middle", "word " * 500])

    positions = eot_positions(ids)

    assert positions.tolist() == [1, 3, 2, 76]
    assert positions.dtype == np.int64


def test_the_word_cache_stays_within_its_bounds(merges: Path) -> None:
    tokenizer = ClipTokenizer(merges)
    digits_to_letters = str.maketrans("0123456789", "QRSTUVWXYZ")
    words = [np.base_repr(number, 26).translate(digits_to_letters) for number in range(40_000)]

    tokenizer.encode(" ".join(words))
    tokenizer.encode("".join(random.Random(2).choices("abcdef", k=1000)))

    info = tokenizer._cached_word.cache_info()
    assert info.currsize == CACHED_WORDS
    assert info.misses == 40_000


def test_reading_stops_where_the_context_is_full(tokenizer: ClipTokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    words = iter(["cat"] * 75)
    monkeypatch.setattr(clip_tokenizer, "_words", lambda text: words)

    tokenizer.encode("", limit=10)

    assert len(list(words)) == 65


def test_plain_ascii_needs_neither_ftfy_nor_regex_nor_torch(merges: Path) -> None:
    script = (
        "import sys; from modelbake.runtime.clip_tokenizer import ClipTokenizer; "
        f"ClipTokenizer({str(merges)!r})(['It\\'s a plain text, no. 1!']); "
        "print([m for m in ('ftfy', 'regex', 'torch', 'open_clip', 'tokenizers') if m in sys.modules])"
    )

    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "[]"


def test_merges_can_be_given_as_bytes(merges: Path, tokenizer: ClipTokenizer) -> None:
    from_bytes = ClipTokenizer(merges.read_bytes())

    np.testing.assert_array_equal(from_bytes(["naïve café"]), tokenizer(["naïve café"]))


def test_the_tokenizer_file_is_the_same_bytes_everywhere(merges: Path) -> None:
    data = merges.read_bytes()

    assert hashlib.sha256(data).hexdigest() == MERGES_SHA256
    assert len(data) == 524_619


def test_every_merge_makes_a_new_symbol_of_symbols_before_it(merges: Path) -> None:
    known = {symbol + end for symbol in clip_tokenizer._byte_alphabet()[0] for end in ("", "</w>")}
    for line in merges.read_text("utf-8").splitlines()[1:]:
        left, right = line.split(" ")
        assert {left, right} <= known, line
        assert left + right not in known, line
        known.add(left + right)
    assert len(known) == 512 + MERGES


def test_another_vocabulary_is_refused_and_nothing_is_written(vocabulary: Path, tmp_path: Path) -> None:
    lines = gzip.decompress(vocabulary.read_bytes()).split(b"\n")
    lines[1], lines[2] = lines[2], lines[1]
    other = tmp_path / "other.txt.gz"
    other.write_bytes(gzip.compress(b"\n".join(lines)))

    with pytest.raises(IntegrityError, match=r"other\.txt\.gz is not OpenAI's"):
        write_tokenizer_file(other, tmp_path / "merges.txt")

    assert not (tmp_path / "merges.txt").exists()


@pytest.mark.parametrize("damage", ["missing", "not gzip", "cut", "flipped"])
def test_a_damaged_vocabulary_is_an_integrity_error(damage: str, vocabulary: Path, tmp_path: Path) -> None:
    data = bytearray(vocabulary.read_bytes())
    path = tmp_path / "vocabulary.gz"
    if damage == "not gzip":
        path.write_bytes(b"plain text")
    elif damage == "cut":
        path.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[5000] ^= 0xFF
        path.write_bytes(data)

    with pytest.raises(IntegrityError, match=r"vocabulary\.gz cannot be read"):
        write_tokenizer_file(path, tmp_path / "merges.txt")


def test_a_missing_merges_file_is_an_integrity_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match=r"merges\.txt cannot be read"):
        ClipTokenizer(tmp_path / "merges.txt")


@pytest.mark.parametrize("damage", ["cut", "no header", "doubled line", "three symbols", "not text"])
def test_a_damaged_merges_file_is_an_integrity_error(damage: str, merges: Path) -> None:
    lines = merges.read_bytes().split(b"\n")
    if damage == "cut":
        del lines[-10:]
    elif damage == "no header":
        del lines[0]
    elif damage == "doubled line":
        lines[5] = lines[6]
    elif damage == "three symbols":
        lines[5] += b" x"
    else:
        lines[5] = b"\xff \xfe"

    with pytest.raises(IntegrityError, match="build or pull the bundle again"):
        ClipTokenizer(b"\n".join(lines))
