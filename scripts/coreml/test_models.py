"""Compare the Core ML package's embeddings with sentence-transformers': max and mean difference, PASS or FAIL."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from modelbake.cli.compare_models import command
from modelbake.cli.main import run

if __name__ == "__main__":
    # The project is the one that this script stands in, wherever it is called from.
    os.environ.setdefault("MODELBAKE_ROOT", str(Path(__file__).resolve().parents[2]))
    sys.exit(run(command=command, name="test_models.py"))
