"""All that is known of a bundle or of a graph's file, as JSON-encodable data: definition, manifest entry, and the graphs themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from modelbake import manifest
from modelbake.bundle import Bundle
from modelbake.catalog import Catalog
from modelbake.errors import IntegrityError, MachineError, UnknownNameError, UsageError
from modelbake.files import sha256_of
from modelbake.graph import read_graph
from modelbake.manifest import MANIFEST_NAME, Artifact, BundleEntry

Facts = dict[str, Any]


def inspect_bundle(catalog: Catalog, models_dir: Path, name: str) -> Facts:
    """`{"name", "definition", "built"}`; one of the two may be None. UnknownNameError where both are."""
    definition = catalog.get(name) if name in catalog.names() else None
    entry = _entries(models_dir).get(name)
    if definition is None and entry is None:
        known = ", ".join(sorted({*catalog.names(), *_entries(models_dir)})) or "none"
        raise UnknownNameError(
            f"There is no bundle {name!r} in {catalog.folder}, nor in {models_dir}. Known bundles: {known}. "
            "A file is given by its path (./x.onnx)."
        )
    return {
        "name": name,
        "definition": _definition(definition) if definition else None,
        "built": inspect_entry(models_dir, entry) if entry else None,
    }


def inspect_entry(models_dir: Path, entry: BundleEntry) -> Facts:
    """The manifest's entry with its whole `size` (bytes), and for each artifact its `total_size` with the weights beside it, and
    the facts of its `graph` (None where the file is not there)."""
    facts: Facts = msgspec.to_builtins(entry)
    facts["size"] = sum(ref.size for ref in entry.files)
    facts["missing"] = [ref.path for ref in entry.files if not (models_dir / ref.path).is_file()]
    for artifact, found in zip(entry.artifacts, facts["artifacts"], strict=True):
        found["total_size"] = artifact.size + sum(ref.size for ref in artifact.external_data)
        package = artifact.coreml.package if artifact.coreml else None
        found["graph"] = _package(models_dir / package) if package else _graph(models_dir / artifact.path)
    return facts


def inspect_file(path: Path) -> Facts:
    """A graph's file or a .mlpackage: path, size, sha256 (of a package its model's), graph, and the bundle whose file it is where the
    folder's manifest lists these bytes."""
    if path.suffix == ".mlpackage":
        return _inspect_package(path)
    if not path.is_file():
        raise UsageError(f"{path} does not exist; give an ONNX file, a .mlpackage, a manifest, or a bundle's name.")
    if path.suffix != ".onnx":
        raise UsageError(f"{path} is neither an ONNX file (.onnx), a .mlpackage nor a manifest ({MANIFEST_NAME}).")
    digest = sha256_of(path)
    found = _owner(path.resolve(), digest)
    bundle, artifact = found if found else (None, None)
    return {
        "path": str(path),
        "size": path.stat().st_size,
        "sha256": digest,
        "bundle": bundle.name if bundle else None,
        "artifact": msgspec.to_builtins(artifact) if artifact else None,
        "graph": _graph(path),
    }


def inspect_models(models_dir: Path) -> list[Facts]:
    """Every bundle of a models folder."""
    return [inspect_entry(models_dir, entry) for entry in manifest.read(models_dir).bundles]


def _inspect_package(path: Path) -> Facts:
    from modelbake.coreml.facts import facts_of
    from modelbake.coreml.package import open_package

    package = open_package(path)
    graph = facts_of(package)
    digest = sha256_of(package.model)
    found = _owner(package.model.resolve(), digest)
    bundle, artifact = found if found else (None, None)
    return {
        "path": str(path),
        "size": graph.size,
        "sha256": digest,
        "bundle": bundle.name if bundle else None,
        "artifact": msgspec.to_builtins(artifact) if artifact else None,
        "graph": msgspec.to_builtins(graph),
    }


def _package(path: Path) -> Facts | None:
    if not path.is_dir():
        return None
    from modelbake.coreml.facts import facts_of
    from modelbake.coreml.package import open_package

    try:
        facts: Facts = msgspec.to_builtins(facts_of(open_package(path)))
    except MachineError:
        # Without coremltools; all else of a bundle can be shown.
        return None
    return facts


def _entries(models_dir: Path) -> dict[str, BundleEntry]:
    if not (models_dir / MANIFEST_NAME).exists():
        return {}
    return {entry.name: entry for entry in manifest.read(models_dir).bundles}


def _definition(bundle: Bundle) -> Facts:
    return {**msgspec.to_builtins(bundle), "digest": bundle.digest}


def _graph(path: Path) -> Facts | None:
    if not path.is_file():
        return None
    try:
        facts: Facts = msgspec.to_builtins(read_graph(path))
    except OSError as error:
        raise IntegrityError(f"{path} cannot be read ({error.strerror}); copy or build it again.") from error
    return facts


def _owner(path: Path, digest: str) -> tuple[BundleEntry, Artifact] | None:
    for folder in path.parents:
        for entry in _entries(folder).values():
            for artifact in entry.artifacts:
                if folder / artifact.path == path and artifact.sha256 == digest:
                    return entry, artifact
    return None
