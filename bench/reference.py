"""What the benches of the text encoder are measured against: sentence-transformers on the very files that the bundle is made of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import measure

BUNDLE = "minilm-l6-v2"
PACKAGES = ("onnxruntime", "tokenizers", "torch", "sentence-transformers", "transformers")

# Embeds one text, as sentence-transformers' documentation shows. It does not ask for torchvision, which takes long to import.
ONE_TEXT = """
import sys
sys.modules["torchvision"] = None
from sentence_transformers import SentenceTransformer
model = SentenceTransformer(sys.argv[1], device="cpu")
print(*model.encode(sys.argv[2]).tolist())
"""


def prepare(folder: Path) -> tuple[Path, Path]:
    """Build the bundle from its real weights and fetch its files: the models folder, and the folder of the files."""
    modelbake = str(Path(sys.executable).with_name("modelbake"))
    models, sources = folder / "models", folder / "sources"
    for words in (["build", BUNDLE, "--models-dir", str(models)], ["fetch", BUNDLE, "--to", str(sources)]):
        command = [modelbake, *words, "--weights=pretrained", "--quiet"]
        subprocess.run(command, cwd=measure.ROOT, stdout=subprocess.DEVNULL, check=True)
    return models, sources / BUNDLE / "files"
