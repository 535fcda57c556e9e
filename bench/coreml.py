#!/usr/bin/env python3
"""MiniLM's Core ML package run by modelbake.coreml, against torch on the same tokens; writes docs/bench/coreml.md and coreml.svg."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
from reference import BUNDLE

THREADS = 2
TOKENS = 128
TOLERANCE = 1e-5
TORCH = "torch"
PACKAGES = ("torch", "sentence-transformers", "transformers", "coremltools")
# A process of its own, as `modelbake verify` is one: opens the package, runs it once and says so.
ONCE = """
import sys
from pathlib import Path
import numpy as np
import torch
torch.set_num_threads(int(sys.argv[2]))
from modelbake.coreml.runner import Runner
inputs = np.load(sys.argv[3])
Runner(Path(sys.argv[1]), keep_bytes=int(sys.argv[4])).run(dict(inputs))
print("ran")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="runs of each (default 40)")
    rounds = parser.parse_args().rounds
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.insert(0, str(measure.ROOT))
    from modelbake.export._torchvision import declare_missing_ops

    declare_missing_ops()
    import torch

    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory(prefix="modelbake-bench-") as name:
        folder = Path(name)
        measure.say("fetching and converting")
        command = [sys.executable, "-m", "modelbake", "fetch", BUNDLE, "--to", str(folder), "--quiet"]
        subprocess.run(command, cwd=measure.ROOT, check=True)
        files = next(folder.glob("**/config_sentence_transformers.json")).parent
        packages = convert(files, folder)
        inputs = tokens(files)
        torch_call = reference(files, inputs)
        calls, runs = {TORCH: torch_call}, {}
        for precision, path in packages.items():
            runs[precision] = run(path, inputs)
            calls[precision] = runs[precision]
        difference = float(np.abs(np.asarray(runs["fp32"]()) - np.asarray(torch_call())).max())
        if not difference <= TOLERANCE:
            sys.exit(f"The two give other embeddings ({difference:g} apart): there is nothing to compare.")
        measure.say(f"{rounds} rounds")
        seconds = measure.interleaved(calls, rounds, settle=True)
        np.savez(folder / "inputs.npz", **inputs)
        starts = {
            (precision, keep): measure.start(
                [sys.executable, "-c", ONCE, str(path), str(THREADS), str(folder / "inputs.npz"), str(keep)]
            )
            for precision, path in packages.items()
            for keep in (512 << 20, 0)
        }
        alone = measure.start([sys.executable, "-c", "import torch, numpy; print('imported')"])
        sizes = {
            precision: sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
            for precision, path in packages.items()
        }
    report(seconds, starts, alone, sizes, difference, rounds)


def convert(files: Path, folder: Path) -> dict[str, Path]:
    """The packages that are run, of the files' model: fp32, fp16 and int8."""
    from coremltools.optimize import coreml

    from tests import coreml_packages

    bert = coreml_packages.minilm(files)
    full = coreml_packages.sentence_package(bert, TOKENS)
    config = coreml.OptimizationConfig(coreml.OpLinearQuantizerConfig(mode="linear_symmetric"))
    made = {
        "fp32": full,
        "fp16": coreml_packages.sentence_package(bert, TOKENS, "fp16"),
        "int8": coreml.linear_quantize_weights(full, config),
    }
    for name, model in made.items():
        model.save(str(folder / f"{name}.mlpackage"))
    return {name: folder / f"{name}.mlpackage" for name in made}


def tokens(files: Path) -> dict[str, Any]:
    """A text that fills the package's tokens."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(files / "tokenizer.json"))
    tokenizer.enable_truncation(TOKENS)
    encoded = tokenizer.encode("Model weights go in, pinned by digest; verified bundles come out. " * 20)
    return {"input_ids": np.array([encoded.ids], np.int32), "attention_mask": np.ones((1, TOKENS), np.int32)}


def reference(files: Path, inputs: dict[str, Any]) -> Callable[[], Any]:
    """sentence-transformers' modules on the tokens, eagerly, with its own choice of attention."""
    import torch
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(files), device="cpu", local_files_only=True).eval()

    def call() -> Any:
        features = {name: torch.from_numpy(array).to(torch.int64) for name, array in inputs.items()}
        with torch.inference_mode():
            return model(features)["sentence_embedding"].numpy()

    return call


def run(path: Path, inputs: dict[str, Any]) -> Callable[[], Any]:
    from modelbake.coreml.runner import Runner

    runner = Runner(path)
    return lambda: runner.run(inputs)["embeddings"]


def report(
    seconds: dict[str, list[float]],
    starts: dict[tuple[str, int], measure.Start],
    alone: measure.Start,
    sizes: dict[str, int],
    difference: float,
    rounds: int,
) -> None:
    medians = {name: measure.median(values) for name, values in seconds.items()}
    rows = [["sentence-transformers", "", measure.shown(seconds[TORCH]), "1.00", "", ""]]
    for name in sizes:
        kept, read = (starts[name, keep].peak / 1e6 for keep in (512 << 20, 0))
        shown = [f"{kept:.0f} MB", f"{read:.0f} MB"]
        rows.append(
            [
                name,
                f"{sizes[name] / 1e6:.0f} MB",
                measure.shown(seconds[name]),
                f"{medians[name] / medians[TORCH]:.2f}",
                *shown,
            ]
        )
    header = ["", "package", "one text", "times torch", "peak, constants kept", "peak, none kept"]
    measure.page(
        "coreml",
        f"""# Running Core ML packages without Apple's runtime

`bench/coreml.py` writes this page.

{measure.markdown_table(header, rows)}

![Times torch](coreml.svg)

all-MiniLM-L6-v2 with its published weights, [1, {TOKENS}], {THREADS} threads: `modelbake.coreml.runner.Runner` on saved packages
against sentence-transformers' modules run eagerly on the same tokens; fp32 differs by {difference:.0e} at most. Times are medians of
{rounds} rounds in turns, with the fastest and slowest in brackets. Peaks are a process's resident memory that opens the package and
runs it once, of which Python with torch and numpy is {alone.peak / 1e6:.0f} MB; with `keep_bytes=0` each constant is read when it is
needed and let go. These are figures of verification on Linux: they say nothing about speed on Apple's processors.

Machine: {measure.machine(THREADS, PACKAGES)}.
""",
    )
    values = {name: medians[name] / medians[TORCH] for name in (TORCH, *sizes)}
    measure.bars(measure.TO / "coreml.svg", [measure.Panel("time of one text, times torch", values)])


if __name__ == "__main__":
    main()
