"""Encoders by manifest: every text and image in its place, whatever the batch, and plain errors for what cannot be."""

from __future__ import annotations

import io
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from PIL import Image

from modelbake.errors import IntegrityError, MachineError, UnknownNameError, UsageError
from modelbake.manifest import BundleEntry
from modelbake.runtime.encoder import BATCH, ImageEncoder, TextEncoder
from modelbake.runtime.image_preprocess import preprocess
from modelbake.runtime.schedule import WINDOW
from tests.unit import tiny


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    tiny.models_folder(folder)
    return folder


@pytest.fixture(scope="module")
def text(models: Path) -> BundleEntry:
    return tiny.text_bundle(models)


@pytest.fixture(scope="module")
def image(models: Path) -> BundleEntry:
    return tiny.image_bundle(models)


@pytest.fixture(scope="module")
def encoder(text: BundleEntry, models: Path) -> TextEncoder:
    return TextEncoder(text, models, threads=1)


TEXTS = st.lists(st.sampled_from(tiny.WORDS[1:]), min_size=1, max_size=7).map(" ".join)


@settings(max_examples=30, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=3 * BATCH))
def test_each_embedding_is_that_of_its_text_whatever_the_batch(encoder: TextEncoder, texts: list[str]) -> None:
    embeddings = encoder.embed(texts)
    assert embeddings.dtype == np.float32
    assert embeddings.shape == (len(texts), encoder.dimension)
    np.testing.assert_allclose(embeddings, tiny.embedding(texts, tiny.table()), atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=20), st.integers(1, 20))
def test_each_embedding_is_that_of_its_text_alone_whatever_the_budget(
    encoder: TextEncoder, texts: list[str], budget: int
) -> None:
    alone = np.concatenate([encoder.embed([text]) for text in texts])
    np.testing.assert_allclose(np.concatenate(list(encoder.embed_iter(texts, budget))), alone, atol=1e-6)


def test_texts_without_end_are_taken_a_window_at_a_time(encoder: TextEncoder) -> None:
    taken = 0

    def endless() -> Iterator[str]:
        nonlocal taken
        while True:
            taken += 1
            yield tiny.WORDS[2 + taken % 5]

    parts = list(islice(encoder.embed_iter(endless()), 2))
    assert taken == 2 * WINDOW
    texts = [tiny.WORDS[2 + number % 5] for number in range(1, taken + 1)]
    np.testing.assert_allclose(np.concatenate(parts), tiny.embedding(texts, tiny.table()), atol=1e-6)


def test_a_single_string_is_wrong_usage(encoder: TextEncoder) -> None:
    with pytest.raises(UsageError, match="give a list of texts"):
        encoder.embed("red cat")


def test_an_encoder_answers_several_threads_at_once(encoder: TextEncoder) -> None:
    requests = [[" ".join(tiny.WORDS[2 : 3 + (i + j) % 5]) for j in range(i % 7 + 1)] for i in range(60)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(encoder.embed, requests))
    for texts, answer in zip(requests, answers, strict=True):
        np.testing.assert_allclose(answer, tiny.embedding(texts, tiny.table()), atol=1e-6)


def test_a_brief_encoder_gives_the_same(text: BundleEntry, image: BundleEntry, models: Path) -> None:
    texts = ["red cat", "dog"]
    brief = TextEncoder(text, models, threads=1, brief=True)
    np.testing.assert_allclose(brief.embed(texts), tiny.embedding(texts, tiny.table()), atol=1e-6)
    pictures = [Image.new("RGB", (9, 9), "red")]
    slow = ImageEncoder(image, models, threads=1).embed(pictures)
    np.testing.assert_array_equal(ImageEncoder(image, models, threads=1, brief=True).embed(pictures), slow)


WITHOUT_PILLOW = """
import sys
from pathlib import Path
from modelbake import manifest
from modelbake.runtime import encoder
folder = Path(sys.argv[1])
encoder.TextEncoder(manifest.read(folder).bundle("tiny-text"), folder).embed(["dog"])
print("PIL" in sys.modules)
"""


def test_texts_need_no_pillow(tmp_path: Path) -> None:
    tiny.models_folder(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PILLOW, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


VARYING_SHAPES = """
import sys
from pathlib import Path
import numpy as np
from modelbake.runtime.schedule import TOKENS, batches
from modelbake.runtime.session import Session

def resident():
    status = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in status if line.startswith("VmRSS")).split()[1]) * 1024

session = Session(Path(sys.argv[1]), 1)
generator = np.random.default_rng(0)

def run(windows):
    for _ in range(windows):
        lengths = generator.integers(1, 257, generator.integers(1, 12))
        for batch in batches(lengths.tolist()):
            shape = (len(batch), int(lengths[batch].max()))
            session.run({"input_ids": np.ones(shape, np.int64), "attention_mask": np.ones(shape, np.int64)})

run(30)
before = resident()
run(300)
print(resident() - before)
"""


def test_memory_does_not_grow_with_the_number_of_shapes(tmp_path: Path) -> None:
    # 1024 floats a token: a batch of 512 tokens is 2 MB in each of the graph's steps.
    vectors = np.random.default_rng(0).normal(size=(len(tiny.WORDS), 1024)).astype(np.float32)
    tiny.text_graph(tmp_path / "wide.onnx", vectors)
    done = subprocess.run(
        [sys.executable, "-c", VARYING_SHAPES, str(tmp_path / "wide.onnx")], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 8_000_000


@pytest.mark.parametrize("count", [BATCH - 1, BATCH, BATCH + 1, 2 * BATCH])
def test_the_last_batch_is_not_lost(encoder: TextEncoder, count: int) -> None:
    texts = [tiny.WORDS[2 + index % 5] for index in range(count)]
    np.testing.assert_allclose(encoder.embed(texts), tiny.embedding(texts, tiny.table()), atol=1e-6)


def test_no_texts_and_no_images_give_no_embeddings(encoder: TextEncoder, image: BundleEntry, models: Path) -> None:
    for empty in (encoder.embed([]), encoder.embed(())):
        assert (empty.shape, empty.dtype) == ((0, 4), np.float32)
    none = ImageEncoder(image, models).embed([])
    assert (none.shape, none.dtype) == ((0, 3), np.float32)


def test_images_come_decoded_as_files_or_as_bytes(image: BundleEntry, models: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [Image.fromarray(rng.integers(0, 256, (9 + i, 12, 3), dtype=np.uint8)) for i in range(BATCH + 2)]
    given: list[Image.Image | Path | bytes] = []
    for index, picture in enumerate(images):
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        path = tmp_path / f"{index}.png"
        path.write_bytes(buffer.getvalue())
        given.append((picture, path, buffer.getvalue())[index % 3])
    expected = np.stack([preprocess(picture, tiny.PREPROCESSING) for picture in images]).mean(axis=(2, 3))
    np.testing.assert_allclose(ImageEncoder(image, models, threads=1).embed(given), expected, atol=1e-5)


def test_a_bundle_that_does_not_embed_that_is_wrong_usage(text: BundleEntry, image: BundleEntry, models: Path) -> None:
    with pytest.raises(UsageError, match="'tiny-text' does not embed images; it has: text_encoder") as caught:
        ImageEncoder(text, models)
    assert caught.value.exit_code == 2
    with pytest.raises(UsageError, match="'tiny-image' does not embed texts; it has: image_encoder"):
        TextEncoder(image, models)


def test_a_precision_is_taken_by_name_and_by_default_fp32_or_the_only_one(text: BundleEntry, models: Path) -> None:
    def entry(*precisions: str) -> BundleEntry:
        return replace(text, artifacts=tuple(replace(text.artifacts[0], precision=p, path=p) for p in precisions))

    all_three = entry("int8", "fp32", "fp16")
    assert all_three.artifact("text_encoder").precision == "fp32"
    assert all_three.artifact("text_encoder", "int8").precision == "int8"
    assert entry("int8").artifact("text_encoder").precision == "int8"
    with pytest.raises(UnknownNameError, match="has no text_encoder of fp16; it has: int8, fp32") as caught:
        TextEncoder(entry("int8", "fp32"), models, precision="fp16")
    assert caught.value.exit_code == 3
    with pytest.raises(UnknownNameError, match="has no text_encoder of fp32; it has: int8, fp16"):
        TextEncoder(entry("int8", "fp16"), models)
    with pytest.raises(MachineError, match="int8 does not exist"):
        TextEncoder(entry("int8"), models)


@pytest.mark.parametrize("field", ["tokenizer", "embedding_dimension"])
def test_a_manifest_without_the_facts_of_a_text_encoder_is_an_integrity_error(
    text: BundleEntry, models: Path, field: str
) -> None:
    entry = replace(text, artifacts=(replace(text.artifacts[0], **{field: None}),))
    with pytest.raises(IntegrityError, match=field):
        TextEncoder(entry, models)


@pytest.mark.parametrize("field", ["preprocessing", "embedding_dimension"])
def test_a_manifest_without_the_facts_of_an_image_encoder_is_an_integrity_error(
    image: BundleEntry, models: Path, field: str
) -> None:
    entry = replace(image, artifacts=(replace(image.artifacts[0], **{field: None}),))
    with pytest.raises(IntegrityError, match=field):
        ImageEncoder(entry, models)


def test_a_missing_graph_is_exit_7_and_a_damaged_one_exit_5(tmp_path: Path) -> None:
    entry = tiny.text_bundle(tmp_path)
    graph = tmp_path / entry.artifacts[0].path
    graph.write_bytes(graph.read_bytes()[:100])
    with pytest.raises(IntegrityError, match=graph.name) as damaged:
        TextEncoder(entry, tmp_path)
    graph.unlink()
    with pytest.raises(MachineError, match=graph.name) as missing:
        TextEncoder(entry, tmp_path)
    assert (damaged.value.exit_code, missing.value.exit_code) == (5, 7)


def test_a_file_that_is_no_image_is_wrong_usage(image: BundleEntry, models: Path, tmp_path: Path) -> None:
    encoder = ImageEncoder(image, models)
    with pytest.raises(UsageError, match=r"absent\.png"):
        encoder.embed([tmp_path / "absent.png"])
    with pytest.raises(UsageError, match="is not an image"):
        encoder.embed([b"no image"])
