"""A build that becomes a fallback: the fallback's files, licence and name, and what a locked build says to it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from modelbake import manifest
from modelbake.bundle import Bundle
from modelbake.catalog import Catalog
from modelbake.errors import IntegrityError, RefusedError, SourceUnreachableError
from modelbake.files import sha256_of
from modelbake.manifest import FallbackRecord, PassedOver
from modelbake.pipeline import Pipeline
from modelbake.settings import Settings, from_environment
from modelbake.sources.fetched import write_record
from tests.unit.test_pipeline import exporter as exporter

DEFINITION = """
schema_version = 1
name = "either"
version = "1.0.0"
description = "a model"
licence = "MIT"
model = {{ kind = "text_encoder", model = "first", max_tokens = 5 }}
sources = [{{ type = "local", folder = "first" }}]
files = [{{ path = "weights.txt", sha256 = "{digest}" }}]
[[fallbacks]]
licence = "Apache-2.0"
pinned = {pinned}
model = {{ kind = "text_encoder", model = "second", max_tokens = 5 }}
sources = [{{ type = "local", folder = "second" }}]
files = [{{ path = "weights.txt", sha256 = "{digest}" }}]
"""


@pytest.fixture
def settings(tmp_path: Path, exporter: Path) -> Settings:
    environ = {"MODELBAKE_ROOT": str(tmp_path / "project"), "MODELBAKE_CACHE": str(tmp_path / "cache")}
    return from_environment(environ)


def bundle(settings: Settings, *present: str, pinned: bool = True) -> Bundle:
    """The definition, with the files in the folders that are `present`."""
    for folder in ("first", "second"):
        (settings.root / folder).mkdir(parents=True, exist_ok=True)
    source = settings.root / "weights"
    source.write_text("1")
    for folder in present:
        (settings.root / folder / "weights.txt").write_text("1")
    path = settings.bundles_dir / "either" / "bundle.toml"
    path.parent.mkdir(parents=True)
    path.write_text(DEFINITION.format(digest=sha256_of(source), pinned=str(pinned).lower()))
    return Catalog(settings.bundles_dir).get("either")


def test_its_own_model_leaves_no_word_of_fallbacks_in_the_manifest(settings: Settings) -> None:
    entry = Pipeline(settings).build(bundle(settings, "first", "second"))
    assert (entry.fallback, entry.licence, entry.artifacts[0].path) == (None, "MIT", "onnx/first.onnx")
    assert b"fallback" not in (settings.models_dir / manifest.MANIFEST_NAME).read_bytes()


def test_a_fallback_is_built_under_its_own_name_and_licence_and_told(settings: Settings) -> None:
    entry = Pipeline(settings).build(bundle(settings, "second"))
    assert entry.fallback == FallbackRecord("second", (PassedOver("first", "unreachable"),))
    assert (entry.name, entry.licence, entry.pinned) == ("either", "Apache-2.0", True)
    assert entry.artifacts[0].path == "onnx/second.onnx"
    assert manifest.read(settings.models_dir).bundle("either") == entry


def test_when_its_own_model_can_be_had_again_a_build_takes_it(settings: Settings) -> None:
    made = bundle(settings, "second")
    assert Pipeline(settings).build(made).fallback is not None
    (settings.root / "first" / "weights.txt").write_text("1")
    again = Pipeline(replace(settings, cache_dir=settings.cache_dir / "empty")).build(made)
    assert again.fallback is None
    assert manifest.read(settings.models_dir).bundle("either").artifacts[0].path == "onnx/first.onnx"


def test_a_locked_build_takes_no_fallback_that_is_not_pinned(settings: Settings) -> None:
    made = bundle(settings, "second", pinned=False)
    with pytest.raises(SourceUnreachableError, match="second is not pinned, and --locked takes pinned bytes alone"):
        Pipeline(replace(settings, locked=True)).build(made)
    sources = settings.cache_dir / "fetched"
    Pipeline(settings).fetch(made, sources)
    with pytest.raises(RefusedError, match="pinned = false"):
        Pipeline(replace(settings, locked=True)).build(made, sources)
    assert Pipeline(settings).build(made, sources).fallback is not None


def test_a_record_that_names_more_models_than_the_definition_is_refused(settings: Settings) -> None:
    made, sources = bundle(settings, "second"), settings.cache_dir / "fetched"
    fetched = Pipeline(settings).fetch(made, sources)
    write_record(sources, msgspec.structs.replace(fetched, passed_over=fetched.passed_over * 2))
    with pytest.raises(IntegrityError, match="fetch it again"):
        Pipeline(settings).build(made, sources)


def test_a_locked_offline_build_takes_no_fallback_that_was_fetched_before_and_is_not_pinned(settings: Settings) -> None:
    made = bundle(settings, "second", pinned=False)
    assert Pipeline(settings).build(made).fallback is not None
    (settings.root / "second" / "weights.txt").unlink()
    # Both models have the same bytes here, and a store finds them by their digest.
    shutil.rmtree(settings.cache_dir / "blobs")
    offline = replace(settings, offline=True, hub_offline=True)
    assert Pipeline(offline).build(made).fallback is not None
    with pytest.raises(SourceUnreachableError, match="second is not pinned, and --locked takes pinned bytes alone"):
        Pipeline(replace(offline, locked=True)).build(made)
