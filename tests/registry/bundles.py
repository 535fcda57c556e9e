"""Models folders of random bytes: a valid manifest with one bundle, whose files are named like graphs and which nothing loads."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from pathlib import Path

from modelbake import manifest
from modelbake.manifest import (
    Artifact,
    BundleEntry,
    FileRef,
    Manifest,
    Parity,
    Quality,
    SourceRecord,
    Tensor,
    bundle_digest,
)

NAME = "random"
VERSION = "1.0.0"
# What `models_folder` gives its files, in their order: role and precision.
KINDS = (
    ("text_encoder", "fp32"),
    ("text_encoder", "int8"),
    ("image_encoder", "fp32"),
    ("image_encoder", "int8"),
)
_CHUNK = 1 << 20


def models_folder(
    folder: Path, sizes: Sequence[int] = (40_000, 10_000, 30_000, 20_000), *, seed: int = 1, changed: int | None = None,
    name: str = NAME, version: str = VERSION,
) -> BundleEntry:  # fmt: skip
    """Write a models folder with one bundle and return the bundle's entry.

    It has a file of each of the `sizes` (in bytes, at most four) and a small one of goldens. Same arguments, same bytes; with
    `changed`, that file (counted from 0) has others and the rest has the same.
    """
    artifacts = []
    for index, size in enumerate(sizes):
        role, precision = KINDS[index]
        own = f"{name} {seed} {index}{' changed' if index == changed else ''}"
        ref = _random_file(folder, f"onnx/{name}_{role}.{precision}.onnx", size, own)
        artifacts.append(_artifact(ref, role, precision))
    goldens = _random_file(folder, f"goldens/{name}.npz", 300, f"{name} {seed} goldens")
    files = tuple(sorted((goldens, *(FileRef(a.path, a.sha256, a.size) for a in artifacts)), key=lambda ref: ref.path))
    entry = BundleEntry(
        name=name,
        version=version,
        kind="clip",
        description="Random bytes for tests",
        licence="MIT",
        weights="sample",
        pinned=True,
        source=SourceRecord(type="sample", files=(FileRef("seed.txt", "0" * 64, 0),), seed=seed),
        artifacts=tuple(artifacts),
        goldens=goldens,
        files=files,
        digest=bundle_digest(files),
    )
    manifest.write(folder, Manifest(manifest.SCHEMA_VERSION, (entry,)))
    # What this made is what modelbake takes.
    manifest.read(folder)
    return entry


def _random_file(folder: Path, path: str, size: int, seed: str) -> FileRef:
    target = folder / path
    target.parent.mkdir(parents=True, exist_ok=True)
    source, digest, left = random.Random(seed), hashlib.sha256(), size
    with target.open("wb") as file:
        while left:
            data = source.randbytes(min(_CHUNK, left))
            left -= len(data)
            digest.update(data)
            file.write(data)
    return FileRef(path, digest.hexdigest(), size)


def _artifact(ref: FileRef, role: str, precision: str) -> Artifact:
    single = precision == "fp32"
    return Artifact(
        path=ref.path,
        sha256=ref.sha256,
        size=ref.size,
        format="onnx",
        role=role,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        inputs=(Tensor("input", "float32", ("batch", 2)),),
        outputs=(Tensor("embedding", "float32", ("batch", 2)),),
        tools={"tests": "1"},
        parity=Parity(1e-6, 1e-5, 1) if single else None,
        quality=None if single else Quality(0.99, 0.9, 0.99, 0.9, 1),
        embedding_dimension=2,
        normalized=True,
    )
