"""Convert all-MiniLM-L6-v2 to Core ML packages in models/coreml: a thin door to `modelbake build`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from modelbake.cli.convert_embedding import command
from modelbake.cli.main import run

if __name__ == "__main__":
    # The project is the one that this script stands in, wherever it is called from.
    os.environ.setdefault("MODELBAKE_ROOT", str(Path(__file__).resolve().parents[2]))
    sys.exit(run(command=command, name="convert_embedding.py"))
