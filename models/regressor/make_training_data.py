#!/usr/bin/env python3
"""Make the regressor's training data from annotated proposals and frames of their videos; --help says how."""

from __future__ import annotations

import sys

from modelbake.cli.main import run
from modelbake.cli.make_training_data import command

if __name__ == "__main__":
    sys.exit(run(command=command, name="make_training_data.py"))
