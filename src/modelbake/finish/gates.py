"""What an artifact must keep on each compute unit of a Mac.

Core ML takes an ML Program's types as the least precision (coremltools' guide, "Typed Execution"): a float32 program runs on CPU and
GPU, never on the Neural Engine, which has float16 alone. So the table:

    package             CPU_ONLY                            CPU_AND_GPU, CPU_AND_NE, ALL
    fp32                max. difference ≤ its parity gate   mean cosine ≥ 0.9999, lowest ≥ 0.999
    fp16, int8, 4bit    mean cosine ≥ its own gate - 0.001, lowest of one item ≥ that - 0.05, on every unit

On the CPU a float32 program is held to the very bound that it kept on Linux. Another unit sums in another order and another
precision, and embeddings are compared by their angle: these gates leave room for float16 arithmetic, whose share is 1e-6 in MiniLM
(fp16 on Linux, mean cosine 0.999999), and none for a program that a unit computes wrongly, which shows as 0.6 and less
(apple/coremltools #2716). The bound on the lowest finds the one text, or the one length, that overflowed. No Mac has measured them yet.
"""

from __future__ import annotations

from msgspec import Struct

from modelbake.errors import IntegrityError
from modelbake.finish.predict import Unit
from modelbake.manifest import Artifact

FP32_MEAN = 0.9999
FP32_LOWEST = 0.999
FLOAT16_SHARE = 0.001
ITEM_SHARE = 0.05


class Gate(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The bounds: `max_abs_diff` from above, the cosines of all items on average and of each from below; None is no bound."""

    max_abs_diff: float | None = None
    mean_cosine: float | None = None
    lowest_cosine: float | None = None

    def missed(self, max_abs_diff: float, mean_cosine: float, lowest_cosine: float) -> str | None:
        """Which bound the figures do not keep, in words; None where they keep all. NaN keeps none."""
        for name, found, bound in (
            ("mean cosine", mean_cosine, self.mean_cosine),
            ("lowest cosine", lowest_cosine, self.lowest_cosine),
        ):
            if bound is not None and not found >= bound:
                return f"{name} {found:.6f}, the gate is {bound:g}"
        if self.max_abs_diff is not None and not max_abs_diff <= self.max_abs_diff:
            return f"largest difference {max_abs_diff:.3g}, the gate is {self.max_abs_diff:g}"
        return None


def gate_for(artifact: Artifact, unit: Unit) -> Gate:
    """The artifact's gate on that unit, from what the manifest says that it kept on Linux."""
    if artifact.quality is not None:
        mean = round(artifact.quality.mean_cosine_gate - FLOAT16_SHARE, 9)
        return Gate(mean_cosine=mean, lowest_cosine=round(mean - ITEM_SHARE, 9))
    if artifact.parity is None:
        raise IntegrityError(f"{artifact.path} has neither parity nor quality in the manifest; build the bundle again.")
    if unit == "CPU_ONLY":
        return Gate(max_abs_diff=artifact.parity.gate)
    return Gate(mean_cosine=FP32_MEAN, lowest_cosine=FP32_LOWEST)
