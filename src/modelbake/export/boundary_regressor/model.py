"""The network: CLIP features of a query and of the frames around a proposed start and end → the adjusted segment."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from modelbake.export.boundary_regressor.data import FEATURE_DIMENSION, SMALLEST_NORM

# The furthest that one boundary moves, as a share of the segment's length. Below one half, start and end never cross.
BOUND = 0.45

# Seconds. A shorter (or reversed) segment counts as this long, so that the logarithm exists. A tenth of it, which is
# what two full shifts leave, is wider than the spacing of float32 at one day, so the order survives rounding.
SHORTEST = 0.1


class BoundaryRegressor(nn.Module):
    """An MLP that moves each boundary by at most BOUND times the segment's length.

    Inputs, one dtype (float32, or float64 for references): `text_features`, `start_image_features`,
    `end_image_features` [batch, 512], of any norm, as they are brought to unit length first; `segment` [batch, 2],
    start and end in seconds. Output `adjusted_segment` [batch, 2], seconds, with 0 <= start < end up to a day into the
    video.

    The first layer sees the three unit vectors and the products text x start and text x end (2560 numbers, `wide`), and
    the products' sums, which are the cosines, with the logarithm of the length (3 numbers, `narrow`). The cosines stand
    apart, standardised with the training rows' own mean and deviation (kept with the weights), because a few dozen rows
    cannot teach a layer to sum 512 products: without them, the held-out error on the sample data is that of no
    adjustment.
    """

    narrow_mean: Tensor
    narrow_deviation: Tensor

    def __init__(self, hidden: int = 64) -> None:
        super().__init__()
        self.wide = nn.Linear(5 * FEATURE_DIMENSION, hidden, bias=False)
        self.narrow = nn.Linear(3, hidden)
        self.middle = nn.Linear(hidden, hidden // 2)
        self.last = nn.Linear(hidden // 2, 2)
        self.register_buffer("narrow_mean", torch.zeros(3))
        self.register_buffer("narrow_deviation", torch.ones(3))

    def forward(
        self, text_features: Tensor, start_image_features: Tensor, end_image_features: Tensor, segment: Tensor
    ) -> Tensor:
        """The adjusted segment; shapes and units as in the class."""
        start = segment[:, 0:1].clamp_min(0.0)
        end = torch.maximum(segment[:, 1:2], start + SHORTEST)
        length = end - start
        wide, narrow = features(text_features, start_image_features, end_image_features, length)
        hidden = torch.relu(self.wide(wide) + self.narrow((narrow - self.narrow_mean) / self.narrow_deviation))
        shift = BOUND * torch.tanh(self.last(torch.relu(self.middle(hidden))))
        adjusted = torch.cat([start, end], dim=1) + shift * length
        return adjusted.clamp_min(0.0)

    @torch.no_grad()
    def standardise(self, batches: Iterable[Sequence[Tensor]]) -> None:
        """Take the mean and deviation of cosines and log length from training rows, given as batches of forward's inputs."""
        narrow = torch.cat(
            [features(text, start, end, segment[:, 1:2] - segment[:, 0:1])[1] for text, start, end, segment in batches]
        )
        self.narrow_mean.copy_(narrow.mean(dim=0))
        self.narrow_deviation.copy_(narrow.std(dim=0, correction=0).clamp_min(1e-3))


def features(text: Tensor, start_image: Tensor, end_image: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """What the first layer sees: [batch, 2560] unit vectors and products; [batch, 3] cosines and log length."""
    text, start_image, end_image = _unit(text), _unit(start_image), _unit(end_image)
    at_start, at_end = text * start_image, text * end_image
    wide = torch.cat([text, start_image, end_image, at_start, at_end], dim=1)
    cosines = [at_start.sum(dim=1, keepdim=True), at_end.sum(dim=1, keepdim=True)]
    return wide, torch.cat([*cosines, length.clamp_min(SHORTEST).log()], dim=1)


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.square().sum(dim=1, keepdim=True).sqrt().clamp_min(SMALLEST_NORM)
