#!/usr/bin/env python3
"""Size, speed and quality of every variant, against fp32 and the reference framework; writes docs/bench/variants.md and variants.svg."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import measure
import numpy as np
from PIL import Image

from modelbake import goldens, manifest, parity
from modelbake.catalog import Catalog
from modelbake.manifest import Artifact, BundleEntry
from modelbake.runtime.encoder import ImageEncoder, TextEncoder

THREADS = 2
REFERENCE = "reference"
PACKAGES = ("onnxruntime", "torch", "sentence-transformers", "open_clip_torch")


@dataclass(frozen=True)
class Subject:
    """What a role of a bundle is measured against, and how many items go at once."""

    bundle: str
    role: str
    title: str
    framework: str
    batches: tuple[int, ...]


SUBJECTS = (
    Subject("minilm-l6-v2", "text_encoder", "all-MiniLM-L6-v2, texts", "sentence-transformers", (1, 32)),
    Subject("clip-vit-b-32", "image_encoder", "CLIP ViT-B/32, images", "open_clip", (1, 8)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="runs of each (default 15)")
    rounds = parser.parse_args().rounds
    os.environ["HF_HUB_OFFLINE"] = "1"
    import torch

    torch.set_num_threads(THREADS)
    sections, panels = [], []
    with tempfile.TemporaryDirectory(prefix="modelbake-bench-") as name:
        for subject in SUBJECTS:
            text, bars = bench(subject, Path(name), rounds)
            sections.append(text)
            panels.append(bars)
    measure.page("variants", page(sections, rounds))
    measure.bars(measure.TO / "variants.svg", panels)


def bench(subject: Subject, folder: Path, rounds: int) -> tuple[str, measure.Panel]:
    """The page's section and the plot's panel of one subject."""
    entry, models, sources = prepare(subject.bundle, folder)
    artifacts = {a.precision: a for a in entry.artifacts if a.role == subject.role}
    case = next(
        case
        for case in goldens.read(models / entry.goldens.path)
        if (case.role, case.name) == (subject.role, goldens.EVALUATION)
    )
    items: list[Any] = goldens.texts_of(case) or [Image.fromarray(image) for image in goldens.images_of(case)]
    (expected,) = case.outputs.values()
    encoders = {precision: encoder(entry, models, subject.role, precision) for precision in artifacts}
    calls: dict[str, Callable[[list[Any]], Any]] = {precision: e.embed for precision, e in encoders.items()}
    calls[REFERENCE] = reference(subject, sources)
    figures = {name: quality(call, items, expected) for name, call in calls.items()}
    if not figures[REFERENCE][0] > 1 - 1e-6:
        sys.exit(f"{subject.title}: the reference gives other embeddings; there is nothing to compare.")
    seconds = {size: timed(calls, items, size, rounds) for size in subject.batches}
    rows = []
    for name in (*artifacts, REFERENCE):
        ratios = []
        for size in subject.batches:
            ratios += [f"{ratio(seconds[size], 'fp32', name):.2f}", f"{ratio(seconds[size], REFERENCE, name):.2f}"]
        rows.append(
            [
                subject.framework if name == REFERENCE else name,
                f"{weight(artifacts[name]) / 1e6:.0f} MB" if name in artifacts else "",
                f"{figures[name][0]:.5f}",
                f"{figures[name][1]:.3f}",
                *ratios,
            ]
        )
    header = ["", "size", "mean cosine", "top-10 overlap"]
    for size in subject.batches:
        header += [f"batch {size}: times fp32", f"times {subject.framework}"]
    weights = "its published weights" if entry.weights == "pretrained" else "SAMPLE WEIGHTS"
    text = f"## {subject.title}\n\n{weights.capitalize() if entry.weights == 'pretrained' else weights}, {len(items)} items.\n\n"
    if entry.weights == "sample":
        text += "The weights are random, so cosine and overlap say nothing about quality; speed and size do not depend on them.\n\n"
    text += measure.markdown_table(header, rows)
    first = subject.batches[0]
    bars = {name: ratio(seconds[first], REFERENCE, name) for name in (*artifacts, REFERENCE)}
    return text, measure.Panel(f"{subject.title}: times {subject.framework}, batch {first}", bars)


def prepare(bundle: str, folder: Path) -> tuple[BundleEntry, Path, Path]:
    """Build the bundle with the weights that can be had: its entry, the models folder, and the folder of its source files."""
    models, sources = folder / "models", folder / "sources"
    for words in (
        ["fetch", bundle, "--to", str(sources)],
        ["build", bundle, "--models-dir", str(models), "--sources", str(sources)],
    ):
        measure.say(" ".join(words[:2]))
        command = [sys.executable, "-m", "modelbake", *words, "--quiet"]
        subprocess.run(command, cwd=measure.ROOT, stdout=subprocess.DEVNULL, check=True)
    return manifest.read(models).bundle(bundle), models, sources / bundle / "files"


def encoder(entry: BundleEntry, models: Path, role: str, precision: str) -> TextEncoder | ImageEncoder:
    return (TextEncoder if role == "text_encoder" else ImageEncoder)(entry, models, THREADS, precision)


def reference(subject: Subject, sources: Path) -> Callable[[list[Any]], Any]:
    """What embeds a list of items as the reference framework's users do."""
    import torch

    from modelbake.export._torchvision import declare_missing_ops

    declare_missing_ops()
    if subject.framework == "sentence-transformers":
        from sentence_transformers import SentenceTransformer

        model = SentenceTransformer(str(sources), device="cpu", local_files_only=True)
        return lambda texts: model.encode(texts, batch_size=32)
    import open_clip
    from safetensors.torch import load_file

    spec = Catalog(measure.ROOT / "bundles").get(subject.bundle).model
    clip, _, transform = open_clip.create_model_and_transforms(spec.architecture, pretrained=None)
    clip.load_state_dict(load_file(str(sources / spec.weights)))
    clip.eval()

    def embed(images: list[Any]) -> Any:
        with torch.inference_mode():
            return clip.encode_image(torch.stack([transform(image) for image in images]), normalize=True).numpy()

    return embed


def quality(call: Callable[[list[Any]], Any], items: list[Any], expected: Any) -> tuple[float, float]:
    found = np.concatenate([call(items[start : start + 8]) for start in range(0, len(items), 8)])
    return parity.mean_cosine(found, expected), parity.top_overlap(found, expected)


def timed(
    calls: dict[str, Callable[[list[Any]], Any]], items: list[Any], size: int, rounds: int
) -> dict[str, list[float]]:
    """Seconds of each round, in which each embeds the same seeded items, `size` at once."""
    measure.say(f"{rounds} rounds of batch {size}")
    chosen = np.random.default_rng(0).permutation(len(items))[: max(size, 8 if size == 1 else size)]
    batches = [[items[index] for index in chosen[start : start + size]] for start in range(0, len(chosen), size)]

    def all_batches(call: Callable[[list[Any]], Any]) -> Callable[[], None]:
        def run() -> None:
            for batch in batches:
                call(batch)

        return run

    return measure.interleaved({name: all_batches(call) for name, call in calls.items()}, rounds, settle=True)


def ratio(seconds: dict[str, list[float]], of: str, name: str) -> float:
    """How many times faster `name` is than `of`: the median over rounds."""
    return measure.median([a / b for a, b in zip(seconds[of], seconds[name], strict=True)])


def weight(artifact: Artifact) -> int:
    return artifact.size + sum(ref.size for ref in artifact.external_data)


def page(sections: list[str], rounds: int) -> str:
    body = "\n\n".join(sections)
    return f"""# Variants

`bench/variants.py` writes this page; [variants.md](../variants.md) says how they are made.

![Speed of the variants](variants.svg)

{body}

Speeds are medians over {rounds} rounds in turns, tokenizing and image preprocessing included; batch 1 is 8 single items one after
another. Cosine and overlap are against the reference's embeddings in double precision. fp16 is widened when it is loaded: its file is
smaller, its speed that of fp32.

Machine: {measure.machine(THREADS, PACKAGES)}.
"""


if __name__ == "__main__":
    main()
