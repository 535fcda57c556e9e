#!/usr/bin/env python3
"""Embedding 1,000 sentences of mixed length, against sentence-transformers; writes docs/bench/throughput.md and throughput.svg."""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path
from pydoc_data.topics import topics

import measure
import numpy as np
from reference import BUNDLE, PACKAGES, prepare

from modelbake import manifest
from modelbake.runtime.encoder import TextEncoder

SENTENCES = 1000
THREADS = 2
TOLERANCE = 1e-5
OURS, THEIRS = "modelbake", "sentence-transformers"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7, help="runs of each (default 7)")
    rounds = parser.parse_args().rounds
    # Read when sentence-transformers is imported.
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.modules["torchvision"] = None  # type: ignore[assignment]
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(THREADS)
    texts = sentences()
    with tempfile.TemporaryDirectory(prefix="modelbake-bench-") as name:
        models, files = prepare(Path(name))
        encoder = TextEncoder(manifest.read(models).bundle(BUNDLE), models, THREADS)
        model = SentenceTransformer(str(files), device="cpu")
        difference = float(np.abs(encoder.embed(texts) - model.encode(texts)).max())
        if not difference <= TOLERANCE:
            sys.exit(f"The two give other embeddings ({difference:g} apart): there is nothing to compare.")
        measure.say(f"{rounds} rounds of {len(texts)} sentences")
        seconds = measure.interleaved({OURS: lambda: encoder.embed(texts), THEIRS: lambda: model.encode(texts)}, rounds)
        lengths = [len(ids) for ids in model.tokenizer(texts, truncation=True)["input_ids"]]
    report(seconds, lengths, difference, rounds)


def sentences() -> list[str]:
    """A seeded choice of the sentences of Python's own documentation, as the standard library carries it."""
    text = " ".join(" ".join(topics[name].split()) for name in sorted(topics))
    found = re.split(r"(?<=[.!?]) (?=[A-Z])", text)
    chosen = np.random.default_rng(0).choice(len(found), SENTENCES, replace=False)
    return [found[index] for index in chosen]


def report(seconds: dict[str, list[float]], lengths: list[int], difference: float, rounds: int) -> None:
    medians = {name: measure.median(values) for name, values in seconds.items()}
    rows = [
        [
            name,
            measure.shown(seconds[name]),
            f"{SENTENCES / medians[name]:.0f}",
            f"{medians[THEIRS] / medians[name]:.2f}",
        ]
        for name in (OURS, THEIRS)
    ]
    version = ".".join(str(number) for number in sys.version_info[:2])
    table = measure.markdown_table(["", f"{SENTENCES:,} sentences", "sentences a second", "times"], rows)
    measure.page(
        "throughput",
        f"""# Throughput of the text encoder

`make bench` writes this page.

{table}

![Sentences a second](throughput.svg)

all-MiniLM-L6-v2 with its published weights in single precision, {THREADS} threads each; the embeddings differ by {difference:.0e} at
most. The sentences are a seeded choice from Python's own documentation as version {version} carries it (`pydoc_data.topics`): of
{min(lengths)} to {max(lengths)} tokens, {np.median(lengths):.0f} in the middle, {sum(lengths):,} in all. Both sort them by length;
sentence-transformers runs its default of 32 at a time, modelbake as many as make 512 tokens. Times are medians of {rounds} rounds in
turns, tokenizing included, with the fastest and slowest in brackets.

Machine: {measure.machine(THREADS, PACKAGES)}.
""",
    )
    spread = {name: (SENTENCES / max(values), SENTENCES / min(values)) for name, values in seconds.items()}
    rates = {name: SENTENCES / medians[name] for name in (OURS, THEIRS)}
    measure.bars(measure.TO / "throughput.svg", [measure.Panel("sentences a second", rates, spread, "%.0f")])


if __name__ == "__main__":
    main()
