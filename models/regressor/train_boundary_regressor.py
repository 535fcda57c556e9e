#!/usr/bin/env python3
"""Train the boundary regressor on your own data: `train_boundary_regressor.py your_data.json your_model.pth`; --help says more."""

from __future__ import annotations

import sys

from modelbake.cli.main import run
from modelbake.cli.train_boundary_regressor import command

if __name__ == "__main__":
    sys.exit(run(command=command, name="train_boundary_regressor.py"))
