"""The whole build: the manifest, the same bytes from the same inputs, and what is refused."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from modelbake import goldens, manifest
from tests.golden.conftest import ROOT, Built, environment, modelbake

SCHEMA = json.loads((ROOT / "models" / "manifest.schema.json").read_text())


def test_the_manifest_fits_its_schema_and_names_every_file(built: Built) -> None:
    document = json.loads((built.models / manifest.MANIFEST_NAME).read_text())
    jsonschema.validate(document, SCHEMA)
    listed = {ref["path"] for entry in document["bundles"] for ref in entry["files"]}
    there = {path.relative_to(built.models).as_posix() for path in built.models.rglob("*") if path.is_file()}
    assert there == listed | {manifest.MANIFEST_NAME}


def test_the_artifacts_have_the_names_that_services_expect(built: Built) -> None:
    for path in (
        "onnx/all-MiniLM-L6-v2.onnx",
        "onnx/clip_ViT-B_32_text_encoder.onnx",
        "onnx/clip_ViT-B_32_image_encoder.onnx",
        "regressor/boundary_regressor_pretrained.pth",
    ):
        assert (built.models / path).is_file()


def test_every_artifact_keeps_the_gate_of_1e_5(built: Built) -> None:
    artifacts = [a for entry in manifest.read(built.models).bundles for a in entry.artifacts if a.precision == "fp32"]
    assert len(artifacts) == 5
    for artifact in artifacts:
        assert artifact.parity is not None
        assert artifact.parity.max_abs_diff <= artifact.parity.gate == 1e-5
        assert artifact.parity.cases >= 2


def test_every_variant_keeps_its_gates(built: Built) -> None:
    artifacts = [a for entry in manifest.read(built.models).bundles for a in entry.artifacts if a.precision != "fp32"]
    assert {(a.role, a.precision) for a in artifacts} == {
        (role, precision) for role in ("text_encoder", "image_encoder") for precision in ("fp16", "int8")
    }
    for artifact in artifacts:
        quality = artifact.quality
        assert quality is not None
        assert quality.mean_cosine >= quality.mean_cosine_gate == {"fp16": 0.99999, "int8": 0.995}[artifact.precision]
        # To the sample weights that CLIP has here all images are about equally near.
        gate = {"fp16": 0.99, "int8": 0.95}[artifact.precision] if artifact.role == "text_encoder" else 0.0
        assert quality.top10_overlap >= quality.top10_overlap_gate == gate


def test_docker_bake_has_a_layer_for_each_file_and_the_manifest(built: Built) -> None:
    plan = (ROOT / "docker-bake.hcl").read_text(encoding="utf-8")
    for entry in manifest.read(built.models).bundles:
        layers = re.search(rf'name = "{entry.name}", layers = (\d+)', plan)
        assert layers is not None
        assert int(layers[1]) == len(entry.files) + 1


@pytest.mark.parametrize("bundle", ["boundary-regressor", "minilm-l6-v2"])
def test_a_second_build_without_any_cache_gives_the_same_bytes(built: Built, tmp_path: Path, bundle: str) -> None:
    # The same files from the first build's fetch, the rest anew.
    sources = built.cache / "sources" / bundle
    modelbake("build", bundle, "--sources", str(sources.parent), environ=environment(tmp_path))
    first, second = manifest.read(built.models).bundle(bundle), manifest.read(tmp_path / "models").bundle(bundle)
    assert first == second
    for ref in first.files:
        assert (built.models / ref.path).read_bytes() == (tmp_path / "models" / ref.path).read_bytes()


def test_a_build_with_nothing_changed_exports_nothing(built: Built) -> None:
    before = (built.models / manifest.MANIFEST_NAME).read_bytes()
    done = modelbake("build", "minilm-l6-v2", "boundary-regressor", environ=built.environ)
    assert "exporting" not in done.stderr
    assert (built.models / manifest.MANIFEST_NAME).read_bytes() == before


def test_verify_finds_a_flipped_bit(built: Built, tmp_path: Path) -> None:
    models = tmp_path / "models"
    shutil.copytree(built.models, models)
    modelbake("verify", environ=environment(tmp_path))
    weights = models / "onnx" / "all-MiniLM-L6-v2.onnx.data"
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    done = modelbake("verify", environ=environment(tmp_path), check=False)
    assert done.returncode == 5
    assert "all-MiniLM-L6-v2.onnx.data" in done.stderr


def test_an_artifact_that_drifted_misses_its_gate(built: Built, tmp_path: Path) -> None:
    """Goldens that are off by 2e-5 stand for an export that is: digests are right, the parity gate alone can tell."""
    models = tmp_path / "models"
    shutil.copytree(built.models, models)
    whole = manifest.read(models)
    entry = whole.bundle("minilm-l6-v2")
    golden = models / entry.goldens.path
    cases = list(goldens.read(golden))
    cases[0].outputs["sentence_embedding"] = cases[0].outputs["sentence_embedding"] + np.float32(2e-5)
    goldens.write(golden, cases)
    document = json.loads((models / manifest.MANIFEST_NAME).read_text())
    from modelbake.files import file_ref

    new = file_ref(models, entry.goldens.path)
    for one in document["bundles"]:
        if one["name"] == entry.name:
            one["goldens"] = {"path": new.path, "sha256": new.sha256, "size": new.size}
            one["files"] = [one["goldens"] if f["path"] == new.path else f for f in one["files"]]
            files = tuple(new if ref.path == new.path else ref for ref in entry.files)
            one["digest"] = manifest.bundle_digest(files)
    (models / manifest.MANIFEST_NAME).write_text(json.dumps(document))
    done = modelbake("verify", "minilm-l6-v2", environ=environment(tmp_path), check=False)
    assert done.returncode == 6
    assert "all-MiniLM-L6-v2.onnx" in done.stderr


def test_sample_weights_are_labelled_and_drawn_from_the_seed(built: Built, tmp_path: Path) -> None:
    done = modelbake("build", "ms-marco-reranker", "--weights", "sample", environ=environment(tmp_path))
    assert "drawing sample weights" in done.stderr
    entry = manifest.read(tmp_path / "models").bundle("ms-marco-reranker")
    assert entry.weights == "sample"
    # Where no hub answers, the fixture's build drew them too, in another cache.
    first = manifest.read(built.models).bundle("ms-marco-reranker")
    assert first.weights != "sample" or first == entry
    document = ["--document", "x"]
    done = modelbake("rerank", "--query", "x", *document, "--json", environ=environment(tmp_path))
    assert json.loads(done.stdout)["weights"] == "sample"
    assert "SAMPLE WEIGHTS" in done.stderr
