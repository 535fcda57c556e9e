"""Rerankers: scores in the documents' order whatever the batches, and rankings."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from modelbake.errors import IntegrityError, UsageError
from modelbake.manifest import SCHEMA_VERSION, BundleEntry, Manifest, Tokenizer
from modelbake.runtime import reranker as module
from modelbake.runtime import schedule
from modelbake.runtime.pair_tokenizer import PairTokenizer
from modelbake.runtime.reranker import Ranked, Reranker, default_reranker
from tests.unit import tiny, tiny_reranker

texts = st.lists(st.sampled_from([*tiny.WORDS[2:], "bird"]), max_size=9).map(" ".join)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def entry(folder: Path) -> BundleEntry:
    return tiny_reranker.bundle(folder)


@pytest.fixture(scope="module")
def reranker(folder: Path, entry: BundleEntry) -> Reranker:
    return Reranker(entry, folder)


@given(query=texts, documents=st.lists(texts, max_size=12), tokens=st.integers(1, 12), chunk=st.integers(1, 5))
def test_scores_come_in_the_documents_order_whatever_the_batches(
    reranker: Reranker, query: str, documents: list[str], tokens: int, chunk: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "batches", partial(schedule.batches, budget=tokens))
        patch.setattr(module, "windows", partial(schedule.windows, size=chunk))
        found = reranker.score(query, documents)
    assert (found.dtype, found.shape) == (np.float32, (len(documents),))
    np.testing.assert_array_equal(found, tiny_reranker.score(query, documents))


@given(pairs=st.lists(st.tuples(texts, texts), min_size=1, max_size=5))
def test_pairs_are_cut_longer_text_first_and_padded_to_the_longest(
    folder: Path, entry: BundleEntry, pairs: list[tuple[str, str]]
) -> None:
    spec = entry.artifacts[0].tokenizer
    assert spec is not None
    tokenizer = PairTokenizer(spec, folder)
    made, expected = tokenizer.pad(tokenizer.encode(pairs)), tiny_reranker.inputs(pairs)
    assert list(made) == list(expected)
    for name, array in made.items():
        assert array.dtype == np.int64
        np.testing.assert_array_equal(array, expected[name])


def test_a_ranking_is_by_falling_score_and_equal_ones_stay_in_order(reranker: Reranker) -> None:
    documents = ["green", "cat", "red", "cat", "blue"]
    assert reranker.rank("bird", documents) == [
        Ranked(1, 16.25),
        Ranked(3, 16.25),
        Ranked(4, 8.25),
        Ranked(2, 2.25),
        Ranked(0, -3.75),
    ]
    assert reranker.rank("bird", documents, top=2) == [Ranked(1, 16.25), Ranked(3, 16.25)]
    assert reranker.rank("bird", documents, top=9) == reranker.rank("bird", documents)


def test_no_documents_give_no_scores(reranker: Reranker) -> None:
    assert reranker.score("red", []).shape == (0,)
    assert reranker.rank("red", [], top=3) == []


def test_a_graph_without_token_types_is_given_none(tmp_path: Path) -> None:
    entry = tiny_reranker.bundle(tmp_path)
    tiny_reranker.graph(tmp_path / entry.artifacts[0].path, tiny_reranker.INPUTS[:2])
    np.testing.assert_array_equal(Reranker(entry, tmp_path).score("red", ["cat"]), [2 + 16])


def test_words_that_are_no_utf8_are_unknown_words(reranker: Reranker) -> None:
    np.testing.assert_array_equal(reranker.score("\udcff", ["cat \ud800"]), tiny_reranker.score("?", ["cat ?"]))


def test_several_threads_may_score_at_once(reranker: Reranker) -> None:
    documents = [" ".join(tiny.WORDS[2 + i % 5] for i in range(n % 7)) for n in range(200)]
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(lambda _: reranker.score("red", documents), range(16)):
            np.testing.assert_array_equal(found, tiny_reranker.score("red", documents))


def test_a_bundle_that_does_not_rerank_says_what_it_does(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'tiny-text' does not rerank; it has: text_encoder"):
        Reranker(tiny.text_bundle(tmp_path), tmp_path)


def test_a_damaged_manifest_or_tokenizer_is_an_integrity_error(tmp_path: Path) -> None:
    entry = tiny_reranker.bundle(tmp_path)
    (artifact,) = entry.artifacts
    with pytest.raises(IntegrityError, match="names no tokenizer"):
        Reranker(replace(entry, artifacts=(replace(artifact, tokenizer=None),)), tmp_path)
    other = Tokenizer("tokenizer.json", "tokenizers/tiny-reranker/tokenizer.json", 6)
    with pytest.raises(IntegrityError, match=r"tokenizer\.json does not pad its batches and cut"):
        Reranker(replace(entry, artifacts=(replace(artifact, tokenizer=other),)), tmp_path)


def test_the_default_reranker_is_found_and_of_several_one_has_to_be_named(tmp_path: Path) -> None:
    text, one, two = tiny.text_bundle(tmp_path), tiny_reranker.bundle(tmp_path), tiny_reranker.bundle(tmp_path, "two")
    assert default_reranker(Manifest(SCHEMA_VERSION, (text, one))) is one
    with pytest.raises(UsageError, match=r"--bundle; the models folder has: tiny-reranker, two\."):
        default_reranker(Manifest(SCHEMA_VERSION, (one, text, two)))
    assert default_reranker(Manifest(SCHEMA_VERSION, (one, text, preferred := replace(two, default=True)))) is preferred
    with pytest.raises(UsageError, match="no bundle that reranks; build one"):
        default_reranker(Manifest(SCHEMA_VERSION, (text,)))
