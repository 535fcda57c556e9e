"""sentence-transformers models into one ONNX graph: transformer, pooling and normalisation together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from modelbake import goldens
from modelbake.bundle import Bundle, TextEncoderModel
from modelbake.export._torchvision import declare_missing_ops
from modelbake.export.artifact import Draft, Export, export_onnx, tool_versions
from modelbake.export.sample_tokenizer import character_wordpiece
from modelbake.manifest import Role, Tokenizer

ROLE: Role = "text_encoder"
EVALUATION_BATCH = 16

# Lengths from one token to past the limit, scripts, and what normalisers trip over; none of the batches has the traced shape.
GOLDEN_TEXTS: dict[str, list[str]] = {
    "single": ["hello world"],
    "mixed": [
        "A man is eating a piece of bread.",
        "x",
        "Zwölf Boxkämpfer jagen Viktor quer über den großen Sylter Deich — 12 %?!",
        "機械学習のモデルを配布する",
        "emoji 👩‍👩‍👧‍👦 and \t control \u200b characters; don't forget e\u0301",
        "",
        "The quick brown fox jumps over the lazy dog. " * 4,
    ],
    "truncated": ["a very long sentence that does not end, " * 60, "short"],
}


def sample(bundle: Bundle, folder: Path, seed: int) -> None:
    """Write a sentence-transformers folder of the bundle's true architecture with weights drawn from `seed`.

    Its WordPiece vocabulary holds single characters alone, since the real one is part of what could not be fetched.
    """
    declare_missing_ops()
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    model = _spec(bundle)
    torch.manual_seed(seed)
    config = BertConfig(**model.architecture)
    inner = folder / "transformer"
    BertModel(config, add_pooling_layer=False).eval().save_pretrained(inner)
    PreTrainedTokenizerFast(
        tokenizer_object=character_wordpiece(),
        model_max_length=model.max_tokens,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    ).save_pretrained(inner)
    transformer = Transformer(str(inner), max_seq_length=model.max_tokens)
    pooling = Pooling(config.hidden_size, pooling_mode=model.pooling)
    SentenceTransformer(modules=[transformer, pooling, Normalize()], device="cpu").save(
        str(folder), create_model_card=False
    )
    for path in sorted(inner.iterdir()):
        path.unlink()
    inner.rmdir()


def export(bundle: Bundle, sources: Path, out: Path) -> Export:
    """Export the sentence-transformers folder `sources` into `out`: graph, tokenizer, goldens.

    The graph takes int64 `input_ids` and `attention_mask`, both [batch, sequence], and gives float32 `sentence_embedding`
    [batch, dimension] of unit length.
    """
    model = _spec(bundle)
    reference = load_reference(sources, model.max_tokens)

    import torch

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.modules_in_order = reference

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            features = self.modules_in_order({"input_ids": input_ids, "attention_mask": attention_mask})
            embedding: torch.Tensor = features["sentence_embedding"]
            return embedding

    encoder = Encoder().eval()
    example = tokenize(reference, ["an example to trace with", "two"])
    graph = Path("onnx") / f"{model.model}.onnx"
    free = {0: "batch", 1: "sequence"}
    inputs, outputs, beside = export_onnx(
        encoder,
        example,
        ["sentence_embedding"],
        {"input_ids": free, "attention_mask": free, "sentence_embedding": {0: "batch"}},
        out / graph,
    )
    tokenizer = Path("tokenizers") / model.model / "tokenizer.json"
    write_tokenizer(reference, model.max_tokens, out / tokenizer)
    golden = Path("goldens") / f"{bundle.name}.npz"
    goldens.write(out / golden, _golden_cases(bundle, reference, encoder))
    draft = Draft(
        path=graph.as_posix(),
        role=ROLE,
        inputs=inputs,
        outputs=outputs,
        tools=tool_versions("torch", "onnx", "transformers", "sentence-transformers"),
        external_data=tuple((graph.parent / name).as_posix() for name in beside),
        embedding_dimension=int(reference.get_embedding_dimension()),
        normalized=True,
        tokenizer=Tokenizer("tokenizer.json", tokenizer.as_posix(), model.max_tokens),
    )
    return Export((draft,), golden.as_posix(), (tokenizer.as_posix(),))


def load_reference(sources: Path, max_tokens: int) -> Any:
    """The SentenceTransformer of the folder, on the processor, in eval mode, that cuts texts at `max_tokens`."""
    declare_missing_ops()
    from sentence_transformers import SentenceTransformer
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()
    # Eager attention traces to plain matrix products, at any batch size and length.
    reference = SentenceTransformer(
        str(sources),
        device="cpu",
        local_files_only=True,
        trust_remote_code=False,
        model_kwargs={"attn_implementation": "eager"},
    ).eval()
    reference.max_seq_length = max_tokens
    return reference


def _spec(bundle: Bundle) -> TextEncoderModel:
    assert isinstance(bundle.model, TextEncoderModel)
    return bundle.model


def tokenize(reference: Any, texts: list[str]) -> dict[str, Any]:
    """`input_ids` and `attention_mask` of the texts as the reference makes them, int64 [texts, longest]."""
    features = reference.preprocess(texts)
    return {name: features[name] for name in ("input_ids", "attention_mask")}


def _golden_cases(bundle: Bundle, reference: Any, encoder: Any) -> list[goldens.Case]:
    import numpy as np
    import torch

    double = encoder.double()
    cases = []
    for name, texts in GOLDEN_TEXTS.items():
        features = tokenize(reference, texts)
        with torch.inference_mode():
            embedding = double(**features).numpy()
        inputs = {key: value.numpy() for key, value in features.items()}
        outputs = goldens.as_float32({"sentence_embedding": embedding})
        cases.append(goldens.Case(ROLE, name, inputs, outputs, {"text": np.array(texts)}))
    if bundle.evaluation:
        cases.append(_evaluation_case(bundle.evaluation, reference, double))
    return cases


def _evaluation_case(texts: tuple[str, ...], reference: Any, double: Any) -> goldens.Case:
    import numpy as np
    import torch

    parts = []
    for start in range(0, len(texts), EVALUATION_BATCH):
        features = tokenize(reference, list(texts[start : start + EVALUATION_BATCH]))
        with torch.inference_mode():
            parts.append(double(**features).numpy())
    embeddings = goldens.as_float32({"sentence_embedding": np.concatenate(parts)})
    return goldens.evaluation_of_texts(ROLE, texts, embeddings)


def write_tokenizer(reference: Any, max_tokens: int, path: Path) -> None:
    """The model's own tokenizer.json, set to cut at `max_tokens` and to pad each batch to its longest text."""
    own = reference.tokenizer
    backend = own.backend_tokenizer
    backend.enable_truncation(max_tokens)
    backend.enable_padding(pad_id=own.pad_token_id, pad_token=own.pad_token)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(backend.to_str(pretty=False), encoding="utf-8")
