"""What an artifact must keep on each compute unit of a Mac.

Core ML takes an ML Program's types as the least precision (coremltools' guide, "Typed Execution"): a float32 program runs on CPU and
GPU, never on the Neural Engine, which has float16 alone. So the table:

    fp32 on CPU_ONLY                             largest difference from the reference <= its own parity gate
    fp32 on CPU_AND_GPU, CPU_AND_NE, ALL         cosine with the reference: mean >= 0.9999, lowest >= 0.999
    fp16, int8, 4bit on every unit               cosine with the reference: mean >= its own gate - 0.001, lowest >= that - 0.05;
                                                 with what it gave itself on Linux: mean >= 0.9999, lowest >= 0.999

On the CPU a float32 program is held to the very bound that it kept on Linux. Other units sum in other orders and precisions, and
embeddings are compared by their angle: the gates leave room for float16 arithmetic, which costs MiniLM 1e-6 (fp16 on Linux, mean
cosine 0.999999), and none for a program that a unit computes wrongly, which shows as 0.6 and less (apple/coremltools #2716). What a
variant gave itself tells arithmetic from quantization. The bounds on the lowest find the one text, or the one length, that overflowed.
No Mac has measured them yet.
"""

from __future__ import annotations

from msgspec import Struct

from modelbake.errors import IntegrityError
from modelbake.finish.units import Unit
from modelbake.manifest import Artifact

SAME_MEAN = 0.9999
SAME_LOWEST = 0.999
FLOAT16_SHARE = 0.001
ITEM_SHARE = 0.05


class Figures(Struct, frozen=True, forbid_unknown_fields=True):
    """How near outputs are to the reference's, and for a smaller variant to its own on Linux, where the goldens hold these."""

    max_abs_diff: float
    mean_cosine: float
    lowest_cosine: float
    own_mean_cosine: float | None = None
    own_lowest_cosine: float | None = None


class Gate(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The bounds of Figures: of the difference from above, of cosines from below; None is no bound."""

    max_abs_diff: float | None = None
    mean_cosine: float | None = None
    lowest_cosine: float | None = None
    own_mean_cosine: float | None = None
    own_lowest_cosine: float | None = None

    def missed(self, figures: Figures) -> str | None:
        """Which bound the figures do not keep, in words; None where they keep all. NaN keeps none."""
        if self.max_abs_diff is not None and not figures.max_abs_diff <= self.max_abs_diff:
            return f"largest difference {figures.max_abs_diff:.3g}, the gate is {self.max_abs_diff:g}"
        for name, found, bound in (
            ("mean cosine", figures.mean_cosine, self.mean_cosine),
            ("lowest cosine", figures.lowest_cosine, self.lowest_cosine),
            ("mean cosine with its outputs on Linux", figures.own_mean_cosine, self.own_mean_cosine),
            ("lowest cosine with its outputs on Linux", figures.own_lowest_cosine, self.own_lowest_cosine),
        ):
            if bound is not None and not (found is not None and found >= bound):
                if found is None:
                    return f"{name} cannot be told: the goldens hold none of its outputs; build the bundle again"
                return f"{name} {found:.6f}, the gate is {bound:g}"
        return None


def gate_for(artifact: Artifact, unit: Unit) -> Gate:
    """The artifact's gate on that unit, from what the manifest says that it kept on Linux."""
    if artifact.quality is not None:
        mean = round(artifact.quality.mean_cosine_gate - FLOAT16_SHARE, 9)
        return Gate(
            mean_cosine=mean,
            lowest_cosine=round(mean - ITEM_SHARE, 9),
            own_mean_cosine=SAME_MEAN,
            own_lowest_cosine=SAME_LOWEST,
        )
    if artifact.parity is None:
        raise IntegrityError(f"{artifact.path} has neither parity nor quality in the manifest; build the bundle again.")
    if unit == "CPU_ONLY":
        return Gate(max_abs_diff=artifact.parity.gate)
    return Gate(mean_cosine=SAME_MEAN, lowest_cosine=SAME_LOWEST)
