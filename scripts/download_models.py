"""Download, convert and verify models into models/: a thin door to `modelbake build`, with the bundles chosen by kind."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from modelbake.cli.main import run

EPILOG = "The choice of weights is WEIGHTS=auto|pretrained|sample; HF_ENDPOINT names another hub. `modelbake build --help` says more."


def main() -> int:
    """Parse the arguments, build the bundles, and return the exit code of modelbake."""
    parser = argparse.ArgumentParser(description=__doc__, epilog=EPILOG)
    only = parser.add_mutually_exclusive_group()
    only.add_argument("--clip-only", dest="kind", action="store_const", const="clip", help="only the CLIP encoders")
    only.add_argument(
        "--regressor-only", dest="kind", action="store_const", const="boundary_regressor", help="only the regressor"
    )
    only.add_argument(
        "--reranker-only", dest="kind", action="store_const", const="cross_encoder", help="only the rerankers"
    )
    parser.add_argument("--models-dir", type=Path, help="where to put them (default: models/)")
    parser.add_argument(
        "--offline", action="store_true", help="use no network: what was fetched before, or sample weights"
    )
    parser.add_argument("--locked", action="store_true", help="refuse models whose bytes are not all pinned (exit 8)")
    parser.add_argument("--json", action="store_true", help="give the result as JSON on standard output")
    parser.add_argument("--verbose", action="store_true", help="say more on what happens")
    arguments = parser.parse_args()

    # The project is the one that this script stands in, wherever it is called from.
    os.environ.setdefault("MODELBAKE_ROOT", str(Path(__file__).resolve().parents[1]))
    options = [f"--{name}" for name in ("offline", "locked", "json", "verbose") if getattr(arguments, name)]
    options += ["--kind", arguments.kind] if arguments.kind else []
    options += ["--models-dir", str(arguments.models_dir)] if arguments.models_dir else []
    return run(["build", *options])


if __name__ == "__main__":
    sys.exit(main())
