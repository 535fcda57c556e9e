"""The example that docs/runtime.md shows, run as shown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from modelbake import manifest
from modelbake.manifest import Manifest
from tests.unit import tiny

PAGE = Path(__file__).resolve().parents[3] / "docs" / "runtime.md"


def test_the_example_for_services_works(tmp_path: Path) -> None:
    models = tmp_path / "models"
    manifest_of_one = Manifest(manifest.SCHEMA_VERSION, (tiny.text_bundle(models, "minilm-l6-v2"),))
    manifest.write(models, manifest_of_one)
    (tmp_path / "texts.txt").write_text("red cat\ndog\ngreen\n")
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    code = "".join(blocks) + "print(embeddings.shape, embeddings.dtype)\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("(3, 4)\n(2, 4) float32\n", "")
