"""Write models/manifest.schema.json from the manifest's structures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from modelbake.manifest import Manifest


def json_schema() -> dict[str, Any]:
    """The manifest's JSON Schema (2020-12)."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "modelbake model manifest",
        **msgspec.json.schema(Manifest),
    }


if __name__ == "__main__":
    path = Path(__file__).resolve().parents[1] / "models" / "manifest.schema.json"
    path.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
