"""CLIP's two encoders in ONNX Runtime against open_clip in torch: both in this process, in turns, on the same weights and inputs.

Writes docs/bench/clip.md and docs/bench/clip.svg. `--models-dir` holds a built clip-vit-b-32; the weights are the ones it was built from.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import measure
import numpy as np

from modelbake import manifest, settings
from modelbake.bundle import ClipModel
from modelbake.catalog import Catalog
from modelbake.export._torchvision import declare_missing_ops
from modelbake.export.clip import golden_image
from modelbake.runtime.session import Session
from modelbake.runtime.tokenize import load_tokenizer

BUNDLE = "clip-vit-b-32"
# Both answer the same, or there is nothing to compare.
TOLERANCE = 1e-5
# Captions as people write them under photographs: 7 to 18 tokens with start and end.
CAPTIONS = [
    "two dogs running on a beach at sunset",
    "a photo of a cat",
    "a black and white portrait of an old man with a hat",
    "a plate of pasta with tomato sauce and basil on a wooden table",
    "aerial view of a city",
    "a child holding a red balloon in front of a carousel, shallow depth of field",
    "a close-up of a bee on a yellow flower",
    "people walking in the rain with umbrellas at night",
]
INT8 = "image, int8"
GOALS = {("text", 1): 6.0, ("text", 8): 3.7, ("image", 1): 1.9, (INT8, 1): 3.0}


@dataclass
class Row:
    """One line of the table: what is encoded, on how many threads, and the seconds of every round of both."""

    what: str
    batch: int
    threads: int
    ours: list[float] = field(default_factory=list)
    torch: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        return statistics.median(self.torch) / statistics.median(self.ours)

    @property
    def best_ratio(self) -> float:
        return min(self.torch) / min(self.ours)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="rounds of each pair (default 25, at least 5)")
    parser.add_argument("--models-dir", type=Path, help="the models folder (default: MODELBAKE_MODELS or models/)")
    arguments = parser.parse_args()
    chosen = settings.from_environment(directory=measure.ROOT)
    models = arguments.models_dir or chosen.models_dir
    entry = manifest.read(models).bundle(BUNDLE)
    bundle = Catalog(measure.ROOT / "bundles").get(BUNDLE)
    assert isinstance(bundle.model, ClipModel)
    weights = chosen.cache_dir / "sources" / BUNDLE / "files" / bundle.model.weights
    rows, difference = compare(entry, models, reference(bundle.model, weights), max(5, arguments.rounds))
    measure.page("clip", report(rows, difference, entry.weights, max(5, arguments.rounds)))
    plot(rows, measure.TO / "clip.svg")


def reference(spec: ClipModel, weights: Path) -> Any:
    """open_clip's model with the very weights that the bundle was built from."""
    declare_missing_ops()
    import open_clip
    from safetensors.torch import load_file

    model = open_clip.create_model(spec.architecture, pretrained=None, device="cpu")
    model.load_state_dict(load_file(str(weights)))
    return model.eval()


def compare(entry: manifest.BundleEntry, models: Path, model: Any, rounds: int) -> tuple[list[Row], float]:
    """Every pair in turns, so that what else the machine does meets both; and the largest difference between their answers."""
    import torch

    text, image, small = (
        entry.artifact("text_encoder"),
        entry.artifact("image_encoder"),
        entry.artifact("image_encoder", "int8"),
    )
    assert text.tokenizer is not None
    tokenize = load_tokenizer(text.tokenizer, models)
    rows, worst = [], 0.0
    for threads in (1, 2):
        torch.set_num_threads(threads)
        artifacts = {"text": text, "image": image, INT8: small}
        sessions = {name: Session(models / artifact.path, threads) for name, artifact in artifacts.items()}
        for what, batch in product(sessions, (1, 8)):
            if what == "text":
                inputs = tokenize(CAPTIONS[:batch])
                ids = inputs["input_ids"]
                # open_clip's tokenizer gives the full context, and its encoder takes nothing else.
                whole = torch.zeros(batch, int(model.context_length), dtype=torch.int64)
                whole[:, : ids.shape[1]] = torch.from_numpy(ids)
                theirs: Callable[[], Any] = bind(model.encode_text, whole)
            else:
                images = [golden_image(224, 224, seed) for seed in range(batch)]
                pixels = np.stack([i.transpose(2, 0, 1) for i in images]).astype(np.float32) / 127.5 - 1
                inputs = {"pixel_values": pixels}
                theirs = bind(model.encode_image, torch.from_numpy(pixels))
            ours = bind(sessions[what].run, inputs)
            row = Row(what, batch, threads)
            with torch.inference_mode():
                (found,) = ours().values()
                expected = torch.nn.functional.normalize(theirs(), dim=-1).numpy()
                if what != INT8:
                    worst = max(worst, float(np.abs(found - expected).max()))
                taken = measure.interleaved({"ours": ours, "theirs": theirs}, rounds, settle=True)
                row.ours, row.torch = taken["ours"], taken["theirs"]
            measure.say(f"{what}, batch {batch}, {threads} threads: {row.ratio:.2f} (fastest {row.best_ratio:.2f})")
            rows.append(row)
    if worst > TOLERANCE:
        sys.exit(f"The two give other embeddings ({worst:g} apart): there is nothing to compare.")
    return rows, worst


def bind(function: Callable[[Any], Any], argument: Any) -> Callable[[], Any]:
    return lambda: function(argument)


def report(rows: list[Row], difference: float, weights: str, rounds: int) -> str:
    def milliseconds(values: list[float]) -> str:
        return f"{1e3 * statistics.median(values):.1f} ms ({1e3 * min(values):.1f})"

    lines = []
    for row in rows:
        goal = GOALS.get((row.what, row.batch)) if row.threads == 2 else None
        lines.append(
            f"| {row.what} | {row.batch} | {row.threads} | {milliseconds(row.ours)} | {milliseconds(row.torch)} | "
            f"{row.ratio:.2f} | {row.best_ratio:.2f} | {f'≥ {goal:g}' if goal else ''} |"
        )
    table = "\n".join(lines)
    return f"""# CLIP ViT-B/32 against open_clip

`python bench/clip.py` writes this page; it wants a built `{BUNDLE}`.

| encoder | batch | threads | ONNX Runtime | open_clip in torch | times | fastest/fastest | goal |
|---|---|---|---|---|---|---|---|
{table}

![How many times faster than open_clip](clip.svg)

Medians, with the fastest round in brackets, of {rounds} rounds in one process in which both encoders run in turns, each after a call
that is not counted (bench/measure.py tells why). Encoding alone is timed, from token ids or pixels to embeddings; tokenizing and image
preprocessing are the same work for both. In float32 the embeddings differ by {difference:.0e} at most; [variants.md](variants.md) tells
what int8 keeps of them. The captions have 7 to 18 tokens, the one of batch 1 has 10; the weights are `{weights}`, which changes no time.

What makes the difference in texts: open_clip computes all 77 positions; here a batch is cut at its longest text, and all but attention
is computed for real tokens alone. In both encoders attention is one operator, and behind the last layer's attention only the row that is
read goes on. All of that is exact.

Machine: {measure.machine(packages=("onnxruntime", "torch", "open_clip_torch"))}.
"""


def plot(rows: list[Row], path: Path) -> None:
    """A bar for each row; the same figures give the same file."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "modelbake", "svg.fonttype": "none", "font.size": 9})
    import matplotlib.pyplot as plt

    figure, axis = plt.subplots(figsize=(8, 2.6), layout="constrained")
    cases = [(row.what, row.batch) for row in rows if row.threads == 1]
    for threads, colour, offset in ((1, "#9ccfbd", -0.2), (2, "#2a7f62", 0.2)):
        values = [row.ratio for row in rows if row.threads == threads]
        places = [index + offset for index in range(len(values))]
        label = f"{threads} thread{'s' if threads > 1 else ''}"
        bars = axis.barh(places, values, height=0.38, color=colour, label=label)
        axis.bar_label(bars, fmt="%.1f", padding=4)
    for index, case in enumerate(cases):
        if case in GOALS:
            axis.plot([GOALS[case]] * 2, [index, index + 0.4], color="black", linewidth=1.5)
    axis.axvline(1, color="#9aa0a6", linewidth=1)
    axis.set_yticks(range(len(cases)), [f"{what}, batch {batch}" for what, batch in cases])
    axis.invert_yaxis()
    axis.set_xlabel("times faster than open_clip in torch (black: goal)")
    axis.legend(frameon=False, loc="lower right")
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
