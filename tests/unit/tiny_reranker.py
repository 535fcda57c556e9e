"""A reranker bundle of a few kilobytes, made in milliseconds and without torch, like those of tests.unit.tiny."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from modelbake import goldens
from modelbake.files import file_ref
from modelbake.goldens import Case
from modelbake.manifest import Artifact, BundleEntry, Parity, Tensor, Tokenizer, Weights
from tests.unit import tiny

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# Of tiny.WORDS; padding would be seen if it were not masked.
WORTH = np.array([100, 0.25, 1, -2, 4, 8, -16], np.float32)


def graph(path: Path, inputs: Sequence[str] = INPUTS) -> None:
    """score = the sum of the words' worth, where a document's words count twice if the graph takes token types."""
    values = [helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"]) for name in inputs]
    out = helper.make_tensor_value_info("score", TensorProto.FLOAT, ["batch"])
    types = "token_type_ids" if "token_type_ids" in inputs else "attention_mask"
    nodes = [
        helper.make_node("Gather", ["worth", "input_ids"], ["words"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT),
        helper.make_node("Cast", [types], ["types"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["words", "mask"], ["kept"]),
        helper.make_node("Mul", ["kept", "types"], ["again"]),
        helper.make_node("Add", ["kept", "again"], ["weighed"]),
        helper.make_node("ReduceSum", ["weighed", "one"], ["score"], keepdims=0),
    ]
    constants = {"worth": WORTH, "one": np.array([1])}
    initializers = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    model = helper.make_model(
        helper.make_graph(nodes, "tiny", values, [out], initializers),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(model, str(path))


def cut(query: str, document: str) -> tuple[list[int], list[int]]:
    """The word ids of both that fit, by another way: a half, rounded down, is safe for the shorter one, and the first where equal."""
    first, second = (
        [tiny.WORDS.index(w) if w in tiny.WORDS else 1 for w in text.split()] for text in (query, document)
    )
    shorter = min(len(first), len(second))
    if len(first) + len(second) > tiny.MAX_TOKENS:
        shorter = min(shorter, tiny.MAX_TOKENS // 2)
        longer = tiny.MAX_TOKENS - shorter
        return (first[:longer], second[:shorter]) if len(first) > len(second) else (first[:shorter], second[:longer])
    return first, second


def score(query: str, documents: Sequence[str]) -> NDArray[np.float32]:
    """What the graph with token types must give."""
    rows = [cut(query, document) for document in documents]
    return np.array([WORTH[first].sum() + 2 * WORTH[second].sum() for first, second in rows], np.float32)


def inputs(pairs: Sequence[tuple[str, str]]) -> goldens.Arrays:
    """What the tokenizer must make of the pairs, int64 [pairs, longest] each."""
    rows = [cut(*pair) for pair in pairs]
    width = max(len(first) + len(second) for first, second in rows)
    made = {name: np.zeros((len(rows), width), np.int64) for name in INPUTS}
    for index, (first, second) in enumerate(rows):
        length = len(first) + len(second)
        made["input_ids"][index, :length] = [*first, *second]
        made["attention_mask"][index, :length] = 1
        made["token_type_ids"][index, len(first) : length] = 1
    return dict(made)


def bundle(models_dir: Path, name: str = "tiny-reranker", weights: Weights = "sample") -> BundleEntry:
    """A bundle of one reranker in `models_dir`, with goldens; its files are written, its manifest entry is returned."""
    path, tokenizer, golden = f"onnx/{name}.onnx", f"tokenizers/{name}/tokenizer.json", f"goldens/{name}.npz"
    graph(models_dir / path)
    tiny.tokenizer_file(models_dir / tokenizer)
    pairs = [("red cat", "a dog"), ("red red red red", "green blue blue"), ("", "cat")]
    queries, documents = (np.array(texts) for texts in zip(*pairs, strict=True))
    outputs: goldens.Arrays = {"score": np.concatenate([score(q, [d]) for q, d in pairs])}
    case = Case("reranker", "three", inputs(pairs), outputs, {"query": queries, "document": documents})
    goldens.write(models_dir / golden, [case])
    ref = file_ref(models_dir, path)
    artifact = Artifact(
        path=path,
        sha256=ref.sha256,
        size=ref.size,
        format="onnx",
        role="reranker",
        precision="fp32",
        inputs=tuple(Tensor(n, "int64", ("batch", "sequence")) for n in INPUTS),
        outputs=(Tensor("score", "float32", ("batch",)),),
        parity=Parity(1e-6, tiny.GATE, 1),
        tools={"onnx": "1"},
        activation="Identity",
        tokenizer=Tokenizer("tokenizer.json", tokenizer, tiny.MAX_TOKENS),
    )
    return tiny.entry_of(models_dir, name, (artifact,), golden, (tokenizer,), weights)
