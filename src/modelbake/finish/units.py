"""What a package is replayed on, and how often; apart, so that the command line knows it without loading anything."""

from __future__ import annotations

from typing import Literal, get_args

# The names are those of coremltools.ComputeUnit.
Unit = Literal["CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL"]
UNITS: tuple[Unit, ...] = get_args(Unit)
# Calls that a latency is the median of.
RUNS = 20
