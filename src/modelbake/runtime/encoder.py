"""Encoders: texts or images to embeddings, by what the manifest says of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from modelbake.errors import IntegrityError, UsageError
from modelbake.manifest import Artifact, BundleEntry
from modelbake.runtime.image_preprocess import preprocess, preprocess_file
from modelbake.runtime.session import Session
from modelbake.runtime.tokenize import load_tokenizer

BATCH = 32

Embeddings = NDArray[np.float32]


class TextEncoder:
    """The text encoder of a bundle; `precision` is fp32, or the only one there is, unless said otherwise."""

    def __init__(
        self, entry: BundleEntry, models_dir: Path, threads: int | None = None, precision: str | None = None
    ) -> None:
        artifact = _artifact(entry, "text_encoder", "texts", precision)
        if artifact.tokenizer is None:
            raise IntegrityError(f"The manifest names no tokenizer for {artifact.path}; build the bundle again.")
        self.dimension = _dimension(artifact)
        self._tokenize = load_tokenizer(artifact.tokenizer, models_dir)
        self._session = Session(models_dir / artifact.path, threads)

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Embeddings of the texts, float32 [len(texts), dimension]."""
        batches = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
        return _stack([self._session.run(self._tokenize(batch)) for batch in batches], self.dimension)


class ImageEncoder:
    """The image encoder of a bundle; `precision` is fp32, or the only one there is, unless said otherwise."""

    def __init__(
        self, entry: BundleEntry, models_dir: Path, threads: int | None = None, precision: str | None = None
    ) -> None:
        artifact = _artifact(entry, "image_encoder", "images", precision)
        if artifact.preprocessing is None:
            raise IntegrityError(f"The manifest has no preprocessing for {artifact.path}; build the bundle again.")
        self.dimension = _dimension(artifact)
        self._preprocessing = artifact.preprocessing
        self._session = Session(models_dir / artifact.path, threads)
        self._input = self._session.input_names[0]

    def embed(self, images: Sequence[Image.Image | Path | bytes]) -> Embeddings:
        """Embeddings of the images (decoded, files, or a file's bytes), float32 [len(images), dimension]."""
        batches = [images[i : i + BATCH] for i in range(0, len(images), BATCH)]
        outputs = [
            self._session.run({self._input: np.stack([self._pixels(image) for image in batch])}) for batch in batches
        ]
        return _stack(outputs, self.dimension)

    def _pixels(self, image: Image.Image | Path | bytes) -> NDArray[np.float32]:
        if isinstance(image, Image.Image):
            return preprocess(image, self._preprocessing)
        return preprocess_file(image, self._preprocessing)


def _artifact(entry: BundleEntry, role: str, what: str, precision: str | None) -> Artifact:
    if all(artifact.role != role for artifact in entry.artifacts):
        roles = ", ".join(dict.fromkeys(artifact.role for artifact in entry.artifacts))
        raise UsageError(
            f"The bundle {entry.name!r} does not embed {what}; it has: {roles}. `modelbake list` shows what each bundle does."
        )
    return entry.artifact(role, precision)


def _dimension(artifact: Artifact) -> int:
    if artifact.embedding_dimension is None:
        raise IntegrityError(f"The manifest gives no embedding_dimension for {artifact.path}; build the bundle again.")
    return artifact.embedding_dimension


def _stack(outputs: list[dict[str, NDArray[np.generic]]], dimension: int) -> Embeddings:
    if not outputs:
        return np.empty((0, dimension), dtype=np.float32)
    return np.concatenate([next(iter(output.values())) for output in outputs]).astype(np.float32, copy=False)
