"""A Core ML bundle with a tokenizer.json of BERT's kind, written by hand, so that its bytes depend on no library's version."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from modelbake import manifest
from modelbake.files import file_ref
from modelbake.manifest import Artifact, BundleEntry, ImagePreprocessing, Manifest, Tensor, Tokenizer
from tests.unit.finish import standins

NAME = "minilm-coreml"
STEM = "MiniLM_L6_v2"
TOKENIZER = "tokenizers/all-MiniLM-L6-v2/tokenizer.json"
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = (
    "the",
    "cat",
    "##s",
    "un",
    "##aff",
    "##able",
    "hello",
    "world",
    "straße",
    "東",
    "京",
    "é",
    "e",
    "##e",
    "i",
    "ö",
)
MOST_TOKENS = 128


def tokenizer_json(**changes: Any) -> dict[str, Any]:
    """The document; `changes` are of its normalizer."""
    letters = [*(chr(code) for code in range(33, 127)), "ß", "π", "д", "¿", "—", "№", "k"]
    pieces = dict.fromkeys([*SPECIAL, *WORDS, *letters, *(f"##{letter}" for letter in letters)])
    added = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": {"direction": "Right", "max_length": MOST_TOKENS, "strategy": "LongestFirst", "stride": 0},
        "padding": {
            "strategy": "BatchLongest",
            "direction": "Right",
            "pad_to_multiple_of": None,
            "pad_id": 0,
            "pad_type_id": 0,
            "pad_token": "[PAD]",
        },
        "added_tokens": [{"id": i, "content": token, **added} for i, token in enumerate(SPECIAL)],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
            **changes,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {
                "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
                "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
            },
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {piece: i for i, piece in enumerate(pieces)},
        },
    }


def write_tokenizer(path: Path, document: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, ensure_ascii=False, sort_keys=True), encoding="utf-8")


def bundle(models: Path) -> BundleEntry:
    """A text encoder in fp16 of five lengths; no runtime reads its package, whose bytes are made up."""
    write_tokenizer(models / TOKENIZER, tokenizer_json())
    package = f"coreml/{STEM}.mlpackage"
    for path, data in standins.PACKAGE_FILES.items():
        file = models / package / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    golden = f"goldens/{NAME}.npz"
    (models / golden).parent.mkdir(parents=True)
    (models / golden).write_bytes(b"goldens that nobody replays")
    (text, _) = standins.bundle(models / "standins", ("int8", "fp32")).artifacts
    refs = {path: file_ref(models, f"{package}/{path}") for path in standins.PACKAGE_FILES}
    graph = refs.pop("Data/com.apple.CoreML/model.mlmodel")
    assert text.coreml is not None
    artifact = replace(
        text,
        path=graph.path,
        sha256=graph.sha256,
        size=graph.size,
        precision="fp16",
        external_data=tuple(refs.values()),
        tokenizer=Tokenizer("tokenizer.json", TOKENIZER, MOST_TOKENS),
        coreml=replace(text.coreml, package=package, lengths=(32, 64, 128)),
    )
    files = tuple(sorted((graph, *refs.values(), file_ref(models, golden), file_ref(models, TOKENIZER)), key=_path))
    entry = BundleEntry(
        name=NAME,
        version="1.0.0",
        kind="coreml_text_encoder",
        description="made for a test",
        licence="Apache-2.0",
        weights="sample",
        pinned=True,
        source=manifest.SourceRecord("sample", (), seed=0),
        artifacts=(artifact,),
        goldens=file_ref(models, golden),
        files=files,
        digest=manifest.bundle_digest(files),
    )
    manifest.write(models, Manifest(manifest.SCHEMA_VERSION, (entry,)))
    return entry


def clip_artifact(artifact: Artifact) -> Artifact:
    """The artifact as if it were CLIP's text encoder: ids alone, of one length."""
    assert artifact.coreml is not None
    return replace(
        artifact,
        inputs=(Tensor("input_ids", "int32", (1, 77)),),
        tokenizer=Tokenizer("clip-merges", "clip/merges.txt", 77),
        coreml=replace(artifact.coreml, lengths=(77,)),
    )


def image_artifact(artifact: Artifact, size: int = 224) -> Artifact:
    """The artifact as if it were an image encoder's."""
    return replace(
        artifact,
        role="image_encoder",
        inputs=(Tensor("image", "uint8", (1, 3, size, size)),),
        tokenizer=None,
        preprocessing=ImagePreprocessing(size, "bicubic", (0.48145466, 0.4578275, 0.40821073), (0.25, 0.5, 0.75)),
    )


def snapshots(artifact: Artifact) -> dict[str, Artifact]:
    """The artifacts whose whole Swift lies beside this module, by the names of their files."""
    return {"image.swift": image_artifact(artifact), "clip_text.swift": clip_artifact(artifact)}


def _path(ref: manifest.FileRef) -> str:
    return ref.path
