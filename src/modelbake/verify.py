"""Verifying a models folder: every file hashed again, every golden replayed.

Needs the runtime's packages alone, and for Core ML bundles torch and coremltools.
"""

from __future__ import annotations

from pathlib import Path

from modelbake import manifest, parity
from modelbake.bundle import QualityGates
from modelbake.files import check_files
from modelbake.manifest import Artifact, BundleEntry, Parity, Quality

Figures = Parity | Quality


def verify(models_dir: Path, names: tuple[str, ...] = ()) -> dict[str, dict[str, Figures]]:
    """Hash every file of the bundles again and replay their goldens; the figures by bundle and artifact path.

    IntegrityError where a file is not the one in the manifest, ParityError where an artifact misses its gate.
    """
    found = manifest.read(models_dir)
    entries = [found.bundle(name) for name in names] or list(found.bundles)
    return {entry.name: _verify_entry(models_dir, entry) for entry in entries}


def _verify_entry(models_dir: Path, entry: BundleEntry) -> dict[str, Figures]:
    check_files(models_dir, entry)
    golden = models_dir / entry.goldens.path
    return {a.path: _replay(models_dir, a, golden) for a in entry.artifacts}


def _replay(models_dir: Path, artifact: Artifact, golden: Path) -> Figures:
    if artifact.quality is not None:
        gates = QualityGates(artifact.quality.mean_cosine_gate, artifact.quality.top10_overlap_gate)
        return parity.appraise(models_dir, artifact, golden, gates)
    assert artifact.parity is not None, "the manifest's reader refuses an artifact without figures"
    return parity.replay(models_dir, artifact, golden, artifact.parity.gate)
