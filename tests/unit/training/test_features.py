"""Training data from annotations and frames: which frames are taken, what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from modelbake.cli.main import run
from modelbake.cli.make_training_data import command
from modelbake.errors import IntegrityError, SourceUnreachableError, UsageError
from modelbake.export.boundary_regressor.data import read
from modelbake.runtime.boundary import frame_times
from modelbake.training import features
from tests.unit import tiny

HEADER = "video_id,query,start,end,target_start,target_end"


def embed_texts(texts: Sequence[str]) -> NDArray[np.float32]:
    return np.array([[len(text)] * 512 for text in texts], dtype=np.float32)


def embed_images(paths: Sequence[Path]) -> NDArray[np.float32]:
    """The frame's number, by which a mean says which frames were taken."""
    return np.array([[int(path.stem)] * 512 for path in paths], dtype=np.float32)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """40 frames each, two a second, numbered from 1 as ffmpeg does."""
    for video in ("one", "two"):
        folder = tmp_path / "frames" / video
        folder.mkdir(parents=True)
        for number in range(1, 41):
            (folder / f"{number:06d}.jpg").touch()
        (folder / "notes.txt").touch()
    return tmp_path / "frames"


def annotations(tmp_path: Path, *lines: str, header: str = HEADER) -> Path:
    path = tmp_path / "annotations.csv"
    path.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return path


def test_rows_hold_the_mean_of_the_frames_at_the_times_that_the_runtime_names(tmp_path: Path, frames: Path) -> None:
    path = annotations(tmp_path, "one,a cat,4,12,5,11", 'two,"a dog, running",0.5,3,0,2.5', "two,a cat,14,22,15,18")
    target = tmp_path / "data.json"
    proposals = features.read_annotations(path)
    assert features.write_rows(proposals, frames, 2.0, embed_texts, embed_images, target) == 3
    data = read(target)
    assert data.video_ids == ("one", "two", "two")
    assert data.queries[1] == "a dog, running"
    np.testing.assert_array_equal(data.text_features[:, 0], [5, 14, 5])
    for row, proposal in enumerate(proposals):
        times = frame_times((proposal.start, proposal.end))
        for column, at in zip((data.start_image_features, data.end_image_features), times, strict=True):
            expected = np.minimum(np.rint(at * 2), 39).mean() + 1
            assert column[row, 0] == pytest.approx(expected, abs=1e-5)
    np.testing.assert_array_equal(data.segments[2], [14, 22])
    np.testing.assert_array_equal(data.targets[2], [15, 18])


def test_groups_of_rows_make_one_file(tmp_path: Path, frames: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = annotations(tmp_path, *(f"one,query {i},{i},{i + 4},{i},{i + 3}" for i in range(5)))
    whole, parts = tmp_path / "whole.json", tmp_path / "parts.json"
    for target, group in ((whole, 64), (parts, 2)):
        monkeypatch.setattr(features, "GROUP", group)
        features.write_rows(features.read_annotations(path), frames, 2.0, embed_texts, embed_images, target)
    assert whole.read_bytes() == parts.read_bytes()


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("one,a cat,x,12,5,11", r"line 2: Expected `float`, got `str` - at `\$\.start`"),
        ("one,a cat,4,12,5", "line 2: Expected `float`"),
        ("one,a cat,4,12,5,11,13", "line 2: "),
        ("one,a cat,12,4,5,11", "line 2: start, end: expected 0 <= start < end in seconds, got 12, 4"),
        ("one,a cat,4,12,5,nan", "line 2: target_start, target_end: expected"),
        ("one,a cat,4,inf,5,6", "line 2: start, end: expected"),
    ],
)
def test_a_line_that_is_not_valid_is_named(tmp_path: Path, line: str, told: str) -> None:
    with pytest.raises(IntegrityError, match=told):
        features.read_annotations(annotations(tmp_path, line))


def test_annotations_of_another_form_are_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="expected the columns video_id, query"):
        features.read_annotations(annotations(tmp_path, header="video,query"))
    path = tmp_path / "annotations.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(IntegrityError, match="UTF-8"):
        features.read_annotations(path)
    with pytest.raises(SourceUnreachableError, match=r"absent\.csv"):
        features.read_annotations(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("video", "error"), [("three", IntegrityError), ("../frames/one", UsageError), ("..", UsageError)]
)
def test_a_video_without_frames_leaves_no_file(
    tmp_path: Path, frames: Path, video: str, error: type[Exception]
) -> None:
    (frames / "three").mkdir()
    path = annotations(tmp_path, f"{video},a cat,4,12,5,11")
    with pytest.raises(error, match=r"frames|folder"):
        features.write_rows(
            features.read_annotations(path), frames, 2.0, embed_texts, embed_images, tmp_path / "data.json"
        )
    assert {entry.name for entry in tmp_path.iterdir()} == {"annotations.csv", "frames"}


def test_a_bundle_of_another_kind_or_size_is_refused(
    tmp_path: Path, frames: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.models_folder(tmp_path / "models")
    path = annotations(tmp_path, "one,a cat,4,12,5,11")
    words = [
        str(path),
        str(frames),
        str(tmp_path / "data.json"),
        "--fps",
        "2",
        "--models-dir",
        str(tmp_path / "models"),
    ]
    assert run([*words, "--bundle", "tiny-text"], command, "make_training_data.py") == 2
    assert run([*words, "--bundle", "absent"], command, "make_training_data.py") == 3
    assert run([*words, "--json", "--fps", "0"], command, "make_training_data.py") == 2
    assert json.loads(capsys.readouterr().out)["exit_code"] == 2
