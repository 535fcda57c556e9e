"""A bundle's bill of materials: a CycloneDX 1.6 ML-BOM, made from its entry in the manifest alone.

Format: CycloneDX 1.6 (ECMA-424), JSON. Same entry, same bytes: no time stamp, and a serial number out of the bundle's digest.
cyclonedx-python-lib 11 has no model cards, so the document is written here; the tests validate it with that library's schema.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

import msgspec

from modelbake import __version__
from modelbake.manifest import Artifact, BundleEntry, FileRef, Tensor
from modelbake.oci.blob import Blob, of_bytes
from modelbake.oci.model import descriptor_of
from modelbake.settings import PUBLIC_HUB

MEDIA_TYPE = "application/vnd.cyclonedx+json"
SPEC = "1.6"
# Serial numbers are version 5 UUIDs below this one, which is that of the name modelbake below RFC 9562's namespace of URLs.
NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "modelbake")

# The identifiers of SPDX that models are licensed by. A word that is none of SPDX's would make the document invalid, so whatever
# is not among them is given as a name.
_SPDX = """
    0BSD AFL-3.0 AGPL-3.0-only AGPL-3.0-or-later Apache-2.0 Artistic-2.0 BSD-2-Clause BSD-3-Clause BSD-3-Clause-Clear BSL-1.0
    CC-BY-2.0 CC-BY-2.5 CC-BY-3.0 CC-BY-4.0 CC-BY-NC-2.0 CC-BY-NC-3.0 CC-BY-NC-4.0 CC-BY-NC-ND-3.0 CC-BY-NC-ND-4.0
    CC-BY-NC-SA-2.0 CC-BY-NC-SA-3.0 CC-BY-NC-SA-4.0 CC-BY-ND-4.0 CC-BY-SA-3.0 CC-BY-SA-4.0 CC0-1.0 CDLA-Permissive-1.0
    CDLA-Permissive-2.0 CDLA-Sharing-1.0 ECL-2.0 EPL-1.0 EPL-2.0 EUPL-1.1 EUPL-1.2 GFDL-1.3-only GPL-2.0-only GPL-2.0-or-later
    GPL-3.0-only GPL-3.0-or-later ISC LGPL-2.1-only LGPL-2.1-or-later LGPL-3.0-only LGPL-3.0-or-later MIT MPL-2.0 MS-PL NCSA
    ODbL-1.0 OFL-1.1 OSL-3.0 PDDL-1.0 PostgreSQL Unlicense WTFPL Zlib
"""
SPDX = frozenset(_SPDX.split())
# The type of source of weights that their user brought along (modelbake.sources.fetched).
_DEPLOYED = "deployed"
_TASKS = {
    "clip": "zero-shot-image-classification",
    "text_encoder": "sentence-similarity",
    "cross_encoder": "text-ranking",
    "boundary_regressor": "video-segment-boundary-regression",
}
_FORMATS = {"input_ids": "text", "attention_mask": "text", "token_type_ids": "text", "pixel_values": "image"}


def bom(entry: BundleEntry) -> dict[str, Any]:
    """The bundle's bill of materials as a CycloneDX document."""
    files = [_file(entry, ref) for ref in sorted(entry.files, key=lambda ref: ref.path)]
    datasets = [_dataset(ref) for ref in _training_files(entry)]
    parts = [*files, *datasets]
    return {
        "$schema": f"http://cyclonedx.org/schema/bom-{SPEC}.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": SPEC,
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, entry.digest)}",
        "version": 1,
        "metadata": {
            "tools": {"components": [{"type": "application", "name": "modelbake", "version": __version__}]},
            "component": _model(entry),
        },
        "components": parts,
        "dependencies": [
            {"ref": _ref(entry), "dependsOn": sorted(part["bom-ref"] for part in parts)},
            *({"ref": part["bom-ref"]} for part in parts),
        ],
        "formulation": [{"bom-ref": f"{_ref(entry)}#made-with", "components": _tools(entry)}],
    }


def encode(document: dict[str, Any]) -> bytes:
    """The document's bytes: JSON, two spaces, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def blob(entry: BundleEntry) -> Blob:
    """The bill of materials as a blob to be attached (oci.referrers), titled for tools that write it to a file."""
    data = encode(bom(entry))
    title = {"org.opencontainers.image.title": f"{entry.name}.cdx.json"}
    return of_bytes(data, descriptor_of(data, MEDIA_TYPE, annotations=title))


def licences(text: str) -> list[dict[str, Any]]:
    """The licence as CycloneDX has it: an SPDX identifier, an SPDX expression of such, or else a name."""
    if text in SPDX:
        return [{"license": {"id": text}}]
    words = re.findall(r"[()]|[^\s()]+", text)
    identifiers = [word for word in words if word not in ("(", ")", "AND", "OR")]
    plain = "".join("x" if word in identifiers else {"AND": "&", "OR": "&"}.get(word, word) for word in words)
    # Innermost parentheses first, until nothing but one identifier is left of an expression that is whole.
    while plain != (plain := re.sub(r"\(x\)|x&x", "x", plain)):
        pass
    if plain == "x" and set(identifiers) <= SPDX:
        return [{"expression": text}]
    return [{"license": {"name": text}}]


def _ref(entry: BundleEntry) -> str:
    return f"bundle:{entry.name}@{entry.version}"


def _model(entry: BundleEntry) -> dict[str, Any]:
    found = {
        "type": "machine-learning-model",
        "bom-ref": _ref(entry),
        "name": entry.name,
        "version": entry.version,
        "description": entry.description,
        "licenses": licences(entry.licence),
        "pedigree": {"ancestors": [_ancestor(entry)]},
        "modelCard": _card(entry),
        "properties": _properties(
            {
                "modelbake:bundle:digest": f"sha256:{entry.digest}",
                "modelbake:kind": entry.kind,
                "modelbake:weights": entry.weights,
                "modelbake:pinned": str(entry.pinned).lower(),
            }
        ),
    }
    references = _references(entry)
    if references:
        found["externalReferences"] = references
    return found


def _ancestor(entry: BundleEntry) -> dict[str, Any]:
    """What the bundle was made from: the model at its source, and each of the source's files."""
    source = entry.source
    found: dict[str, Any] = {
        "type": "machine-learning-model",
        "bom-ref": f"{_ref(entry)}#source",
        "name": source.repository or f"{entry.name} ({source.type})",
        "components": [
            {
                "type": "file",
                "bom-ref": f"{_ref(entry)}#source:{ref.path}",
                "name": ref.path,
                "hashes": _hashes(ref),
                "properties": _properties({"modelbake:size": str(ref.size)}),
            }
            for ref in sorted(source.files, key=lambda ref: ref.path)
        ],
        "properties": _properties(
            {"modelbake:source": source.type, **({} if source.seed is None else {"modelbake:seed": str(source.seed)})}
        ),
    }
    if source.commit:
        found["version"] = source.commit
        found["pedigree"] = {"commits": [{"uid": source.commit}]}
    if source.type == "hub" and source.repository:
        found["purl"] = f"pkg:huggingface/{quote(source.repository)}" + (f"@{source.commit}" if source.commit else "")
        found["externalReferences"] = _references(entry)
    return found


def _references(entry: BundleEntry) -> list[dict[str, Any]]:
    if entry.source.type != "hub" or not entry.source.repository:
        return []
    reference = {"type": "vcs", "url": f"{PUBLIC_HUB}/{quote(entry.source.repository)}"}
    if entry.source.commit:
        reference["comment"] = f"commit {entry.source.commit}"
    return [reference]


def _card(entry: BundleEntry) -> dict[str, Any]:
    parameters: dict[str, Any] = {
        "task": _TASKS.get(entry.kind, entry.kind),
        "architectureFamily": entry.kind,
        "inputs": [{"format": _format(one)} for one in _tensors(a.inputs for a in entry.artifacts)],
        "outputs": [{"format": _format(one)} for one in _tensors(a.outputs for a in entry.artifacts)],
    }
    datasets = _training_files(entry)
    if datasets:
        parameters["datasets"] = [{"ref": _dataset_ref(ref)} for ref in datasets]
    card: dict[str, Any] = {
        "modelParameters": parameters,
        "quantitativeAnalysis": {"performanceMetrics": [one for a in entry.artifacts for one in _metrics(a)]},
    }
    if entry.weights == "sample":
        card["considerations"] = {
            "technicalLimitations": [
                "The weights are sample weights, for trying the pipeline: what the model gives means nothing."
            ]
        }
    return card


def _metrics(artifact: Artifact) -> list[dict[str, str]]:
    """The figures that the build measured, in the order of the manifest's fields; a gate is the bound that it had to keep."""
    figures = artifact.parity or artifact.quality
    return (
        [
            {"type": name, "value": f"{value:g}", "slice": artifact.path}
            for name, value in msgspec.structs.asdict(figures).items()
        ]
        if figures is not None
        else []
    )


def _tensors(lists: Iterable[tuple[Tensor, ...]]) -> list[Tensor]:
    return list(dict.fromkeys(one for tensors in lists for one in tensors))


def _format(tensor: Tensor) -> str:
    meaning = f" ({_FORMATS[tensor.name]})" if tensor.name in _FORMATS else ""
    return f"{tensor.name}: {tensor.dtype} [{', '.join(str(size) for size in tensor.shape)}]{meaning}"


def _training_files(entry: BundleEntry) -> list[FileRef]:
    """The data that the build trained on: a regressor's source is that, unless its weights were brought along."""
    if entry.kind != "boundary_regressor" or entry.source.type == _DEPLOYED:
        return []
    return sorted(entry.source.files, key=lambda ref: ref.path)


def _dataset_ref(ref: FileRef) -> str:
    return f"dataset:{ref.path}"


def _dataset(ref: FileRef) -> dict[str, Any]:
    return {
        "type": "data",
        "bom-ref": _dataset_ref(ref),
        "name": ref.path,
        "hashes": _hashes(ref),
        "data": [{"type": "dataset", "name": ref.path}],
        "properties": _properties({"modelbake:size": str(ref.size)}),
    }


def _file(entry: BundleEntry, ref: FileRef) -> dict[str, Any]:
    said = {"modelbake:size": str(ref.size)}
    for artifact in entry.artifacts:
        if ref.path in (artifact.path, *(one.path for one in artifact.external_data)):
            said |= {
                "modelbake:format": artifact.format,
                "modelbake:precision": artifact.precision,
                "modelbake:role": artifact.role,
            }
    if ref.path == entry.goldens.path:
        said["modelbake:role"] = "goldens"
    return {
        "type": "file",
        "bom-ref": f"file:{ref.path}",
        "name": ref.path,
        "hashes": _hashes(ref),
        "licenses": licences(entry.licence),
        "properties": _properties(said),
    }


def _tools(entry: BundleEntry) -> list[dict[str, Any]]:
    versions = sorted({tool for artifact in entry.artifacts for tool in artifact.tools.items()})
    return [
        {
            "type": "library",
            "bom-ref": f"tool:{name}@{version}",
            "name": name,
            "version": version,
            "purl": f"pkg:pypi/{re.sub('[-_.]+', '-', name.lower())}@{quote(version)}",
        }
        for name, version in versions
    ]


def _hashes(ref: FileRef) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": ref.sha256}]


def _properties(found: dict[str, str]) -> list[dict[str, str]]:
    return [{"name": name, "value": found[name]} for name in sorted(found)]
