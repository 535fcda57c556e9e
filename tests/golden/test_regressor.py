"""The regressor's whole way as a user goes it: train on a file, copy the weights, build, and ask the runtime."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelbake import manifest
from modelbake.export.boundary_regressor.data import read, split_by_video
from modelbake.export.boundary_regressor.train import adjust
from modelbake.export.boundary_regressor.weights import read_weights
from modelbake.files import sha256_of
from modelbake.runtime.boundary import BoundaryRegressor, frame_times
from modelbake.runtime.encoder import ImageEncoder, TextEncoder
from tests.golden.conftest import Built, environment, modelbake

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "models" / "regressor"
SAMPLE = FOLDER / "sample_training_data.json"
SCRIPT = FOLDER / "train_boundary_regressor.py"
NAMES = {"mine.pth", "mine.safetensors", "mine.onnx", "mine.metrics.json", "mine.svg"}
OUTPUT = "regressor/boundary_regressor_pretrained.pth"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the script says of a training on the sample with seed 5, called in its own folder."""
    model = tmp_path_factory.mktemp("trained") / "mine.pth"
    words = [sys.executable, SCRIPT.name, SAMPLE.name, str(model), "--seed", "5", "--json", "--quiet"]
    done = subprocess.run(words, cwd=FOLDER, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.fixture(scope="module")
def mine(trained: dict[str, Any]) -> Path:
    return Path(trained["files"][0])


def test_the_script_writes_five_files_and_says_what_they_are_worth(trained: dict[str, Any], mine: Path) -> None:
    assert {path.name for path in mine.parent.iterdir()} == {Path(path).name for path in trained["files"]} == NAMES
    assert trained["seconds"] > 0
    assert 50e6 < trained["peak_memory"] < 2e9


def test_trained_weights_beat_no_adjustment_and_random_weights_by_as_much_as_they_did(trained: dict[str, Any]) -> None:
    """Figures of the sample with this seed; a change of data, network or training must be looked at."""
    judged = trained["held_out"]
    found = {
        name: (judged[name]["mean_absolute_error"], judged[name]["mean_iou"]) for name in ("trained", "no_adjustment")
    }
    assert found["no_adjustment"] == pytest.approx((1.0581, 0.7881), abs=1e-3)
    assert found["trained"] == pytest.approx((0.4513, 0.9003), abs=5e-3)
    assert judged["random_weights"]["mean_absolute_error"] > 2 * found["trained"][0]
    assert (judged["better_than_no_adjustment"], judged["better_than_random_weights"]) == (True, True)


def test_copying_weights_deploys_them_and_taking_them_away_goes_back(mine: Path, tmp_path: Path) -> None:
    environ = environment(tmp_path)
    models = tmp_path / "models"

    def build() -> manifest.BundleEntry:
        modelbake("build", "boundary-regressor", environ=environ)
        modelbake("verify", environ=environ)
        return manifest.read(models).bundle("boundary-regressor")

    before = build()
    assert (before.source.type, before.pinned, before.licence) == ("local", True, "Apache-2.0")
    # What a build wrote is not taken for a deployment by the next, even where the manifest is gone.
    (models / manifest.MANIFEST_NAME).unlink()
    assert build() == before

    shutil.copyfile(mine, models / "boundary_regressor.pth")
    deployed = build()
    (ref,) = deployed.source.files
    assert (deployed.source.type, deployed.weights, deployed.pinned) == ("deployed", "trained", False)
    assert (ref.path, ref.sha256) == ("boundary_regressor.pth", sha256_of(mine))
    assert deployed.licence == "LicenseRef-unstated"
    state, own = (torch.load(path, weights_only=True) for path in (models / OUTPUT, mine))
    assert all(torch.equal(state[name], tensor) for name, tensor in own.items())
    rows = split_by_video(read(SAMPLE), 5, "sample").test
    given = (rows.text_features, rows.start_image_features, rows.end_image_features, rows.segments)
    found = BoundaryRegressor(deployed, models).adjust(*given)
    np.testing.assert_allclose(found, adjust(read_weights(mine, "mine"), rows), atol=1e-5)

    refused = modelbake("build", "boundary-regressor", "--locked", environ=environ, check=False)
    assert refused.returncode == 8
    assert "boundary_regressor.pth in the models folder" in refused.stderr

    (models / "boundary_regressor.pth").unlink()
    assert build() == before


def test_weights_put_where_the_build_writes_stay_as_they_are(mine: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / OUTPUT).parent.mkdir(parents=True)
    shutil.copyfile(mine, models / OUTPUT)
    for _ in range(2):
        modelbake("build", "boundary-regressor", environ=environment(tmp_path))
        assert manifest.read(models).bundle("boundary-regressor").source.type == "deployed"
        assert (models / OUTPUT).read_bytes() == mine.read_bytes()


def test_deployed_weights_that_do_not_fit_change_nothing(mine: Path, tmp_path: Path) -> None:
    models, environ = tmp_path / "models", environment(tmp_path)
    modelbake("build", "boundary-regressor", environ=environ)
    before = {path: path.read_bytes() for path in models.rglob("*") if path.is_file()}
    for state, code in (({"a": torch.zeros(1)}, 5), (torch.nn.Linear(2, 2), 8)):
        torch.save(state, models / "boundary_regressor_pretrained.pth")
        done = modelbake("build", "boundary-regressor", environ=environ, check=False)
        assert done.returncode == code
        assert "boundary_regressor_pretrained.pth" in done.stderr
    (models / "boundary_regressor_pretrained.pth").unlink()
    assert {path: path.read_bytes() for path in models.rglob("*") if path.is_file()} == before


def test_a_build_of_what_was_fetched_elsewhere_needs_no_models_folder(mine: Path, tmp_path: Path) -> None:
    """As an image's build does it: one stage fetches with the folder at hand, the next has the sources alone."""
    models = tmp_path / "fetching" / "models"
    models.mkdir(parents=True)
    shutil.copyfile(mine, models / "boundary_regressor.pth")
    modelbake(
        "fetch", "boundary-regressor", "--to", str(tmp_path / "sources"), environ=environment(tmp_path / "fetching")
    )
    modelbake(
        "build",
        "boundary-regressor",
        "--sources",
        str(tmp_path / "sources"),
        environ=environment(tmp_path / "building"),
    )
    entry = manifest.read(tmp_path / "building" / "models").bundle("boundary-regressor")
    assert entry.source.files[0].sha256 == sha256_of(mine)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_training_that_is_interrupted_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int) -> None:
    words = [sys.executable, str(SCRIPT), str(SAMPLE), str(tmp_path / "mine.pth"), "--verbose", "--epochs", "100000"]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    assert process.stderr is not None
    for line in process.stderr:
        if "epoch 2" in line:
            break
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in message
    assert list(tmp_path.iterdir()) == []


def test_frames_of_a_video_become_training_data_with_the_bundle_s_own_encoders(built: Built, tmp_path: Path) -> None:
    from PIL import Image

    generator = np.random.default_rng(0)
    (tmp_path / "frames" / "video").mkdir(parents=True)
    pictures = [Image.fromarray(generator.integers(0, 256, (40, 60, 3), dtype=np.uint8)) for _ in range(20)]
    for number, picture in enumerate(pictures):
        picture.save(tmp_path / "frames" / "video" / f"{number:03d}.png")
    (tmp_path / "proposals.csv").write_text(
        "video_id,query,start,end,target_start,target_end\nvideo,a cat,2,6,3,6\nvideo,a dog,1,5,1,4\n"
    )
    words = [str(SCRIPT.with_name("make_training_data.py")), "proposals.csv", "frames", "data.json", "--fps", "2"]
    done = subprocess.run(
        [sys.executable, *words, "--json"], cwd=tmp_path, env=built.environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    entry = manifest.read(built.models).bundle("clip-vit-b-32")
    assert json.loads(done.stdout) == {"file": "data.json", "rows": 2, "bundle": entry.name, "weights": entry.weights}
    data = read(tmp_path / "data.json")
    text = TextEncoder(entry, built.models).embed(["a cat", "a dog"])
    np.testing.assert_allclose(data.text_features, text, atol=1e-5)
    images = ImageEncoder(entry, built.models)
    for row, segment in enumerate(((2.0, 6.0), (1.0, 5.0))):
        for found, times in zip(
            (data.start_image_features, data.end_image_features), frame_times(segment), strict=True
        ):
            chosen = [pictures[round(float(time) * 2)] for time in times]
            np.testing.assert_allclose(found[row], images.embed(chosen).mean(axis=0), atol=1e-5)
