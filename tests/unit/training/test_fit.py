"""Training on a file of data, as a user does it: what is written, what is said, and what ends it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

from modelbake.cli.main import run
from modelbake.cli.train_boundary_regressor import command
from modelbake.errors import IntegrityError, MachineError, NoGainError, SourceUnreachableError, UsageError
from modelbake.export.boundary_regressor.data import read, split_by_video
from modelbake.export.boundary_regressor.train import adjust, score
from modelbake.export.boundary_regressor.weights import read_weights
from modelbake.files import sha256_of
from modelbake.training.fit import Fit, fit
from modelbake.training.metrics import Metrics, Scores, held_out

ROOT = Path(__file__).resolve().parents[3]
SAMPLE = ROOT / "models" / "regressor" / "sample_training_data.json"
NAMES = {"mine.pth", "mine.safetensors", "mine.onnx", "mine.metrics.json", "mine.svg"}
SEED, EPOCHS = 3, 20


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Fit:
    return fit(SAMPLE, tmp_path_factory.mktemp("fit") / "mine.pth", SEED, EPOCHS)


@pytest.fixture(scope="module")
def folder(done: Fit) -> Path:
    return done.files[0].parent


def shuffled(tmp_path: Path) -> Path:
    """The sample with every target drawn at random: there is nothing to learn."""
    document = json.loads(SAMPLE.read_text())
    generator = np.random.RandomState(0)
    for row in document["rows"]:
        start, end = row["segment"]
        row["target"] = [start, end] if generator.rand() < 0.8 else [start + 0.01, end + 0.01]
    path = tmp_path / "nothing.json"
    path.write_text(json.dumps(document))
    return path


def test_all_five_files_are_written_and_no_other(done: Fit, folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {path.name for path in done.files} == NAMES
    assert done.files[0].name == "mine.pth"


def test_the_weights_load_as_a_plain_state_dict_and_are_those_of_the_safetensors(folder: Path) -> None:
    state = torch.load(folder / "mine.pth", weights_only=True)
    others = load_file(folder / "mine.safetensors")
    assert state.keys() == others.keys()
    assert all(np.array_equal(tensor.numpy(), others[name]) for name, tensor in state.items())


def test_the_graph_computes_what_the_weights_do(folder: Path) -> None:
    rows = split_by_video(read(SAMPLE), SEED, "sample").test
    session = onnxruntime.InferenceSession(str(folder / "mine.onnx"), providers=["CPUExecutionProvider"])
    given = {
        "text_features": rows.text_features,
        "start_image_features": rows.start_image_features,
        "end_image_features": rows.end_image_features,
        "segment": rows.segments,
    }
    expected = adjust(read_weights(folder / "mine.pth", "mine"), rows)
    np.testing.assert_allclose(session.run(None, given)[0], expected, atol=1e-5)


def test_the_metrics_are_those_of_the_weights_on_the_held_out_videos(done: Fit, folder: Path) -> None:
    written = json.loads((folder / "mine.metrics.json").read_text())
    assert msgspec.convert(written, type=Metrics) == done.metrics
    rows = split_by_video(read(SAMPLE), SEED, "sample").test
    trained = score(adjust(read_weights(folder / "mine.pth", "mine"), rows), rows.targets)
    nothing = score(rows.segments, rows.targets)
    judged = written["held_out"]
    assert judged["trained"]["mean_absolute_error"] == pytest.approx(trained.mean_absolute_error, abs=1e-4)
    assert judged["no_adjustment"]["mean_iou"] == pytest.approx(nothing.mean_iou, abs=1e-4)
    assert judged["gain_mean_iou"] == pytest.approx(trained.mean_iou - nothing.mean_iou, abs=1e-4)
    assert judged["gain_mean_absolute_error"] > 0
    assert judged["better_than_no_adjustment"]
    assert judged["better_than_random_weights"]
    assert written["data"]["sha256"] == sha256_of(SAMPLE)
    assert [written["data"][part] for part in ("train", "validation", "held_out")] == [
        {"videos": videos, "rows": 4 * videos} for videos in (16, 4, 4)
    ]
    assert len(written["training"]["train_losses"]) == len(written["training"]["validation_losses"]) <= EPOCHS
    assert written["parity"]["max_abs_diff"] <= written["parity"]["gate"] == 1e-5
    for ref in written["files"]:
        assert sha256_of(folder / ref["path"]) == ref["sha256"]


def test_the_plot_is_an_svg_with_both_errors_and_the_learning_curve(done: Fit, folder: Path) -> None:
    root = ElementTree.parse(folder / "mine.svg").getroot()
    text = " ".join("".join(element.itertext()) for element in root.iter("{http://www.w3.org/2000/svg}text"))
    judged = done.metrics.held_out
    for words in (
        f"error without adjustment, s (mean {judged.no_adjustment.mean_absolute_error:.3f})",
        f"error with adjustment, s (mean {judged.trained.mean_absolute_error:.3f})",
        f"kept: epoch {done.metrics.training.best_epoch}",
        "validation",
    ):
        assert words in text
    assert (folder / "mine.svg").stat().st_size < 200_000


def test_the_same_data_and_seed_give_the_same_bytes_and_another_seed_others(folder: Path, tmp_path: Path) -> None:
    fit(SAMPLE, tmp_path / "mine.pth", SEED, EPOCHS)
    assert {name: (tmp_path / name).read_bytes() for name in NAMES} == {
        name: (folder / name).read_bytes() for name in NAMES
    }
    fit(SAMPLE, tmp_path / "mine.pth", SEED + 1, 5, keep_without_gain=True)
    assert (tmp_path / "mine.pth").read_bytes() != (folder / "mine.pth").read_bytes()


def test_weights_no_better_than_no_adjustment_end_with_6_and_leave_what_was_there(tmp_path: Path) -> None:
    data, model = shuffled(tmp_path), tmp_path / "out" / "mine.pth"
    model.parent.mkdir()
    model.write_bytes(b"the good one")
    with pytest.raises(NoGainError, match=r"no better than no adjustment: .* Nothing was written") as caught:
        fit(data, model, 0, 2)
    assert caught.value.exit_code == 6
    assert {path.name: path.read_bytes() for path in model.parent.iterdir()} == {"mine.pth": b"the good one"}


def test_they_are_written_with_a_warning_where_that_is_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = fit(shuffled(tmp_path), tmp_path / "out" / "mine.pth", 0, 2, keep_without_gain=True)
    assert {path.name for path in (tmp_path / "out").iterdir()} == NAMES
    assert not made.metrics.held_out.better_than_no_adjustment
    assert "WARNING: On the held-out videos the trained weights are no better" in capsys.readouterr().err


def test_better_means_by_both_measures() -> None:
    nothing, random = Scores(1.0, 0.5), [Scores(2.0, 0.2), Scores(4.0, 0.4)]
    judged = held_out(Scores(0.9, 0.6), nothing, random)
    assert (judged.better_than_no_adjustment, judged.better_than_random_weights) == (True, True)
    assert judged.random_weights == Scores(3.0, 0.3)
    for worse in (Scores(1.1, 0.6), Scores(0.9, 0.4), Scores(1.0, 0.5)):
        assert not held_out(worse, nothing, random).better_than_no_adjustment


def test_data_that_is_not_valid_writes_nothing(tmp_path: Path) -> None:
    data = tmp_path / "data.json"
    data.write_text(SAMPLE.read_text().replace("1", "NaN", 1))
    with pytest.raises(IntegrityError, match=r"data\.json"):
        fit(data, tmp_path / "out" / "mine.pth", 0, 2)
    with pytest.raises(SourceUnreachableError, match=r"absent\.json"):
        fit(tmp_path / "absent.json", tmp_path / "out" / "mine.pth", 0, 2)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["mine.pt", "mine", ".pth", "mine.safetensors"])
def test_weights_of_another_name_are_wrong_usage(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"has to end in \.pth"):
        fit(SAMPLE, tmp_path / name, 0, 2)


def test_a_machine_without_torch_is_told_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelbake.training.fit.FRAMEWORKS", ("torch", "no_such_package"))
    with pytest.raises(MachineError, match=r"Training needs no_such_package, .*make test"):
        fit(SAMPLE, tmp_path / "mine.pth", 0, 2)


def test_the_data_itself_is_never_overwritten(tmp_path: Path) -> None:
    data = tmp_path / "mine.metrics.json"
    shutil.copyfile(SAMPLE, data)
    with pytest.raises(UsageError, match="would be overwritten"):
        fit(data, tmp_path / "mine.pth", 0, 2)
    assert data.read_bytes() == SAMPLE.read_bytes()


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--help"], 0, "Exit codes"),
        ([], 2, "Missing argument"),
        ([str(SAMPLE), "x.pth", "--epochs", "0"], 2, "--epochs"),
        (["absent.json", "mine.pth"], 4, "absent.json"),
        (["empty.json", "mine.pth"], 5, "the file is empty"),
        ([str(SAMPLE), "empty.json/mine.pth"], 7, "cannot be written"),
    ],
    ids=["help", "nothing", "epochs", "absent", "empty", "not-a-folder"],
)
def test_the_command_ends_with_one_message_and_its_exit_code(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.json").write_bytes(b"")
    assert run(words, command, "train_boundary_regressor.py") == code
    said = capsys.readouterr()
    assert told in said.out + said.err
    assert said.err.count("error: ") == (code > 0)
    assert [path.name for path in tmp_path.iterdir()] == ["empty.json"]
