"""scripts/download_models.py --clip-only against a hub that has all three CLIP models, in their true sizes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from modelbake import manifest
from modelbake.bundle import HubSource
from modelbake.catalog import Catalog
from tests.golden.conftest import ROOT, environment, modelbake
from tests.hub import Hub

CLIPS = ("clip-rn50", "clip-vit-b-16", "clip-vit-b-32")


def download_models(*options: str, environ: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/download_models.py", "--clip-only", *options]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


def test_three_clip_models_come_from_a_hub_are_converted_and_are_there_offline(hub: Hub, tmp_path: Path) -> None:
    modelbake(
        "fetch", *CLIPS, "--weights", "sample", "--to", str(tmp_path / "drawn"), environ=environment(tmp_path / "draw")
    )
    commits, sizes = {}, 0
    for name in CLIPS:
        source = Catalog(ROOT / "bundles").get(name).sources[0]
        assert isinstance(source, HubSource)
        weights = tmp_path / "drawn" / name / "files" / "open_clip_model.safetensors"
        sizes += weights.stat().st_size
        repo = hub.add_repo(source.repository, {"open_clip_model.safetensors": weights, "open_clip_config.json": b"{}"})
        commits[name] = repo.branches["main"]
    hub.faults.add("*.safetensors", kind="cut", after=200_000_000, endpoint="cdn")
    environ = environment(tmp_path, HF_ENDPOINT=hub.endpoint, WEIGHTS="pretrained")
    done = download_models("--json", environ=environ)
    assert done.returncode == 0, done.stderr
    assert [one["bundle"] for one in json.loads(done.stdout)] == list(CLIPS)
    # Cut and resumed: no byte twice, but for what was on the wire when the connection broke.
    assert sizes <= hub.log.sent("*.safetensors") < sizes + 20_000_000 * len(CLIPS)
    for name in CLIPS:
        entry = manifest.read(tmp_path / "models").bundle(name)
        assert (entry.weights, entry.source.commit) == ("pretrained", commits[name])
        assert all(a.parity.max_abs_diff <= 1e-5 for a in entry.artifacts if a.parity)
    graphs = {path.name for path in (tmp_path / "models" / "onnx").glob("*_encoder.onnx")}
    assert graphs == {
        f"clip_{model}_{role}_encoder.onnx" for model in ("RN50", "ViT-B_16", "ViT-B_32") for role in ("text", "image")
    }

    hub.log.clear()
    again = download_models("--offline", environ=environ)
    assert again.returncode == 0, again.stderr
    assert hub.log == []
    assert "exporting" not in again.stderr
    refused = download_models("--locked", environ=environ)
    assert refused.returncode == 8
