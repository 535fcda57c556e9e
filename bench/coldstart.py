#!/usr/bin/env python3
"""From the start of a process to its first embedding, against sentence-transformers; writes docs/bench/coldstart.md and coldstart.svg."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

import measure
from reference import BUNDLE, ONE_TEXT, PACKAGES, prepare

TEXT = "hello world"
TOLERANCE = 1e-5
OURS, THEIRS = "modelbake embed", "sentence-transformers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9, help="starts of each (default 9)")
    rounds = parser.parse_args().rounds
    environ = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with tempfile.TemporaryDirectory(prefix="modelbake-bench-") as name:
        models, files = prepare(Path(name))
        ours = ["-m", "modelbake", "embed", "--quiet", "--models-dir", str(models), "--bundle", BUNDLE, "--text", TEXT]
        commands = {OURS: ours, THEIRS: ["-c", ONE_TEXT, str(files), TEXT]}
        starts: dict[str, list[measure.Start]] = {name: [] for name in commands}

        def start(name: str) -> None:
            starts[name].append(measure.start([sys.executable, *commands[name]], environ))

        measure.say(f"{rounds} starts of each")
        measure.interleaved({OURS: lambda: start(OURS), THEIRS: lambda: start(THEIRS)}, rounds)
    answers = [[float(word) for word in starts[name][0].line.split()] for name in (OURS, THEIRS)]
    difference = max(abs(a - b) for a, b in zip(*answers, strict=True))
    if not difference <= TOLERANCE:
        sys.exit(f"The two give other embeddings ({difference:g} apart): there is nothing to compare.")
    # The first start of each filled the page cache.
    report({name: found[1:] for name, found in starts.items()}, difference, rounds)


def report(starts: dict[str, list[measure.Start]], difference: float, rounds: int) -> None:
    seconds = {name: [start.seconds for start in found] for name, found in starts.items()}
    peaks = {name: [start.peak / 1e6 for start in found] for name, found in starts.items()}

    def times(values: dict[str, list[float]]) -> str:
        return f"{measure.median(values[THEIRS]) / measure.median(values[OURS]):.1f}"

    rows = [
        [
            "process start to first embedding",
            *(measure.shown(seconds[name]) for name in (OURS, THEIRS)),
            times(seconds),
        ],
        [
            "peak memory of the process",
            *(f"{measure.median(peaks[name]):.0f} MB" for name in (OURS, THEIRS)),
            times(peaks),
        ],
    ]
    measure.page(
        "coldstart",
        f"""# Cold start against sentence-transformers

`make bench` writes this page.

{measure.markdown_table(["", OURS, THEIRS, "times"], rows)}

![Start and memory of both](coldstart.svg)

Each start is a new Python process that embeds one text with all-MiniLM-L6-v2, its published weights in single precision, up to the line
printed; the embeddings differ by {difference:.0e} at most. Both run from the same environment and without torchvision, which
sentence-transformers does not ask for. Medians of {rounds} starts in turns, with the fastest and slowest in brackets, after one that is not
counted: the files are in the page cache. Memory is the most that was resident at a time, weights mapped from the disk included.

Machine: {measure.machine(None, PACKAGES)}.
""",
    )
    panels = [
        measure.Panel(
            title,
            {n: measure.median(v) for n, v in values.items()},
            {n: (min(v), max(v)) for n, v in values.items()},
            fmt,
        )
        for title, values, fmt in (
            ("start to first embedding (s)", seconds, "%.2f"),
            ("peak memory (MB)", peaks, "%.0f"),
        )
    ]
    measure.bars(measure.TO / "coldstart.svg", panels)


if __name__ == "__main__":
    main()
