"""Texts to inputs by the tokenizer that the manifest names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelbake.errors import IntegrityError
from modelbake.manifest import Tokenizer
from modelbake.runtime.tokenize import Tokenize, load_tokenizer
from tests.unit import tiny

SPEC = Tokenizer("tokenizer.json", "tokenizer.json", tiny.MAX_TOKENS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tokenizer")


@pytest.fixture(scope="module")
def tokenize(folder: Path) -> Tokenize:
    tiny.tokenizer_file(folder / "tokenizer.json")
    return load_tokenizer(SPEC, folder)


@given(st.lists(st.lists(st.sampled_from([*tiny.WORDS, "bird"]), max_size=8).map(" ".join), min_size=1, max_size=4))
def test_batches_are_padded_to_their_longest_text_and_cut(tokenize: Tokenize, texts: list[str]) -> None:
    made, expected = tokenize(texts), tiny.tokens(texts)
    assert list(made) == ["input_ids", "attention_mask"]
    for name, array in made.items():
        assert array.dtype == np.int64
        np.testing.assert_array_equal(array, expected[name])


@given(st.text(st.characters(), max_size=20))
def test_any_text_is_taken_even_with_lone_surrogates(tokenize: Tokenize, text: str) -> None:
    assert tokenize([text])["input_ids"].shape[0] == 1


def test_words_that_are_no_utf8_are_unknown_words(tokenize: Tokenize) -> None:
    assert tokenize(["red \udcff cat"])["input_ids"].tolist() == [[2, 1, 5]]


@pytest.mark.parametrize("settings", [{"pad": False}, {"max_tokens": None}, {"max_tokens": 6}], ids=str)
def test_a_file_that_does_not_pad_or_cut_as_the_manifest_says_is_refused(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    tiny.tokenizer_file(tmp_path / "tokenizer.json", **settings)
    with pytest.raises(
        IntegrityError, match=r"tokenizer\.json does not pad its batches and cut texts at the manifest's 5"
    ):
        load_tokenizer(SPEC, tmp_path)


@pytest.mark.parametrize("data", [None, b"", b"{}", b"\xff\xfe", b'{"version": "1.0"}'])
@pytest.mark.parametrize("format", ["tokenizer.json", "clip-merges"])
def test_a_missing_or_damaged_file_is_an_integrity_error(tmp_path: Path, format: Any, data: bytes | None) -> None:
    if data is not None:
        (tmp_path / "tokenizer.json").write_bytes(data)
    with pytest.raises(IntegrityError, match=r"tokenizer\.json") as caught:
        load_tokenizer(Tokenizer(format, "tokenizer.json", 77), tmp_path)
    assert caught.value.exit_code == 5
