"""all-MiniLM-L6-v2 converted to Core ML, run from its packages, against sentence-transformers on the real weights and sentences."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelbake.coreml.runner import Runner
from modelbake.export.coreml import encoders
from modelbake.export.coreml.calibrate import Calibration, word_salad
from modelbake.export.coreml.compress import measure, to_int8, to_palettes
from modelbake.export.coreml.convert import convert
from modelbake.parity import mean_cosine, top_overlap
from tests.coreml import contents
from tests.golden.conftest import ROOT

TOKENS = 128
SENTENCES = 200
# bert-base-uncased's [CLS] and [SEP], and the first id that is a word.
CLS, SEP, WORDS = 101, 102, 1000

CONVERSION = """
import resource, sys
from pathlib import Path
from modelbake.export._torchvision import declare_missing_ops
declare_missing_ops()
from sentence_transformers import SentenceTransformer
from modelbake.export.coreml import encoders
from modelbake.export.coreml.convert import convert
from modelbake.files import file_refs
from modelbake.manifest import bundle_digest
reference = SentenceTransformer(sys.argv[1], device="cpu", local_files_only=True)
encoder = encoders.text_encoder(reference, (128,))
path = Path(sys.argv[2])
convert(encoder.module, encoder.inputs, encoder.output, path)
print(bundle_digest(file_refs(path)), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture(scope="module")
def reference(minilm: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm), device="cpu", local_files_only=True)
    model.max_seq_length = TOKENS
    return model


@pytest.fixture(scope="module")
def folder(reference: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages by precision; `int4` has 4 to 8 bits a weight, 5 on average."""
    folder = tmp_path_factory.mktemp("minilm")
    encoder = encoders.text_encoder(reference, (TOKENS,))
    convert(encoder.module, encoder.inputs, encoder.output, folder / "fp32.mlpackage")
    convert(encoder.module, encoder.inputs, encoder.output, folder / "fp16.mlpackage", "fp16")
    to_int8(folder / "fp16.mlpackage", folder / "int8.mlpackage")
    modern = folder / "modern.mlpackage"
    convert(encoder.module, encoder.inputs, encoder.output, modern, "fp16", "iOS18")
    vocabulary = len(encoder.module.words.weight)
    calibration = Calibration(encoder.module, word_salad(vocabulary, CLS, SEP, WORDS))
    to_palettes(modern, folder / "int4.mlpackage", calibration, measure(modern, calibration).recipe())
    return folder


@pytest.fixture(scope="module")
def texts() -> list[str]:
    lines = (ROOT / "bundles" / "minilm-l6-v2" / "evaluation.txt").read_text(encoding="utf-8").splitlines()
    return lines[:: len(lines) // SENTENCES][:SENTENCES]


@pytest.fixture(scope="module")
def expected(reference: Any, texts: list[str]) -> Any:
    return reference.encode(texts, batch_size=1)


def embed(path: Path, reference: Any, texts: list[str]) -> Any:
    run = Runner(path)
    found = []
    for text in texts:
        features = reference.preprocess([text])
        padded = {}
        for name in run.input_names:
            padded[name] = np.zeros((1, TOKENS), np.int32)
            padded[name][:, : features[name].shape[1]] = features[name]
        found.append(run.run(padded)["embeddings"])
    return np.concatenate(found)


def test_fp32_is_exact_to_a_millionth(folder: Path, reference: Any, texts: list[str], expected: Any) -> None:
    assert len(texts) == SENTENCES
    assert np.abs(embed(folder / "fp32.mlpackage", reference, texts) - expected).max() <= 1e-6


@pytest.mark.parametrize(
    ("precision", "cosine", "overlap", "megabytes"),
    [("fp16", 0.99999, 0.99, 46), ("int8", 0.998, 0.95, 23), ("int4", 0.98, 0.85, 16)],
)
def test_smaller_variants_keep_their_gates(
    folder: Path,
    reference: Any,
    texts: list[str],
    expected: Any,
    precision: str,
    cosine: float,
    overlap: float,
    megabytes: int,
) -> None:
    path = folder / f"{precision}.mlpackage"
    found = embed(path, reference, texts)
    assert mean_cosine(found, expected) >= cosine
    assert top_overlap(found, expected) >= overlap
    assert contents.size(path) <= megabytes * 1_000_000


def test_a_fresh_process_needs_little_memory_and_writes_the_same_bytes(
    folder: Path, minilm: Path, tmp_path: Path
) -> None:
    arguments = [str(minilm), str(tmp_path / "again.mlpackage")]
    # By a small process in between: a child's peak counts that of the process it was started from.
    between = [sys.executable, "-I", "-S", "-c", "import subprocess, sys; sys.exit(subprocess.call(sys.argv[1:]))"]
    command = [*between, sys.executable, "-c", CONVERSION, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    digest, peak = done.stdout.split()
    assert digest == contents.digest(folder / "fp32.mlpackage")
    assert int(peak) * 1024 < 1_200_000_000


def test_every_length_of_one_package_answers_as_the_reference_does(reference: Any, tmp_path: Path) -> None:
    lengths = (32, 64, 128, 256, 512)
    encoder = encoders.text_encoder(reference, lengths)
    path = tmp_path / "lengths.mlpackage"
    convert(encoder.module, encoder.inputs, encoder.output, path)
    run = Runner(path)
    for length in lengths:
        for count in (3, length):
            ids = np.zeros((1, length), np.int32)
            ids[:, :count] = np.random.default_rng(length + count).integers(WORDS, 30000, count)
            ids[0, 0], ids[0, count - 1] = CLS, SEP
            mask = (ids > 0).astype(np.int32)
            cut = {"input_ids": torch.from_numpy(ids[:, :count]).long()}
            with torch.inference_mode():
                given = reference({**cut, "attention_mask": torch.ones_like(cut["input_ids"])})
            found = run.run({"input_ids": ids, "attention_mask": mask})["embeddings"]
            np.testing.assert_allclose(found, given["sentence_embedding"].numpy(), atol=1e-6)
