"""Rerankers: the ONNX graph and the runtime's tokenizer against sentence-transformers' CrossEncoder; heads and fallbacks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelbake import goldens, manifest
from modelbake.runtime.pair_tokenizer import PairTokenizer
from modelbake.runtime.reranker import Reranker
from tests.golden import crossencoders
from tests.golden.conftest import Built, environment, modelbake
from tests.hub import Hub

QUERY = "how many people live in Berlin 🐈?"
# fmt: off
WORDS = [
    "Berlin", "has", "many", "people", ",", "naïve", "Zürich", "東京", "👩\u200d👩\u200d👧\u200d👦", "museums", "12345", "e\u0301",
    "[SEP]", "</s>", "!", "the", "of\u200bfice",
]
# fmt: on


def documents(count: int, seed: int) -> list[str]:
    """Seeded documents of 0 to 30 words, and one that no model takes whole."""
    generator = np.random.default_rng(seed)
    lengths = [0, 1, *generator.integers(0, 30, count - 3), 900]
    return [" ".join(generator.choice(WORDS, length)) for length in lengths]


def test_the_cached_model_loads_offline_and_scores_as_the_graph_does(built: Built) -> None:
    entry = manifest.read(built.models).bundle("ms-marco-reranker")
    texts = documents(7, seed=0)
    pairs = [(QUERY, text) for text in texts] + [("", "y"), ("a query " * 400, "short"), ("a query " * 400, texts[-1])]
    expected = crossencoders.predict_offline(built.models / "reranker" / "ms-marco-MiniLM-L6-v2", pairs, built.environ)
    reranker = Reranker(entry, built.models)
    found = np.concatenate([reranker.score(query, [document]) for query, document in pairs])
    assert np.abs(found - expected).max() <= 1e-5
    assert np.abs(reranker.score(QUERY, texts) - expected[: len(texts)]).max() <= 1e-5
    assert np.ptp(expected) > 1e-3


def test_the_bundle_holds_the_model_s_own_files_unchanged_and_no_pickle(built: Built) -> None:
    entry = manifest.read(built.models).bundle("ms-marco-reranker")
    (artifact,) = entry.artifacts
    assert (artifact.role, artifact.activation) == ("reranker", "Identity")
    digests = {ref.path: ref.sha256 for ref in entry.files}
    for ref in entry.source.files:
        assert digests[f"reranker/ms-marco-MiniLM-L6-v2/{ref.path}"] == ref.sha256
    assert "reranker/ms-marco-MiniLM-L6-v2/model.safetensors" in digests
    assert not [path for path in digests if path.endswith((".bin", ".pt", ".pth"))]
    # The image build counts one layer a file, and the manifest.
    assert len(entry.files) == 8


def test_goldens_hold_pairs_of_every_kind(built: Built) -> None:
    entry = manifest.read(built.models).bundle("ms-marco-reranker")
    cases = {case.name: case for case in goldens.read(built.models / entry.goldens.path)}
    assert cases.keys() == {"single", "mixed", "long-document", "long-query", "long-both"}
    lengths = {name: case.inputs["input_ids"].shape[1] for name, case in cases.items()}
    assert lengths["long-document"] == lengths["long-query"] == lengths["long-both"] == 512
    assert "" in cases["mixed"].raw["query"]
    assert "" in cases["mixed"].raw["document"]
    assert all(case.outputs["score"].dtype == np.float32 for case in cases.values())


SHAPES: dict[str, tuple[str, dict[str, Any], str, bool]] = {
    # Name: type, what its config.json says of the activation, the one that CrossEncoder takes, token types.
    "bert": (
        "bert",
        {"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
        "Identity",
        True,
    ),
    "roberta": ("roberta", {}, "Sigmoid", False),
    "distilbert": (
        "distilbert",
        {"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Tanh", "version": "6.2.0"}},
        "Tanh",
        False,
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_model_from_the_hub_scores_as_cross_encoder_does(hub: Hub, tmp_path: Path, shape: str) -> None:
    model_type, config, activation, has_types = SHAPES[shape]
    source = tmp_path / "source"
    crossencoders.save(source, model_type, seed=3, **config)
    crossencoders.define(tmp_path, shape, f"org/{shape}", crossencoders.serve(hub, f"org/{shape}", source))
    environ = environment(tmp_path, MODELBAKE_ROOT=str(tmp_path), HF_ENDPOINT=hub.endpoint, WEIGHTS="pretrained")
    modelbake("build", shape, environ=environ)
    models = tmp_path / "models"
    entry = manifest.read(models).bundle(shape)
    (artifact,) = entry.artifacts
    assert artifact.activation == activation
    assert ("token_type_ids" in [tensor.name for tensor in artifact.inputs]) == has_types
    assert artifact.parity.max_abs_diff <= artifact.parity.gate == 1e-5

    from sentence_transformers import CrossEncoder

    reference = CrossEncoder(str(models / "reranker" / shape), device="cpu", local_files_only=True)
    texts = documents(12, seed=4)
    pairs = [(QUERY, text) for text in texts] + [("", ""), (texts[-1], "x"), (texts[-1], texts[-1])]
    assert artifact.tokenizer is not None
    tokenizer = PairTokenizer(artifact.tokenizer, models)
    made, expected = tokenizer.pad(tokenizer.encode(pairs)), reference.preprocess(pairs)
    for tensor in artifact.inputs:
        np.testing.assert_array_equal(made[tensor.name], expected[tensor.name].numpy())
    assert made["input_ids"].shape[1] == crossencoders.MAX_TOKENS
    scores = reference.predict([(QUERY, text) for text in texts])
    assert np.abs(Reranker(entry, models).score(QUERY, texts) - scores).max() <= 1e-5
    # Not all alike, or a wrong graph would pass.
    assert np.ptp(scores) > 0.1


def test_logits_of_ten_and_more_keep_the_gate(hub: Hub, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    source = tmp_path / "source"
    crossencoders.save(source, "bert", seed=5, **SHAPES["bert"][1])
    weights = load_file(source / "model.safetensors")
    weights["classifier.weight"] *= 8
    save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    crossencoders.define(tmp_path, "large", "org/large", crossencoders.serve(hub, "org/large", source))
    environ = environment(tmp_path, MODELBAKE_ROOT=str(tmp_path), HF_ENDPOINT=hub.endpoint)
    modelbake("build", "large", environ=environ)
    entry = manifest.read(tmp_path / "models").bundle("large")
    scores = np.concatenate([case.outputs["score"] for case in goldens.read(tmp_path / "models" / entry.goldens.path)])
    assert np.abs(scores).max() > 10


@pytest.mark.parametrize(
    ("spoilt", "code", "message"),
    [
        ("labels", 2, "config.json says num_labels = 3; a reranker's head has one label"),
        ("headless", 2, "architecture BertModel; a cross_encoder bundle takes ForSequenceClassification models"),
        ("half", 5, "do not fit their config.json: no classifier.weight"),
        ("long", 2, "max_tokens = 128, but"),
    ],
)
def test_what_is_no_head_with_one_label_is_refused(
    hub: Hub, tmp_path: Path, spoilt: str, code: int, message: str
) -> None:
    from safetensors.torch import load_file, save_file

    source = tmp_path / "source"
    crossencoders.save(source, "bert", seed=6, num_labels=3 if spoilt == "labels" else 1)
    if spoilt == "headless":
        config = json.loads((source / "config.json").read_text())
        (source / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    if spoilt == "half":
        weights = load_file(source / "model.safetensors")
        del weights["classifier.weight"]
        save_file(weights, source / "model.safetensors", metadata={"format": "pt"})
    if spoilt == "long":
        config = json.loads((source / "tokenizer_config.json").read_text())
        (source / "tokenizer_config.json").write_text(json.dumps(config | {"model_max_length": 64}))
    crossencoders.define(tmp_path, spoilt, f"org/{spoilt}", crossencoders.serve(hub, f"org/{spoilt}", source))
    environ = environment(tmp_path, MODELBAKE_ROOT=str(tmp_path), HF_ENDPOINT=hub.endpoint)
    done = modelbake("build", spoilt, environ=environ, check=False)
    assert done.returncode == code, done.stderr
    assert message in done.stderr
    assert not (tmp_path / "models").exists()


def test_a_bundle_becomes_its_first_fallback_that_can_be_had(hub: Hub, tmp_path: Path) -> None:
    source = tmp_path / "source"
    crossencoders.save(source, "distilbert", seed=7)
    commit = crossencoders.serve(hub, "org/third", source)
    absent = "0" * 40
    crossencoders.define(tmp_path, "either", "org/first", absent, ("org/second", absent), ("org/third", commit))
    environ = environment(tmp_path, MODELBAKE_ROOT=str(tmp_path), HF_ENDPOINT=hub.endpoint, WEIGHTS="pretrained")
    done = modelbake("build", "either", environ=environ)
    assert "WARNING: either: FALLBACK to third instead of first, second" in done.stderr
    (entry,) = json.loads((tmp_path / "models" / manifest.MANIFEST_NAME).read_text())["bundles"]
    assert entry["fallback"] == {
        "model": "third",
        "instead_of": [
            {"model": "first", "reason": "unreachable", "repository": "org/first"},
            {"model": "second", "reason": "unreachable", "repository": "org/second"},
        ],
    }
    assert (entry["weights"], entry["source"]["repository"], entry["source"]["commit"]) == (
        "pretrained",
        "org/third",
        commit,
    )
    assert (tmp_path / "models" / "reranker" / "third" / "model.safetensors").is_file()
    ranked = modelbake("rerank", "--query", "q", "--document", "a", "--document", "b", "--json", environ=environ)
    assert json.loads(ranked.stdout)["bundle"] == "either"

    hub.faults.add(kind="status", status=404, times=None)
    again = environ | {"MODELBAKE_CACHE": str(tmp_path / "other"), "MODELBAKE_MODELS": str(tmp_path / "none")}
    done = modelbake("build", "either", environ=again, check=False)
    assert done.returncode == 4
    assert all(f"hub org/{name}@" in done.stderr for name in ("first", "second", "third"))
    assert not (tmp_path / "none").exists()
