"""Where a build looks for weights of one's own, and how it knows its own output."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelbake import deployment
from modelbake.bundle import BoundaryRegressorModel
from modelbake.catalog import Catalog
from modelbake.errors import IntegrityError, SourceUnreachableError

ROOT = Path(__file__).resolve().parents[2]

PLACES = (
    "boundary_regressor_pretrained.pth",
    "boundary_regressor.pth",
    "regressor/boundary_regressor_pretrained.pth",
    "regressor/boundary_regressor.pth",
)


def archive() -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(6.0).reshape(2, 3)}, buffer)
    return buffer.getvalue()


def put(models: Path, place: str, content: bytes = b"mine") -> Path:
    path = models / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_the_places_are_these_in_this_order(tmp_path: Path) -> None:
    assert deployment.places("boundary_regressor") == PLACES
    assert deployment.find(tmp_path, "boundary_regressor") is None
    for place in reversed(PLACES):
        put(tmp_path, place)
        assert deployment.find(tmp_path, "boundary_regressor") == place


def test_a_model_s_name_with_a_slash_gives_file_names_without(tmp_path: Path) -> None:
    assert deployment.places("ours/two")[0] == "ours_two_pretrained.pth"


def test_what_a_build_wrote_is_no_deployment_where_it_wrote_it_and_is_one_where_it_was_copied_to(
    tmp_path: Path,
) -> None:
    written = deployment.mark(archive())
    put(tmp_path, PLACES[2], written)
    assert deployment.find(tmp_path, "boundary_regressor") is None
    put(tmp_path, PLACES[3], written)
    assert deployment.find(tmp_path, "boundary_regressor") == PLACES[3]
    put(tmp_path, PLACES[2], archive())
    assert deployment.find(tmp_path, "boundary_regressor") == PLACES[2]


def test_torch_reads_marked_weights_like_others(tmp_path: Path) -> None:
    path = put(tmp_path, "x.pth", deployment.mark(archive()))
    for mmap in (False, True):
        assert torch.equal(torch.load(path, weights_only=True, mmap=mmap)["a"], torch.arange(6.0).reshape(2, 3))
    assert deployment.is_marked(path)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=80), st.booleans())
def test_nothing_but_an_archive_with_the_mark_counts_as_marked(content: bytes, with_mark: bool) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(content + deployment.BUILD_MARK if with_mark else content)
        assert not deployment.is_marked(path)


def test_a_link_to_nowhere_and_a_folder_are_found_and_then_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / PLACES[0]).symlink_to(tmp_path / "absent.pth")
    (tmp_path / PLACES[1]).mkdir()
    assert deployment.find(tmp_path, "boundary_regressor") == PLACES[0]
    for place in PLACES[:2]:
        with pytest.raises(SourceUnreachableError, match=place):
            deployment.read(tmp_path / place)


def test_weights_far_too_large_are_not_read_into_memory(tmp_path: Path) -> None:
    path = tmp_path / "large.pth"
    with path.open("wb") as file:
        file.truncate(deployment.LARGEST_WEIGHTS + 1)
    with pytest.raises(IntegrityError, match="more than 16 MiB"):
        deployment.read(path)


def test_an_image_s_build_gets_the_places_and_the_data_and_nothing_else_of_the_models_folder() -> None:
    lines = (ROOT / "models" / ".dockerignore").read_text(encoding="utf-8").splitlines()
    kept = {line for line in lines if line and not line.startswith("#")}
    assert kept == {"*", "!regressor/*training_data.json", *(f"!{place}" for place in PLACES)}
    model = Catalog(ROOT / "bundles").get("boundary-regressor").model
    assert isinstance(model, BoundaryRegressorModel)
    assert model.data.endswith("training_data.json")
    assert deployment.places(model.model) == PLACES
