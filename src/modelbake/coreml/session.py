"""A Core ML package as parity replays it: many items in, one at a time through the package, which takes no more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modelbake.coreml.package import Feature
from modelbake.coreml.runner import Runner
from modelbake.errors import IntegrityError
from modelbake.manifest import ImagePreprocessing
from modelbake.runtime.image_preprocess import denormalize

Array = NDArray[np.generic]


class CoremlSession:
    """The package at `path`, with the face of runtime.session.Session.

    Inputs are those of an ONNX graph of the same role, [items, …]: token ids and masks of any length, which are padded with zeros to
    the next length that the package takes, and for a package that takes images normalised pixels, of which the bytes are made again
    as `preprocessing` says. `rounded` is Runner's.
    """

    def __init__(self, path: Path, preprocessing: ImagePreprocessing | None = None, rounded: bool = True) -> None:
        self._path = path
        self._runner = Runner(path, rounded=rounded)
        self._preprocessing = preprocessing
        self._features = {one.name: one for one in self._runner.package.inputs}
        self.input_names = self._runner.input_names

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs by name, [items, …]; IntegrityError where the package does not take these inputs."""
        items = {len(array) for array in inputs.values()}
        if set(inputs) != set(self._features) or len(items) != 1 or not min(items):
            raise IntegrityError(
                f"{self._path} takes {', '.join(self._features)} of one number of items, and was given "
                f"{', '.join(f'{name} {list(array.shape)}' for name, array in inputs.items()) or 'nothing'}."
            )
        found = [
            self._runner.run(
                {name: self._fit(self._features[name], array[index : index + 1]) for name, array in inputs.items()}
            )
            for index in range(min(items))
        ]
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def _fit(self, feature: Feature, item: Array) -> Array:
        if feature.dtype == "uint8":
            if item.dtype == np.uint8 or self._preprocessing is None:
                return item
            return denormalize(item[0].astype(np.float32), self._preprocessing)[np.newaxis]
        if feature.dtype != "int32" or item.ndim != 2:
            return item.astype(feature.dtype)
        lengths = sorted(shape[1] for shape in feature.shapes or (feature.shape,))
        length = next((one for one in lengths if one >= item.shape[1]), None)
        if length is None:
            raise IntegrityError(
                f"{self._path} takes {feature.name} of {lengths[-1]} tokens at most, and was given {item.shape[1]}."
            )
        padded = np.zeros((1, length), np.int32)
        padded[:, : item.shape[1]] = item
        return padded
