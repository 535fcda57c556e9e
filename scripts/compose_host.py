"""Hand this host's pip configuration, wheel folder and certificates to docker compose: a thin door, which `make compose` uses."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from modelbake.cli.compose_host import command
from modelbake.cli.main import run

if __name__ == "__main__":
    os.environ.setdefault("MODELBAKE_ROOT", str(Path(__file__).resolve().parents[1]))
    sys.exit(run(command=command, name="scripts/compose_host.py"))
