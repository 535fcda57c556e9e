"""Write models/manifest.schema.json from the manifest's structures."""

from __future__ import annotations

import json
from pathlib import Path

from modelbake.manifest import json_schema

if __name__ == "__main__":
    path = Path(__file__).resolve().parents[1] / "models" / "manifest.schema.json"
    path.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
