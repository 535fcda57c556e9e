"""Bills of materials: valid CycloneDX, the same bytes each time, and everything in them that the manifest knows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from modelbake.manifest import Artifact, BundleEntry, FileRef, Parity, Quality, SourceRecord, Tensor
from modelbake.oci import bom

COMMIT = "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"


def ref(path: str, letter: str) -> FileRef:
    return FileRef(path, letter * 64, 7)


def artifact(path: str, letter: str, **more: Any) -> Artifact:
    return Artifact(
        path,
        letter * 64,
        7,
        "onnx",
        "text_encoder",
        more.pop("precision", "fp32"),
        (Tensor("input_ids", "int64", ("batch", "sequence")),),
        (Tensor("sentence_embedding", "float32", ("batch", 384)),),
        {"torch": "2.13.0", "open_clip_torch": "3.3.0"},
        **more,
    )


ENTRY = BundleEntry(
    name="minilm",
    version="1.0.0",
    kind="text_encoder",
    description="sentences to numbers",
    licence="Apache-2.0",
    weights="pretrained",
    pinned=True,
    source=SourceRecord("hub", (ref("model.safetensors", "5"), ref("config.json", "4")), "org/model", COMMIT),
    artifacts=(
        artifact("onnx/a.onnx", "1", parity=Parity(2e-7, 1e-5, 4), external_data=(ref("onnx/a.onnx.data", "2"),)),
        artifact("onnx/a_int8.onnx", "3", precision="int8", quality=Quality(0.999, 0.995, 0.96, 0.95, 400)),
    ),
    goldens=ref("goldens/a.npz", "6"),
    files=(
        ref("onnx/a.onnx", "1"),
        ref("onnx/a.onnx.data", "2"),
        ref("onnx/a_int8.onnx", "3"),
        ref("goldens/a.npz", "6"),
    ),
    digest="d" * 64,
)
REGRESSOR = replace(
    ENTRY,
    kind="boundary_regressor",
    weights="sample",
    licence="unstated: ask whoever trained it",
    source=SourceRecord("local", (ref("training_data.json", "7"),)),
)
ENTRIES = {
    "from a hub": ENTRY,
    "from an unpinned hub": replace(ENTRY, source=SourceRecord("hub", (), "org/model")),
    "sample weights": replace(ENTRY, weights="sample", source=SourceRecord("sample", (), seed=0)),
    "trained here": REGRESSOR,
    "deployed": replace(REGRESSOR, weights="trained", source=SourceRecord("deployed", (ref("w.pth", "8"),))),
    "from a wheel": replace(ENTRY, source=SourceRecord("wheel", ENTRY.source.files)),
    "strange names": replace(ENTRY, description="\u0000 é \U0001f600", source=SourceRecord("hub", (), "org/mödel ü")),
}


def problems(document: bytes) -> str | None:
    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(document.decode())
    return None if found is None else str(found)[:1000]


@pytest.mark.parametrize("name", ENTRIES)
def test_the_document_is_valid_cyclonedx(name: str) -> None:
    assert problems(bom.encode(bom.bom(ENTRIES[name]))) is None


def test_the_validator_finds_what_is_wrong() -> None:
    document = bom.bom(ENTRY)
    document["metadata"]["component"]["modelCard"]["unknown"] = 1
    assert problems(bom.encode(document)) is not None


def test_references_inside_the_document_are_unique_and_lead_somewhere() -> None:
    for entry in ENTRIES.values():
        document = bom.bom(entry)
        found = _values(document, "bom-ref")
        assert len(found) == len(set(found))
        assert set(_values(document, "ref")) <= set(found)
        assert {one for many in _values(document, "dependsOn") for one in many} <= set(found)


def _values(node: Any, name: str) -> list[Any]:
    if isinstance(node, list):
        return [found for one in node for found in _values(one, name)]
    if isinstance(node, dict):
        own = [node[name]] if name in node else []
        return own + [found for one in node.values() for found in _values(one, name)]
    return []


def test_the_same_entry_gives_the_same_bytes_whatever_its_order() -> None:
    shuffled = replace(
        ENTRY,
        files=ENTRY.files[::-1],
        source=replace(ENTRY.source, files=ENTRY.source.files[::-1]),
        artifacts=tuple(replace(a, tools=dict(reversed(a.tools.items()))) for a in ENTRY.artifacts),
    )
    assert bom.encode(bom.bom(shuffled)) == bom.encode(bom.bom(ENTRY))
    assert bom.blob(shuffled) == bom.blob(ENTRY)


def test_the_serial_number_is_the_bundle_s_and_there_is_no_time() -> None:
    document = bom.bom(ENTRY)
    assert document["serialNumber"] == bom.bom(replace(ENTRY, description="other"))["serialNumber"]
    assert document["serialNumber"] != bom.bom(replace(ENTRY, digest="e" * 64))["serialNumber"]
    assert "timestamp" not in json.dumps(document)


def test_every_file_is_there_with_its_digest() -> None:
    found = {one["name"]: one["hashes"] for one in bom.bom(ENTRY)["components"] if one["type"] == "file"}
    assert found == {ref.path: [{"alg": "SHA-256", "content": ref.sha256}] for ref in ENTRY.files}


def test_the_model_card_has_task_inputs_outputs_and_figures() -> None:
    component = bom.bom(ENTRY)["metadata"]["component"]
    assert component["type"] == "machine-learning-model"
    parameters = component["modelCard"]["modelParameters"]
    assert parameters["task"] == "sentence-similarity"
    assert parameters["inputs"] == [{"format": "input_ids: int64 [batch, sequence] (text)"}]
    assert parameters["outputs"] == [{"format": "sentence_embedding: float32 [batch, 384]"}]
    figures = {
        (m["slice"], m["type"]): m["value"]
        for m in component["modelCard"]["quantitativeAnalysis"]["performanceMetrics"]
    }
    assert figures["onnx/a.onnx", "max_abs_diff"] == "2e-07"
    assert figures["onnx/a.onnx", "gate"] == "1e-05"
    assert figures["onnx/a_int8.onnx", "mean_cosine"] == "0.999"
    assert figures["onnx/a_int8.onnx", "items"] == "400"


def test_source_and_commit_are_named() -> None:
    component = bom.bom(ENTRY)["metadata"]["component"]
    [reference] = component["externalReferences"]
    assert reference["type"] == "vcs"
    assert reference["url"].endswith("/org/model")
    assert COMMIT in reference["comment"]
    [ancestor] = component["pedigree"]["ancestors"]
    assert ancestor["purl"] == f"pkg:huggingface/org/model@{COMMIT}"
    assert [one["name"] for one in ancestor["components"]] == ["config.json", "model.safetensors"]


def test_training_data_is_a_dataset_and_weights_that_were_brought_along_are_none() -> None:
    document = bom.bom(REGRESSOR)
    [dataset] = [one for one in document["components"] if one["type"] == "data"]
    assert dataset["name"] == "training_data.json"
    parameters = document["metadata"]["component"]["modelCard"]["modelParameters"]
    assert parameters["datasets"] == [{"ref": dataset["bom-ref"]}]
    assert "datasets" not in bom.bom(ENTRIES["deployed"])["metadata"]["component"]["modelCard"]["modelParameters"]


def test_sample_weights_are_called_so() -> None:
    card = bom.bom(REGRESSOR)["metadata"]["component"]["modelCard"]
    assert "sample" in card["considerations"]["technicalLimitations"][0]
    assert "considerations" not in bom.bom(ENTRY)["metadata"]["component"]["modelCard"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("MIT", {"license": {"id": "MIT"}}),
        ("Apache-2.0 OR MIT", {"expression": "Apache-2.0 OR MIT"}),
        ("(Apache-2.0 OR MIT) AND CC-BY-4.0", {"expression": "(Apache-2.0 OR MIT) AND CC-BY-4.0"}),
        ("mit", {"license": {"name": "mit"}}),
        ("MIT OR house rules", {"license": {"name": "MIT OR house rules"}}),
        ("(MIT", {"license": {"name": "(MIT"}}),
        ("MIT AND", {"license": {"name": "MIT AND"}}),
        ("MIT MIT", {"license": {"name": "MIT MIT"}}),
        ("other", {"license": {"name": "other"}}),
    ],
)
def test_licences_are_spdx_s_where_spdx_knows_them(text: str, expected: dict[str, Any]) -> None:
    assert bom.licences(text) == [expected]


@given(
    st.one_of(
        st.text(min_size=1), st.lists(st.sampled_from(["MIT", "AND", "OR", "(", ")", "x"]), min_size=1).map(" ".join)
    )
)
def test_any_licence_gives_a_valid_document(text: str) -> None:
    assert problems(bom.encode(bom.bom(replace(ENTRY, licence=text)))) is None


def test_all_identifiers_are_spdx_s() -> None:
    for identifier in bom.SPDX:
        assert bom.licences(identifier) == [{"license": {"id": identifier}}]
        assert problems(bom.encode(bom.bom(replace(ENTRY, licence=identifier)))) is None, identifier
