"""Weights that somebody deployed come before everything that the bundle's definition says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from modelbake import settings
from modelbake.bundle import Bundle
from modelbake.catalog import Catalog
from modelbake.errors import SourceUnreachableError
from modelbake.manifest import FileRef, SourceRecord
from modelbake.settings import WeightsPolicy
from modelbake.sources.fetch import Fetcher
from modelbake.sources.fetched import Fetched, read_fetched

ROOT = Path(__file__).resolve().parents[3]
WEIGHTS = b"PK\3\4 whatever these are: the export looks into them"


@pytest.fixture
def bundle() -> Bundle:
    return Catalog(ROOT / "bundles").get("boundary-regressor")


@pytest.fixture
def fetcher(tmp_path: Path) -> Fetcher:
    environ = {
        "MODELBAKE_ROOT": str(ROOT),
        "MODELBAKE_MODELS": str(tmp_path / "models"),
        "MODELBAKE_CACHE": str(tmp_path / "c"),
    }
    return Fetcher(settings.from_environment(environ))


def fetch(fetcher: Fetcher, bundle: Bundle, to: Path, policy: WeightsPolicy = "auto") -> Fetched:
    return fetcher.fetch(bundle, policy, lambda folder, seed: pytest.fail("weights were drawn"), to)


@pytest.mark.parametrize("policy", ["auto", "pretrained", "sample"])
def test_deployed_weights_are_taken_as_they_are_and_recorded(
    fetcher: Fetcher, bundle: Bundle, tmp_path: Path, policy: WeightsPolicy, capsys: pytest.CaptureFixture[str]
) -> None:
    place = tmp_path / "models" / "regressor" / "boundary_regressor.pth"
    place.parent.mkdir(parents=True)
    place.write_bytes(WEIGHTS)
    to = tmp_path / "to"
    fetched = fetch(fetcher, bundle, to, policy)
    ref = FileRef("regressor/boundary_regressor.pth", hashlib.sha256(WEIGHTS).hexdigest(), len(WEIGHTS))
    assert (fetched.weights, fetched.source) == ("trained", SourceRecord("deployed", (ref,)))
    assert read_fetched(to) == fetched
    assert [path.relative_to(to).as_posix() for path in sorted(to.rglob("*.pth"))] == [f"files/{ref.path}"]
    assert f"taking the weights deployed at {place}" in capsys.readouterr().err


def test_when_they_are_taken_away_the_next_fetch_brings_the_data_again(
    fetcher: Fetcher, bundle: Bundle, tmp_path: Path
) -> None:
    place = tmp_path / "models" / "boundary_regressor.pth"
    place.parent.mkdir()
    place.write_bytes(WEIGHTS)
    fetch(fetcher, bundle, tmp_path / "to")
    place.unlink()
    assert fetch(fetcher, bundle, tmp_path / "to").source.type == "local"
    assert [path.name for path in (tmp_path / "to" / "files").rglob("*")] == ["sample_training_data.json"]


def test_a_deployment_that_cannot_be_read_is_not_passed_over(fetcher: Fetcher, bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "boundary_regressor.pth").symlink_to("absent.pth")
    with pytest.raises(SourceUnreachableError, match=r"boundary_regressor\.pth"):
        fetch(fetcher, bundle, tmp_path / "to")
