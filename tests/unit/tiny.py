"""Whole models folders of a few kilobytes: graphs, a tokenizer, goldens and a manifest, made in milliseconds and without torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models, pre_tokenizers

from modelbake import goldens, manifest
from modelbake.files import file_ref, file_refs
from modelbake.goldens import Case
from modelbake.manifest import (
    Artifact,
    BundleEntry,
    FileRef,
    ImagePreprocessing,
    Manifest,
    Parity,
    Role,
    SourceRecord,
    Tensor,
    Tokenizer,
    Weights,
)
from modelbake.runtime.image_preprocess import preprocess

GATE = 1e-5
WORDS = ("[PAD]", "[UNK]", "red", "green", "blue", "cat", "dog")
MAX_TOKENS = 5
SIZE = 8
PREPROCESSING = ImagePreprocessing(SIZE, "bicubic", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def table(seed: int = 0) -> NDArray[np.float32]:
    """The text encoder's word vectors, float32 [words, 4]; those of padding are 0."""
    vectors = np.random.default_rng(seed).normal(size=(len(WORDS), 4)).astype(np.float32)
    vectors[0] = 0
    return vectors


def text_graph(path: Path, vectors: NDArray[np.float32]) -> None:
    """A graph that adds the word vectors of input_ids [batch, sequence] and gives sentence_embedding of unit length."""
    ids = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "sequence"]) for n in _TEXT_INPUTS]
    out = helper.make_tensor_value_info("sentence_embedding", TensorProto.FLOAT, ["batch", vectors.shape[1]])
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["words"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["mask", "last"], ["column"]),
        helper.make_node("Mul", ["words", "column"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "one"], ["sum"], keepdims=0),
        helper.make_node("ReduceL2", ["sum"], ["length"], axes=[1], keepdims=1),
        helper.make_node("Div", ["sum", "length"], ["sentence_embedding"]),
    ]
    constants = {"table": vectors, "last": np.array([-1]), "one": np.array([1])}
    _save(path, nodes, ids, out, constants)


def image_graph(path: Path) -> None:
    """A graph that gives the mean of each channel of pixel_values [batch, 3, SIZE, SIZE]."""
    pixels = helper.make_tensor_value_info("pixel_values", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])
    out = helper.make_tensor_value_info("image_embedding", TensorProto.FLOAT, ["batch", 3])
    _save(
        path, [helper.make_node("ReduceMean", ["pixel_values"], [out.name], axes=[2, 3], keepdims=0)], [pixels], out, {}
    )


def matrix_graph(path: Path, weights: NDArray[np.float32]) -> None:
    """A graph that gives y = x @ weights for x [batch, rows]."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", weights.shape[0]])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", weights.shape[1]])
    _save(path, [helper.make_node("MatMul", ["x", "weights"], ["y"])], [x], y, {"weights": weights})


def tokenizer_file(path: Path, max_tokens: int | None = MAX_TOKENS, pad: bool = True) -> None:
    """A tokenizer.json that knows WORDS, separated by white space."""
    tokenizer = FastTokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if max_tokens is not None:
        tokenizer.enable_truncation(max_tokens)
    if pad:
        tokenizer.enable_padding(pad_id=0, pad_token="[PAD]")
    path.parent.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path))


def tokens(texts: Iterable[str]) -> dict[str, NDArray[np.int64]]:
    """What the tokenizer must make of the texts, by another way."""
    rows = [[WORDS.index(w) if w in WORDS else 1 for w in text.split()][:MAX_TOKENS] for text in texts]
    width = max(len(row) for row in rows)
    ids = np.array([row + [0] * (width - len(row)) for row in rows], dtype=np.int64)
    mask = np.array([[1] * len(row) + [0] * (width - len(row)) for row in rows], dtype=np.int64)
    return {"input_ids": ids, "attention_mask": mask}


def distinct_texts(count: int) -> list[str]:
    """Up to 126 texts of five words that no two vectors of the text graph agree on, in whatever order words are added."""
    return [" ".join(words) for words in itertools.combinations_with_replacement(WORDS[2:], MAX_TOKENS)][:count]


def embedding(texts: Iterable[str], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the text graph must give, computed in double precision by numpy."""
    made = tokens(texts)
    total = (vectors.astype(np.float64)[made["input_ids"]] * made["attention_mask"][..., np.newaxis]).sum(axis=1)
    unit: NDArray[np.float32] = (total / np.linalg.norm(total, axis=1, keepdims=True)).astype(np.float32)
    return unit


def text_bundle(models_dir: Path, name: str = "tiny-text", seed: int = 0, weights: Weights = "sample") -> BundleEntry:
    """A bundle of one text encoder in `models_dir`, with goldens; its files are written, its manifest entry is returned."""
    graph, tokenizer, golden = f"onnx/{name}.onnx", f"tokenizers/{name}/tokenizer.json", f"goldens/{name}.npz"
    text_graph(models_dir / graph, table(seed))
    tokenizer_file(models_dir / tokenizer)
    texts = ["red cat", "a green dog and more words than fit"]
    outputs: goldens.Arrays = {"sentence_embedding": embedding(texts, table(seed))}
    goldens.write(
        models_dir / golden, [Case("text_encoder", "two", {**tokens(texts)}, outputs, {"text": np.array(texts)})]
    )
    artifact = _artifact(
        models_dir,
        graph,
        "text_encoder",
        tuple(Tensor(n, "int64", ("batch", "sequence")) for n in _TEXT_INPUTS),
        (Tensor("sentence_embedding", "float32", ("batch", 4)),),
    )
    artifact = _with(
        artifact,
        embedding_dimension=4,
        normalized=True,
        tokenizer=Tokenizer("tokenizer.json", tokenizer, MAX_TOKENS),
    )
    return entry_of(models_dir, name, (artifact,), golden, (tokenizer,), weights)


def image_bundle(models_dir: Path, name: str = "tiny-image") -> BundleEntry:
    """A bundle of one image encoder in `models_dir`, with goldens."""
    from PIL import Image

    graph, golden = f"onnx/{name}.onnx", f"goldens/{name}.npz"
    image_graph(models_dir / graph)
    raw = np.random.default_rng(1).integers(0, 256, (12, 9, 3), dtype=np.uint8)
    pixels = preprocess(Image.fromarray(raw), PREPROCESSING)[np.newaxis]
    outputs: goldens.Arrays = {"image_embedding": pixels.astype(np.float64).mean(axis=(2, 3)).astype(np.float32)}
    goldens.write(
        models_dir / golden, [Case("image_encoder", "one", {"pixel_values": pixels}, outputs, {"image.0": raw})]
    )
    artifact = _artifact(
        models_dir,
        graph,
        "image_encoder",
        (Tensor("pixel_values", "float32", ("batch", 3, SIZE, SIZE)),),
        (Tensor("image_embedding", "float32", ("batch", 3)),),
    )
    artifact = _with(artifact, embedding_dimension=3, normalized=False, preprocessing=PREPROCESSING)
    return entry_of(models_dir, name, (artifact,), golden)


def entry_of(
    models_dir: Path,
    name: str,
    artifacts: tuple[Artifact, ...],
    golden: str,
    more: tuple[str, ...] = (),
    weights: Weights = "sample",
) -> BundleEntry:
    """The manifest entry of a bundle whose files are the artifacts', the goldens and `more`."""
    files = tuple(file_ref(models_dir, path) for path in sorted({*(a.path for a in artifacts), golden, *more}))
    return BundleEntry(
        name=name,
        version="1.0.0",
        kind="text_encoder",
        description="made for a test",
        licence="Apache-2.0",
        weights=weights,
        pinned=True,
        source=SourceRecord("sample", (), seed=0),
        artifacts=artifacts,
        goldens=file_ref(models_dir, golden),
        files=files,
        digest=manifest.bundle_digest(files),
    )


def models_folder(models_dir: Path) -> Manifest:
    """A models folder with a text and an image bundle and its manifest."""
    made = Manifest(manifest.SCHEMA_VERSION, (image_bundle(models_dir), text_bundle(models_dir)))
    manifest.write(models_dir, made)
    return made


def contents(root: Path) -> dict[str, FileRef]:
    """Every file below `root` by path: to see that nothing changed."""
    return {ref.path: ref for ref in file_refs(root)}


_TEXT_INPUTS = ("input_ids", "attention_mask")


def _artifact(
    models_dir: Path, path: str, role: Role, inputs: tuple[Tensor, ...], outputs: tuple[Tensor, ...]
) -> Artifact:
    ref = file_ref(models_dir, path)
    return Artifact(
        path=path,
        sha256=ref.sha256,
        size=ref.size,
        format="onnx",
        role=role,
        precision="fp32",
        inputs=inputs,
        outputs=outputs,
        parity=Parity(1e-6, GATE, 1),
        tools={"onnx": "1"},
    )


def _with(artifact: Artifact, **changes: object) -> Artifact:
    from msgspec.structs import replace

    return replace(artifact, **changes)


def _save(
    path: Path,
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    output: onnx.ValueInfoProto,
    constants: dict[str, NDArray[np.generic]],
) -> None:
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, [output], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, str(path))
