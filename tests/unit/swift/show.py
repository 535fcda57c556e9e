"""Writes the Swift of made.bundle anew, into the docs and beside this module: PYTHONPATH=src:. python -m tests.unit.swift.show"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

from modelbake.swift.source import swift_source
from tests.unit.swift import made

SHOWN = Path(__file__).resolve().parents[3] / "docs" / "coreml-swift.md"

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        entry = made.bundle(Path(folder))
        source = swift_source(Path(folder), entry, entry.artifacts[0])
        for name, artifact in made.snapshots(entry.artifacts[0]).items():
            Path(__file__).with_name(name).write_text(swift_source(Path(folder), entry, artifact), encoding="utf-8")
    text = SHOWN.read_text(encoding="utf-8")
    SHOWN.write_text(
        re.sub(r"```swift\n// Written by .*?```", lambda _: f"```swift\n{source}```", text, flags=re.DOTALL),
        encoding="utf-8",
    )
