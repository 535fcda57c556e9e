"""The steps in order, with a small exporter in place of torch's: made once, installed whole or not at all."""

from __future__ import annotations

import sys
import textwrap
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelbake import manifest
from modelbake.bundle import Bundle
from modelbake.catalog import Catalog
from modelbake.errors import IntegrityError, ModelbakeError, ParityError, RefusedError
from modelbake.export.families import FAMILIES, Family
from modelbake.files import sha256_of
from modelbake.pipeline import Pipeline
from modelbake.settings import Settings, from_environment
from modelbake.verify import verify
from tests.unit import tiny

DEFINITION = """
schema_version = 1
name = "{name}"
version = "1.0.0"
description = "a model"
licence = "MIT"
pinned = {pinned}
[model]
kind = "text_encoder"
model = "{model}"
max_tokens = 5
[[sources]]
type = "local"
folder = "data"
[[files]]
path = "weights.txt"
{pin}
"""

# `weights.txt` holds x; the graph is [[1]], its golden says x. So 1 passes, and anything else misses the gate.
EXPORTER = """
from pathlib import Path
import numpy as np
from modelbake import goldens
from modelbake.export.artifact import Draft, Export
from tests.unit import tiny

CALLS = []

def export(bundle, sources, out):
    CALLS.append(bundle.name)
    x = np.array([[float((sources / "weights.txt").read_text())]], np.float32)
    path, golden = f"onnx/{bundle.model.model}.onnx", f"goldens/{bundle.name}.npz"
    tiny.matrix_graph(out / path, np.ones((1, 1), np.float32))
    goldens.write(out / golden, [goldens.Case("text_encoder", "one", {"x": np.ones((1, 1), np.float32)}, {"y": x})])
    if bundle.name == "untidy":
        (out / "left-over").touch()
    return Export((Draft(path, "text_encoder", (), (), {"tool": "1"}),), golden)
"""


@pytest.fixture
def exporter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The exporter's source file; its module is the family of text encoders."""
    path = tmp_path / "code" / "tiny_exporter.py"
    path.parent.mkdir()
    path.write_text(textwrap.dedent(EXPORTER))
    monkeypatch.syspath_prepend(str(path.parent))
    family = Family("tiny_exporter", (), ("numpy",))
    monkeypatch.setitem(FAMILIES, "text_encoder", family)
    yield path
    sys.modules.pop("tiny_exporter", None)


@pytest.fixture
def settings(tmp_path: Path, exporter: Path) -> Settings:
    environ = {"MODELBAKE_ROOT": str(tmp_path / "project"), "MODELBAKE_CACHE": str(tmp_path / "cache")}
    return from_environment(environ)


def define(settings: Settings, name: str = "tiny", weights: str = "1", pinned: bool = True, model: str = "") -> Bundle:
    data = settings.root / "data"
    data.mkdir(parents=True, exist_ok=True)
    (data / "weights.txt").write_text(weights)
    folder = settings.bundles_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    pin = f'sha256 = "{sha256_of(data / "weights.txt")}"' if pinned else ""
    text = DEFINITION.format(name=name, pinned=str(pinned).lower(), pin=pin, model=model or name)
    (folder / "bundle.toml").write_text(text)
    return Catalog(settings.bundles_dir).get(name)


VARIED = """
from pathlib import Path
import numpy as np
from modelbake import goldens
from modelbake.export.artifact import Draft, Export, write_onnx
from modelbake.manifest import Tokenizer
from tests.unit import tiny

CALLS = []

def export(bundle, sources, out):
    CALLS.append(bundle.name)
    vectors = np.random.default_rng(0).normal(size=(len(tiny.WORDS), 1024)).astype(np.float32)
    path, golden, tokenizer = f"onnx/{bundle.name}.onnx", f"goldens/{bundle.name}.npz", "tokenizers/t/tokenizer.json"
    tiny.text_graph(out / path, vectors)
    tiny.tokenizer_file(out / tokenizer)
    reference = {"sentence_embedding": tiny.embedding(bundle.evaluation, vectors)}
    goldens.write(out / golden, [goldens.evaluation_of_texts("text_encoder", bundle.evaluation, reference)])
    spec = Tokenizer("tokenizer.json", tokenizer, tiny.MAX_TOKENS)
    return Export((Draft(path, "text_encoder", (), (), {"tool": "1"}, tokenizer=spec),), golden, (tokenizer,))
"""


def define_varied(
    settings: Settings, exporter: Path, cosine: float = 0.9, precisions: tuple[str, ...] = ("fp16", "int8")
) -> Bundle:
    """A bundle of a text encoder with a large table, and variants whose mean cosine must be at least so."""
    exporter.write_text(textwrap.dedent(VARIED))
    define(settings)
    path = settings.bundles_dir / "tiny" / "bundle.toml"
    path.with_name("evaluation.txt").write_text("\n".join(tiny.distinct_texts(60)) + "\n")
    gates = f"gates = {{ mean_cosine = {cosine}, top10_overlap = 0.9 }}"
    path.write_text(path.read_text() + "".join(f'[[variants]]\nprecision = "{p}"\n{gates}\n' for p in precisions))
    return Catalog(settings.bundles_dir).get("tiny")


def test_variants_are_made_measured_and_listed_beside_the_fp32_artifact(settings: Settings, exporter: Path) -> None:
    entry = Pipeline(settings).build(define_varied(settings, exporter))
    assert [(a.path, a.precision) for a in entry.artifacts] == [
        ("onnx/tiny.onnx", "fp32"),
        ("onnx/tiny_fp16.onnx", "fp16"),
        ("onnx/tiny_int8.onnx", "int8"),
    ]
    fp32, *variants = entry.artifacts
    assert fp32.parity is not None
    assert fp32.quality is None
    for artifact in variants:
        assert artifact.parity is None
        assert artifact.quality is not None
        assert artifact.quality.items == 60
        assert artifact.quality.mean_cosine >= artifact.quality.mean_cosine_gate == 0.9
    assert fp32.size > 1.5 * variants[0].size > 2 * variants[1].size
    assert list(verify(settings.models_dir)["tiny"]) == [a.path for a in entry.artifacts]


def test_a_variant_that_misses_its_gate_leaves_the_models_folder_alone(settings: Settings, exporter: Path) -> None:
    Pipeline(settings).build(define_varied(settings, exporter, precisions=("fp16",)))
    before = tiny.contents(settings.models_dir)
    with pytest.raises(ParityError, match=r"onnx/tiny_int8\.onnx: on 60 items") as caught:
        Pipeline(settings).build(define_varied(settings, exporter, cosine=1.0, precisions=("int8",)))
    assert caught.value.exit_code == 6
    assert tiny.contents(settings.models_dir) == before


def test_which_texts_are_nearest_is_not_held_against_sample_weights(
    settings: Settings, exporter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To random weights all are about equally near."""
    monkeypatch.setattr("modelbake.parity.top_overlap", lambda found, expected: 0.4)
    define_varied(settings, exporter)
    with pytest.raises(ParityError, match=r"overlap 0\.4"):
        Pipeline(settings).build(Catalog(settings.bundles_dir).get("tiny"))
    path = settings.bundles_dir / "tiny" / "bundle.toml"
    path.write_text(path.read_text().replace('type = "local"\nfolder = "data"', 'type = "sample"\nseed = 1'))
    exporter.write_text(
        exporter.read_text() + "\ndef sample(bundle, folder, seed):\n    (folder / 'weights.txt').write_text('1')\n"
    )
    sys.modules.pop("tiny_exporter")
    entry = Pipeline(settings).build(Catalog(settings.bundles_dir).get("tiny"))
    found = [a.quality for a in entry.artifacts if a.quality]
    assert [(one.top10_overlap, one.top10_overlap_gate, one.mean_cosine_gate) for one in found] == [(0.4, 0.0, 0.9)] * 2
    verify(settings.models_dir)


def test_a_variant_that_was_given_up_leaves_the_models_folder_but_for_a_file_of_somebody_s_own(
    settings: Settings, exporter: Path
) -> None:
    Pipeline(settings).build(define_varied(settings, exporter))
    (settings.models_dir / "onnx" / "tiny_fp16.onnx").write_bytes(b"somebody's own")
    Pipeline(settings).build(define_varied(settings, exporter, precisions=()))
    assert sorted(path.name for path in (settings.models_dir / "onnx").iterdir()) == ["tiny.onnx", "tiny_fp16.onnx"]


def test_another_gate_or_variant_exports_nothing_anew_and_another_evaluation_set_does(
    settings: Settings, exporter: Path
) -> None:
    Pipeline(settings).build(define_varied(settings, exporter))
    Pipeline(settings).build(define_varied(settings, exporter, cosine=0.8))
    Pipeline(settings).build(define_varied(settings, exporter, precisions=("int8",)))
    assert calls() == ["tiny"]
    quantized = list((settings.cache_dir / "steps" / "quantize").glob("*/"))
    assert len(quantized) == 2
    path = settings.bundles_dir / "tiny" / "evaluation.txt"
    path.write_text("red\n" + path.read_text())
    Pipeline(settings).build(Catalog(settings.bundles_dir).get("tiny"))
    assert calls() == ["tiny", "tiny"]


def test_what_later_steps_alone_read_exports_nothing_anew(settings: Settings) -> None:
    Pipeline(settings).build(define(settings))
    path = settings.bundles_dir / "tiny" / "bundle.toml"
    text = (
        path.read_text()
        .replace('"a model"', '"another"')
        .replace('"MIT"', '"Apache-2.0"')
        .replace('"1.0.0"', '"1.1.0"')
    )
    path.write_text(f"default = true\n{text}[gates]\nmax_abs_diff = 1e-6\n")
    entry = Pipeline(settings).build(Catalog(settings.bundles_dir).get("tiny"))
    assert (entry.description, entry.licence, entry.version, entry.default) == ("another", "Apache-2.0", "1.1.0", True)
    assert [a.parity.gate for a in entry.artifacts if a.parity] == [1e-6]
    assert calls() == ["tiny"]


def test_the_same_inputs_give_the_same_variants(settings: Settings, exporter: Path, tmp_path: Path) -> None:
    bundle = define_varied(settings, exporter)
    Pipeline(settings).build(bundle)
    elsewhere = replace(settings, models_dir=tmp_path / "other", cache_dir=tmp_path / "other-cache")
    Pipeline(elsewhere).build(bundle)
    assert tiny.contents(elsewhere.models_dir) == tiny.contents(settings.models_dir)


def calls() -> list[str]:
    found: Any = sys.modules["tiny_exporter"]
    return list(found.CALLS)


def test_a_build_gives_a_folder_that_verifies_by_its_manifest_alone(settings: Settings) -> None:
    entry = Pipeline(settings).build(define(settings))
    assert manifest.read(settings.models_dir).bundles == (entry,)
    assert list(verify(settings.models_dir)) == ["tiny"]
    assert sorted(tiny.contents(settings.models_dir)) == ["goldens/tiny.npz", "model_manifest.json", "onnx/tiny.onnx"]
    assert (entry.weights, entry.pinned, entry.source.type) == ("pretrained", True, "local")
    assert entry.artifacts[0].parity.max_abs_diff == 0


def test_the_same_inputs_are_exported_once_and_give_the_same_bytes(settings: Settings, tmp_path: Path) -> None:
    bundle = define(settings)
    Pipeline(settings).build(bundle)
    first = tiny.contents(settings.models_dir)
    Pipeline(settings).build(bundle)
    assert calls() == ["tiny"]
    elsewhere = replace(settings, models_dir=tmp_path / "other", cache_dir=tmp_path / "other-cache")
    Pipeline(elsewhere).build(bundle)
    assert calls() == ["tiny", "tiny"]
    assert tiny.contents(elsewhere.models_dir) == first == tiny.contents(settings.models_dir)


def test_a_change_of_the_exporter_s_code_exports_anew(settings: Settings, exporter: Path) -> None:
    bundle = define(settings)
    Pipeline(settings).build(bundle)
    exporter.write_text(exporter.read_text() + "\n# changed\n")
    Pipeline(settings).build(bundle)
    assert calls() == ["tiny", "tiny"]


def test_a_bundle_that_misses_its_gate_leaves_the_models_folder_alone(settings: Settings) -> None:
    Pipeline(settings).build(define(settings))
    before = tiny.contents(settings.models_dir)
    with pytest.raises(ParityError):
        Pipeline(settings).build(define(settings, weights="1.001"))
    assert tiny.contents(settings.models_dir) == before


def test_a_file_that_a_user_put_over_a_model_is_put_right_without_touching_the_cache(settings: Settings) -> None:
    bundle = define(settings)
    Pipeline(settings).build(bundle)
    before = tiny.contents(settings.models_dir)
    (settings.models_dir / "onnx" / "tiny.onnx").write_bytes(b"mine")
    Pipeline(settings).build(bundle)
    assert tiny.contents(settings.models_dir) == before
    assert calls() == ["tiny"]


def test_bundles_join_one_manifest_and_a_second_build_replaces_its_own(settings: Settings) -> None:
    for name in ("b", "a", "b"):
        Pipeline(settings).build(define(settings, name))
    assert [entry.name for entry in manifest.read(settings.models_dir).bundles] == ["a", "b"]


def test_two_builds_at_once_lose_neither_entry(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    bundles = [define(settings, name) for name in ("a", "b", "c")]
    Pipeline(settings).build(bundles.pop())
    both_read = threading.Barrier(2)
    read = manifest.read

    def slow_read(folder: Path) -> manifest.Manifest:
        found = read(folder)
        with suppress(threading.BrokenBarrierError):
            both_read.wait(0.3)
        return found

    monkeypatch.setattr(manifest, "read", slow_read)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(Pipeline(settings).build, bundles))
    assert [entry.name for entry in read(settings.models_dir).bundles] == ["a", "b", "c"]


def test_a_bundle_does_not_overwrite_another_s_file(settings: Settings, exporter: Path) -> None:
    Pipeline(settings).build(define(settings, "one", model="shared"))
    before = tiny.contents(settings.models_dir)
    sys.modules.pop("tiny_exporter")
    exporter.write_text(
        exporter.read_text().replace("np.ones((1, 1), np.float32))\n", "np.full((1, 1), 1.000001, np.float32))\n", 1)
    )
    with pytest.raises(IntegrityError, match=r"onnx/shared\.onnx belongs to one in the models folder, and two"):
        Pipeline(settings).build(define(settings, "two", model="shared"))
    assert tiny.contents(settings.models_dir) == before


def test_locked_refuses_what_is_not_pinned_before_anything_is_fetched(settings: Settings) -> None:
    bundle = define(settings, pinned=False)
    with pytest.raises(RefusedError, match="pinned = false") as caught:
        Pipeline(replace(settings, locked=True)).build(bundle)
    assert caught.value.exit_code == 8
    assert not settings.cache_dir.exists()
    assert Pipeline(replace(settings, locked=True)).build(define(settings)).pinned


def test_sources_that_were_fetched_earlier_will_do_without_the_source(settings: Settings, tmp_path: Path) -> None:
    bundle = define(settings)
    Pipeline(settings).fetch(bundle, tmp_path / "fetched")
    (settings.root / "data" / "weights.txt").unlink()
    assert Pipeline(settings).build(bundle, tmp_path / "fetched").name == "tiny"


def test_sources_of_another_definition_are_refused(settings: Settings, tmp_path: Path) -> None:
    Pipeline(settings).fetch(define(settings), tmp_path / "fetched")
    with pytest.raises(IntegrityError, match="was fetched for another version of tiny"):
        Pipeline(settings).build(define(settings, model="other"), tmp_path / "fetched")


def test_sources_that_changed_after_they_were_fetched_are_refused(settings: Settings, tmp_path: Path) -> None:
    bundle = define(settings)
    Pipeline(settings).fetch(bundle, tmp_path / "fetched")
    path = tmp_path / "fetched" / "files" / "weights.txt"
    path.unlink()
    path.write_text("2")
    with pytest.raises(IntegrityError, match=r"weights\.txt changed after it was fetched"):
        Pipeline(settings).build(bundle, tmp_path / "fetched")
    assert not settings.models_dir.exists()


def test_an_exporter_that_leaves_files_about_is_a_bug_of_ours(settings: Settings) -> None:
    with pytest.raises(ModelbakeError, match="left-over") as caught:
        Pipeline(settings).build(define(settings, "untidy"))
    assert caught.value.exit_code == 1
