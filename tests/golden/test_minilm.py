"""all-MiniLM-L6-v2: what the runtime answers against what sentence-transformers answers, on the real weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelbake import manifest
from modelbake.runtime.encoder import TextEncoder
from tests.golden.conftest import ROOT, Built

# sentence-transformers 6.2 on the published weights; the first numbers of the embedding of "hello world".
HELLO_WORLD = [-0.03447727, 0.03102320, 0.00673496, 0.02610898, -0.03936206]

WORDS = "the a quick brown fox jumps over lazy dog seventeen engineers measure naïve café texts 12345 ! ?".split()  # noqa: SIM905


def sentences(count: int, seed: int) -> list[str]:
    """Seeded sentences of 0 to 400 words, so that some are longer than the model takes."""
    generator = np.random.default_rng(seed)
    lengths = np.concatenate([generator.integers(0, 40, count - 2), [120, 400]])
    return [" ".join(generator.choice(WORDS, length)) for length in lengths]


@pytest.fixture(scope="module")
def reference(built: Built) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(built.sources("minilm-l6-v2")), device="cpu", local_files_only=True)


@pytest.fixture(scope="module")
def encoder(built: Built) -> TextEncoder:
    return TextEncoder(manifest.read(built.models).bundle("minilm-l6-v2"), built.models)


def test_the_weights_are_the_published_ones(built: Built) -> None:
    entry = manifest.read(built.models).bundle("minilm-l6-v2")
    assert entry.weights == "pretrained"
    assert entry.source.commit == "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"
    digests = {ref.path: ref.sha256 for ref in entry.source.files}
    assert digests["model.safetensors"] == "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def test_five_canonical_numbers(encoder: TextEncoder) -> None:
    np.testing.assert_allclose(encoder.embed(["hello world"])[0, :5], HELLO_WORLD, atol=1e-6)


@pytest.mark.parametrize("count", [3, 7, 45])
def test_embeddings_are_those_of_sentence_transformers_at_sizes_that_were_not_traced(
    encoder: TextEncoder, reference: Any, count: int
) -> None:
    texts = sentences(count, seed=count)
    difference = np.abs(encoder.embed(texts) - reference.encode(texts, batch_size=count)).max()
    assert difference <= 1e-5


def test_a_text_embeds_the_same_alone_and_among_others(encoder: TextEncoder) -> None:
    texts = sentences(9, seed=1)
    alone = np.concatenate([encoder.embed([text]) for text in texts])
    np.testing.assert_allclose(encoder.embed(texts), alone, atol=1e-6)


def evaluation() -> list[str]:
    return (ROOT / "bundles" / "minilm-l6-v2" / "evaluation.txt").read_text(encoding="utf-8").splitlines()


def nearest_ten(vectors: Any) -> list[set[int]]:
    similarity = vectors @ vectors.T - 2 * np.eye(len(vectors))
    return [set(row) for row in np.argpartition(-similarity, 10, axis=1)[:, :10].tolist()]


@pytest.mark.parametrize(("precision", "cosine", "overlap"), [("fp16", 0.99999, 0.99), ("int8", 0.995, 0.95)])
def test_a_variant_answers_nearly_as_sentence_transformers_does_on_real_sentences(
    built: Built, reference: Any, precision: str, cosine: float, overlap: float
) -> None:
    texts = evaluation()
    found = TextEncoder(manifest.read(built.models).bundle("minilm-l6-v2"), built.models, precision=precision).embed(
        texts
    )
    expected = reference.encode(texts)
    assert (found * expected).sum(axis=1).mean() >= cosine
    shared = [len(a & b) / 10 for a, b in zip(nearest_ten(found), nearest_ten(expected), strict=True)]
    assert sum(shared) / len(shared) >= overlap


def test_an_int8_embedding_hardly_depends_on_what_else_is_in_its_batch(built: Built) -> None:
    encoder = TextEncoder(manifest.read(built.models).bundle("minilm-l6-v2"), built.models, precision="int8")
    texts = evaluation()[::40]
    alone = np.concatenate([encoder.embed([text]) for text in texts])
    # Where eight bits round the other way after the last bit of a float32 sum, a little moves.
    assert (encoder.embed(texts) * alone).sum(axis=1).min() > 0.999


def test_embeddings_have_unit_length(encoder: TextEncoder) -> None:
    np.testing.assert_allclose(np.linalg.norm(encoder.embed(sentences(8, seed=2)), axis=1), 1, atol=1e-6)
