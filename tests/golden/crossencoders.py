"""Small CrossEncoders of random weights, their bundles, and what sentence-transformers says of them where no network is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.golden.conftest import ROOT
from tests.hub import Hub

FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
# The position tables are true to their types: RoBERTa's first position is 2, so it has two more than it takes tokens.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert": {**_SMALL, "vocab_size": 200, "max_position_embeddings": 128},
    "roberta": {**_SMALL, "vocab_size": 300, "max_position_embeddings": 130, "type_vocab_size": 1},
    "distilbert": {
        "dim": 32,
        "n_layers": 2,
        "n_heads": 4,
        "hidden_dim": 64,
        "vocab_size": 200,
        "max_position_embeddings": 128,
    },
}
MAX_TOKENS = 128

OFFLINE = """
import json, sys

def refuse(event, arguments):
    # Whatever looks for the network fails here at once and loudly, also where this user may not take the network away.
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        raise RuntimeError(f"{event} {arguments}")

sys.addaudithook(refuse)
from modelbake.export._torchvision import declare_missing_ops
declare_missing_ops()
from sentence_transformers import CrossEncoder
pairs = json.loads(sys.stdin.read())
print(json.dumps(CrossEncoder(sys.argv[1], device="cpu").predict([tuple(p) for p in pairs]).tolist()))
"""


def save(folder: Path, model_type: str, seed: int, num_labels: int = 1, **config: Any) -> None:
    """A CrossEncoder's folder as on the hub; its weights are large enough for a wrong graph to show in the first digit."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    from modelbake.export.sample_tokenizer import fast_tokenizer

    torch.manual_seed(seed)
    made = AutoConfig.for_model(
        model_type, **ARCHITECTURES[model_type], num_labels=num_labels, initializer_range=0.3, **config
    )
    AutoModelForSequenceClassification.from_config(made).eval().save_pretrained(folder)
    fast_tokenizer(model_type, MAX_TOKENS).save_pretrained(folder)


def serve(hub: Hub, repository: str, folder: Path) -> str:
    """Put the folder on the hub, and return its commit."""
    return hub.add_repo(repository, {name: folder / name for name in FILES}).branches["main"]


def candidate(repository: str, commit: str) -> str:
    """The lines of a bundle.toml that a bundle and its fallbacks share."""
    model = repository.partition("/")[2]
    files = ", ".join(f'{{ path = "{name}" }}' for name in FILES)
    return f"""
licence = "Apache-2.0"
pinned = false
model = {{ kind = "cross_encoder", model = "{model}", max_tokens = {MAX_TOKENS} }}
sources = [{{ type = "hub", repository = "{repository}", revision = "{commit}" }}]
files = [{files}]
"""


def define(root: Path, name: str, repository: str, commit: str, *fallbacks: tuple[str, str]) -> None:
    """Write the definition of the bundle `name` into the project `root`."""
    head = f'schema_version = 1\nname = "{name}"\nversion = "1.0.0"\ndescription = "for tests"\n'
    folder = root / "bundles" / name
    folder.mkdir(parents=True)
    others = "".join(f"\n[[fallbacks]]{candidate(*other)}" for other in fallbacks)
    (folder / "bundle.toml").write_text(head + candidate(repository, commit) + others)


def predict_offline(folder: Path, pairs: list[tuple[str, str]], environ: dict[str, str]) -> NDArray[np.float32]:
    """CrossEncoder(folder).predict(pairs) in a process with HF_HUB_OFFLINE=1 and, where this user may have that, no network at all."""
    namespace = ["unshare", "--map-root-user", "--net"]
    allowed = subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode == 0
    done = subprocess.run(
        [*(namespace if allowed else []), sys.executable, "-c", OFFLINE, str(folder)],
        cwd=ROOT,
        env=environ | {"HF_HUB_OFFLINE": "1"},
        input=json.dumps(pairs),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return np.array(json.loads(done.stdout.splitlines()[-1]), np.float32)
