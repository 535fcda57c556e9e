"""Seeded training of the boundary regressor, and the scores by which it is judged."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from modelbake.export.boundary_regressor.data import Float32, Indices, Split, TrainingData
from modelbake.export.boundary_regressor.model import BoundaryRegressor

# Rows in a step: as many as a few dozen videos allow, more where there are thousands, whose epochs have steps enough.
SMALLEST_BATCH, LARGEST_BATCH = 32, 256
STEPS = 128
LEARNING_RATE = 2e-3
PATIENCE = 40

# Rows that are looked at together where nothing is learned from them. What the first layer sees of them has 20 MB.
CHUNK = 1024

# Trained weights are rounded to multiples of 1 / GRID. Processors sum in different orders, which moves weights trained in
# double precision by about 1e-15; the rounding, far below what the network can feel, makes them the same bytes again.
GRID = 2.0**20


@dataclass(frozen=True)
class Score:
    """How near segments are to their targets: mean absolute error of both boundaries in seconds, mean temporal IoU."""

    mean_absolute_error: float
    mean_iou: float


@dataclass(frozen=True)
class Epoch:
    """One round over the training rows: its number from 1 on, the mean loss on them meanwhile, that on validation after."""

    number: int
    train_loss: float
    validation_loss: float


@dataclass(frozen=True)
class Trained:
    """The network (float32, eval mode) with its best weights, the number of their epoch, and every epoch's losses."""

    network: BoundaryRegressor
    best_epoch: int
    epochs: tuple[Epoch, ...]


def train(split: Split, seed: int, epochs: int, told: Callable[[Epoch], object] = lambda _: None) -> Trained:
    """Train on the split's rows for at most `epochs` rounds, and keep the weights that did best on its validation rows.

    Adam with smooth-L1 loss on the error as a share of the segment's length, so that long segments weigh no more than
    short ones. Stops once PATIENCE epochs brought nothing better; `told` hears of every epoch. Deterministic, and the same
    for the instruction sets of one processor family: double precision, weights rounded at the end (GRID), one thread, a
    random state of its own. The caller's threads and random state are left as they were. Beside the data it takes a few
    dozen megabytes, however many rows there are.
    """
    data, rows = split.data, split.train_rows
    batch_size = min(max(len(rows) // STEPS, SMALLEST_BATCH), LARGEST_BATCH)
    with _deterministic(seed):
        network = _drawn()
        network.standardise(inputs for inputs, _ in _chunks(data, rows, torch.float64))
        optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
        best, best_loss, done = copy.deepcopy(network.state_dict()), float("inf"), list[Epoch]()
        best_epoch = 0
        for number in range(1, epochs + 1):
            network.train()
            total = 0.0
            for batch in torch.split(torch.randperm(len(rows)), batch_size):
                inputs, targets = _tensors(data, rows[batch.numpy()], torch.float64)
                optimizer.zero_grad()
                loss = _loss(network, inputs, targets)
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                total += float(loss.detach()) * len(batch)
            done.append(Epoch(number, total / len(rows), _mean_loss(network, data, split.validation_rows)))
            told(done[-1])
            if done[-1].validation_loss <= best_loss:
                best, best_loss, best_epoch = copy.deepcopy(network.state_dict()), done[-1].validation_loss, number
            elif number - best_epoch >= PATIENCE:
                break
        network.load_state_dict({name: (tensor * GRID).round() / GRID for name, tensor in best.items()})
    return Trained(network.float().eval(), best_epoch, tuple(done))


def random_network(split: Split, seed: int) -> BoundaryRegressor:
    """A network as it is before training: weights drawn from `seed`, standardised by the training rows, in eval mode."""
    with _deterministic(seed):
        network = _drawn().float()
        network.standardise(inputs for inputs, _ in _chunks(split.data, split.train_rows, torch.float32))
    return network.eval()


def adjust(network: BoundaryRegressor, data: TrainingData) -> Float32:
    """The network's adjusted segments for the rows: float32 [n, 2], seconds."""
    adjusted = np.empty_like(data.segments)
    with torch.inference_mode():
        network.eval()
        for start in range(0, len(data), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(data)))
            inputs, _ = _tensors(data, rows, torch.float32)
            adjusted[rows] = network(*inputs).numpy()
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


def _drawn() -> BoundaryRegressor:
    """A network in double precision with weights drawn in it: the last bit of float32 draws depends on the processor."""
    network = BoundaryRegressor().double()
    for layer in (network.wide, network.narrow, network.middle, network.last):
        layer.reset_parameters()
    return network


def _mean_loss(network: BoundaryRegressor, data: TrainingData, rows: Indices) -> float:
    network.eval()
    with torch.inference_mode():
        losses = [(float(_loss(network, *chunk)), len(chunk[1])) for chunk in _chunks(data, rows, torch.float64)]
    return sum(loss * count for loss, count in losses) / len(rows)


def _chunks(data: TrainingData, rows: Indices, dtype: torch.dtype) -> Iterator[tuple[list[Tensor], Tensor]]:
    for start in range(0, len(rows), CHUNK):
        yield _tensors(data, rows[start : start + CHUNK], dtype)


def _tensors(data: TrainingData, rows: Indices, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """The network's inputs and its targets for the rows of those indices."""
    arrays = (data.text_features, data.start_image_features, data.end_image_features, data.segments)
    return [torch.from_numpy(array[rows]).to(dtype) for array in arrays], torch.from_numpy(data.targets[rows]).to(dtype)


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
