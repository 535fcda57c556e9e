"""sentence-transformers CrossEncoders into one ONNX graph, activation included, with the model's own folder beside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from modelbake import goldens
from modelbake.bundle import Bundle, CrossEncoderModel
from modelbake.errors import IntegrityError, UsageError
from modelbake.export._torchvision import declare_missing_ops
from modelbake.export.artifact import Draft, Export, export_onnx, tool_versions
from modelbake.export.sample_tokenizer import fast_tokenizer
from modelbake.manifest import Role, Tokenizer

ROLE: Role = "reranker"
INPUTS = ("input_ids", "attention_mask", "token_type_ids")
# What `sample` can draw, and the models whose inputs are known to be made right by the runtime.
MODEL_TYPES = ("bert", "distilbert", "roberta")

# Pairs of one token to more than fits, either of the two longer, scripts, and what normalisers trip over; none of the batches has
# the traced shape.
_LONG = "a very long text that does not end, " * 60
GOLDEN_PAIRS: dict[str, list[tuple[str, str]]] = {
    "single": [("how many people live in berlin", "Berlin has 3.5 million inhabitants.")],
    "mixed": [
        ("what do people eat", "A man is eating a piece of bread."),
        ("x", "y"),
        ("", ""),
        ("", "A document without a query."),
        ("a query without a document", ""),
        ("Zwölf Boxkämpfer — 12 %?!", "Viktor jagt sie quer über den großen Sylter Deich."),
        ("モデルを配布する", "機械学習のモデル"),
        ("emoji 👩‍👩‍👧‍👦 🐈", "and \t control \u200b characters; don't forget e\u0301 🎉"),
        ("the quick brown fox", "The quick brown fox jumps over the lazy dog. " * 4),
    ],
    "long-document": [("short query", _LONG), ("short", "short")],
    "long-query": [(_LONG, "short document")],
    "long-both": [(_LONG, f"another {_LONG}")],
}


def sample(bundle: Bundle, folder: Path, seed: int) -> None:
    """Write a CrossEncoder's folder of the bundle's true architecture with weights drawn from `seed`.

    Its vocabulary holds single characters or bytes alone. UsageError where the architecture cannot be drawn.
    """
    declare_missing_ops()
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    model = _spec(bundle)
    numbers = dict(model.architecture)
    model_type = str(numbers.pop("model_type", "bert"))
    if model_type not in MODEL_TYPES:
        raise UsageError(
            f"{bundle.name}: sample weights of a cross_encoder with model_type {model_type!r} cannot be drawn, only of "
            f"{', '.join(MODEL_TYPES)}; take the sample source out of its bundle.toml."
        )
    torch.manual_seed(seed)
    config = AutoConfig.for_model(model_type, **numbers, num_labels=1)
    AutoModelForSequenceClassification.from_config(config).eval().save_pretrained(folder)
    fast_tokenizer(model_type, model.max_tokens).save_pretrained(folder)


def export(bundle: Bundle, sources: Path, out: Path) -> Export:
    """Export the CrossEncoder's folder `sources` into `out`: graph, tokenizer, goldens, and that folder itself for offline use.

    The graph takes int64 `input_ids`, `attention_mask` and, where the model has them, `token_type_ids`, all [batch, sequence], and
    gives float32 `score` [batch]: CrossEncoder.predict's, with the activation that it applies by default.
    UsageError where the model has no head with one label, or another length than the bundle's.
    """
    declare_missing_ops()
    import torch

    model = _spec(bundle)
    reference = _load(bundle, model, sources)
    names = tuple(name for name in INPUTS if name in _preprocess(reference, [("a", "b")]))

    class Scorer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.transformer = reference[0].model
            self.activation = reference.activation_fn

        def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
            logits = self.transformer(**dict(zip(names, inputs, strict=True))).logits
            score: torch.Tensor = self.activation(logits).squeeze(-1)
            return score

    example = _preprocess(reference, [("an example", "to trace with"), ("two", "pairs")])
    graph = Path("onnx") / f"{model.model}.onnx"
    free = {0: "batch", 1: "sequence"}
    inputs, outputs, beside = export_onnx(
        Scorer().eval(),
        {name: example[name] for name in names},
        ["score"],
        {**dict.fromkeys(names, free), "score": {0: "batch"}},
        out / graph,
    )
    tokenizer = Path("tokenizers") / model.model / "tokenizer.json"
    _write_tokenizer(reference, model.max_tokens, out / tokenizer)
    own = Path("reranker") / model.model
    copies = tuple((own / pin.path).as_posix() for pin in bundle.files)
    for pin in bundle.files:
        (out / own / pin.path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sources / pin.path, out / own / pin.path)
    golden = Path("goldens") / f"{bundle.name}.npz"
    goldens.write(out / golden, _golden_cases(reference, names))
    draft = Draft(
        path=graph.as_posix(),
        role=ROLE,
        inputs=inputs,
        outputs=outputs,
        tools=tool_versions("torch", "onnx", "transformers", "sentence-transformers"),
        external_data=tuple((graph.parent / name).as_posix() for name in beside),
        activation=type(reference.activation_fn).__name__,
        tokenizer=Tokenizer("tokenizer.json", tokenizer.as_posix(), model.max_tokens),
    )
    return Export((draft,), golden.as_posix(), (tokenizer.as_posix(), *copies))


def _spec(bundle: Bundle) -> CrossEncoderModel:
    assert isinstance(bundle.model, CrossEncoderModel)
    return bundle.model


def _load(bundle: Bundle, model: CrossEncoderModel, sources: Path) -> Any:
    """The CrossEncoder of the folder, checked to be one that this kind can hold."""
    from sentence_transformers import CrossEncoder
    from transformers import AutoConfig, AutoModelForSequenceClassification
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    path = sources / "config.json"
    config = AutoConfig.from_pretrained(str(sources), local_files_only=True, trust_remote_code=False)
    architecture = (config.architectures or ["none"])[0]
    if config.model_type not in MODEL_TYPES or not architecture.endswith("ForSequenceClassification"):
        raise UsageError(
            f"{bundle.name}: {path} says model_type {config.model_type!r} and architecture {architecture}; a cross_encoder bundle "
            f"takes ForSequenceClassification models of the types {', '.join(MODEL_TYPES)}. Choose another model."
        )
    if config.num_labels != 1:
        raise UsageError(
            f"{bundle.name}: {path} says num_labels = {config.num_labels}; a reranker's head has one label, and which of several "
            "would be the score is not for a converter to guess. Choose a model with one label."
        )
    # Weights that a file lacks are drawn anew at every load, with a warning that nobody reads.
    _, info = AutoModelForSequenceClassification.from_pretrained(
        str(sources), local_files_only=True, trust_remote_code=False, output_loading_info=True
    )
    if info["missing_keys"] or info["mismatched_keys"]:
        lacking = ", ".join(sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))[:3])
        raise IntegrityError(
            f"{bundle.name}: the weights in {sources} do not fit their config.json: no {lacking}. Choose a whole checkpoint."
        )
    # Eager attention traces to plain matrix products, at any batch size and length.
    reference = CrossEncoder(
        str(sources),
        device="cpu",
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"attn_implementation": "eager"},
    ).eval()
    if len(reference) != 1:
        raise UsageError(
            f"{bundle.name}: {sources / 'modules.json'} puts {len(reference)} modules in a row; a cross_encoder bundle takes a "
            "transformer with its head alone. Choose another model."
        )
    if model.max_tokens > reference.max_seq_length:
        raise UsageError(
            f"{bundle.name}: max_tokens = {model.max_tokens}, but {sources} takes {reference.max_seq_length} at most; "
            "write that into its bundle.toml."
        )
    reference.max_seq_length = model.max_tokens
    return reference


def _preprocess(reference: Any, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    features = reference.preprocess(pairs)
    return {name: features[name] for name in INPUTS if name in features}


def _golden_cases(reference: Any, names: tuple[str, ...]) -> list[goldens.Case]:
    import numpy as np

    double = reference.double()
    cases = []
    for name, pairs in GOLDEN_PAIRS.items():
        features = _preprocess(reference, pairs)
        queries, documents = (np.array(texts) for texts in zip(*pairs, strict=True))
        inputs: goldens.Arrays = {key: features[key].numpy() for key in names}
        # predict() gives float32, rounded once from the doubles that it computed in.
        outputs: goldens.Arrays = {"score": double.predict(pairs, show_progress_bar=False)}
        cases.append(goldens.Case(ROLE, name, inputs, outputs, {"query": queries, "document": documents}))
    return cases


def _write_tokenizer(reference: Any, max_tokens: int, path: Path) -> None:
    """The model's own tokenizer.json, set to cut pairs at `max_tokens`, their longer text first, and to pad batches."""
    own = reference.tokenizer
    backend = own.backend_tokenizer
    backend.enable_truncation(max_tokens, strategy="longest_first", direction=own.truncation_side)
    backend.enable_padding(
        direction=own.padding_side,
        pad_id=own.pad_token_id,
        pad_type_id=own.pad_token_type_id,
        pad_token=own.pad_token,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(backend.to_str(pretty=False), encoding="utf-8")
