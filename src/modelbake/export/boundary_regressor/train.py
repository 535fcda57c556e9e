"""Seeded training of the boundary regressor, and the scores by which it is judged."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from modelbake.export.boundary_regressor.data import Float32, Split, TrainingData
from modelbake.export.boundary_regressor.model import BoundaryRegressor

BATCH = 32
LEARNING_RATE = 2e-3
PATIENCE = 40

# Trained weights are rounded to multiples of 1 / GRID. Processors sum in different orders, which moves weights trained in
# double precision by about 1e-15; the rounding, far below what the network can feel, makes them the same bytes again.
GRID = 2.0**20


@dataclass(frozen=True)
class Score:
    """How near segments are to their targets: mean absolute error of both boundaries in seconds, mean temporal IoU."""

    mean_absolute_error: float
    mean_iou: float


@dataclass(frozen=True)
class Trained:
    """The network (float32, eval mode) with its best weights, and the loss on validation after every epoch."""

    network: BoundaryRegressor
    best_epoch: int
    validation_losses: tuple[float, ...]


def train(split: Split, seed: int, epochs: int) -> Trained:
    """Train on `split.train` for at most `epochs` rounds, and keep the weights that did best on `split.validation`.

    Adam with smooth-L1 loss on the error as a share of the segment's length, so that long segments weigh no more than
    short ones. Stops once PATIENCE epochs brought nothing better. Deterministic, and the same for the instruction sets of
    one processor family: double precision, weights rounded at the end (GRID), one thread, a random state of its own. The
    caller's threads and random state are left as they were.
    """
    with _deterministic(seed):
        network = BoundaryRegressor().double()
        for layer in (network.wide, network.narrow, network.middle, network.last):
            # Drawn anew, in double precision: the last bit of float32 draws depends on the processor.
            layer.reset_parameters()
        inputs, targets = _tensors(split.train, torch.float64)
        network.standardise(*inputs)
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        best, best_epoch, losses = copy.deepcopy(network.state_dict()), 0, list[float]()
        for epoch in range(1, epochs + 1):
            network.train()
            for rows in torch.split(torch.randperm(len(split.train)), BATCH):
                optimizer.zero_grad()
                _loss(network, [part[rows] for part in inputs], targets[rows]).backward()  # type: ignore[no-untyped-call]
                optimizer.step()
            losses.append(_validation_loss(network, split.validation))
            if losses[-1] == min(losses):
                best, best_epoch = copy.deepcopy(network.state_dict()), epoch
            elif epoch - best_epoch >= PATIENCE:
                break
        network.load_state_dict({name: (tensor * GRID).round() / GRID for name, tensor in best.items()})
    return Trained(network.float().eval(), best_epoch, tuple(losses))


def adjust(network: BoundaryRegressor, data: TrainingData) -> Float32:
    """The network's adjusted segments for the rows: float32 [n, 2], seconds."""
    inputs, _ = _tensors(data, torch.float32)
    with torch.inference_mode():
        adjusted: Float32 = network.eval()(*inputs).numpy()
    return adjusted


def score(segments: Float32, targets: Float32) -> Score:
    """The score of `segments` against `targets`, both [n, 2] in seconds."""
    found, true = segments.astype(np.float64), targets.astype(np.float64)
    both = np.minimum(found[:, 1], true[:, 1]) - np.maximum(found[:, 0], true[:, 0])
    either = np.maximum(found[:, 1], true[:, 1]) - np.minimum(found[:, 0], true[:, 0])
    return Score(float(np.abs(found - true).mean()), float((both.clip(0) / either).mean()))


def _loss(network: nn.Module, inputs: list[Tensor], targets: Tensor) -> Tensor:
    segments = inputs[-1]
    error = (network(*inputs) - targets) / (segments[:, 1:2] - segments[:, 0:1])
    return nn.functional.smooth_l1_loss(error, torch.zeros_like(error), beta=0.05)


def _validation_loss(network: BoundaryRegressor, data: TrainingData) -> float:
    inputs, targets = _tensors(data, torch.float64)
    with torch.inference_mode():
        return float(_loss(network.eval(), inputs, targets))


def _tensors(data: TrainingData, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    arrays = (data.text_features, data.start_image_features, data.end_image_features, data.segments)
    return [torch.from_numpy(array).to(dtype) for array in arrays], torch.from_numpy(data.targets).to(dtype)


@contextmanager
def _deterministic(seed: int) -> Iterator[None]:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(1)
        torch.use_deterministic_algorithms(True)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
