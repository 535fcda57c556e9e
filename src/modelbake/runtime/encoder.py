"""Encoders: texts or images to embeddings, by what the manifest says of a bundle."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from modelbake.errors import IntegrityError, UsageError
from modelbake.manifest import Artifact, BundleEntry
from modelbake.runtime.schedule import TOKENS, batches, windows
from modelbake.runtime.session import Session
from modelbake.runtime.tokenize import load_tokenizer

if TYPE_CHECKING:
    from PIL import Image

# Images that run together.
BATCH = 32

Embeddings = NDArray[np.float32]


class TextEncoder:
    """The text encoder of a bundle; safe for several threads. `threads` and `brief` are Session's.

    `precision` is fp32, or the only one there is, unless said otherwise.
    """

    def __init__(
        self,
        entry: BundleEntry,
        models_dir: Path,
        threads: int | None = None,
        precision: str | None = None,
        brief: bool = False,
    ) -> None:
        artifact = _artifact(entry, "text_encoder", "texts", precision)
        if artifact.tokenizer is None:
            raise IntegrityError(f"The manifest names no tokenizer for {artifact.path}; build the bundle again.")
        self.dimension = _dimension(artifact)
        # The graph loads without Python's lock, so the tokenizer can load meanwhile.
        with ThreadPoolExecutor(1) as pool:
            loading = pool.submit(Session, models_dir / artifact.path, threads, brief)
            self._tokenize = load_tokenizer(artifact.tokenizer, models_dir)
            self._session = loading.result()

    def embed(self, texts: Sequence[str]) -> Embeddings:
        """Embeddings of the texts, float32 [len(texts), dimension]; UsageError where `texts` is a single string."""
        made = np.empty((len(texts), self.dimension), dtype=np.float32)
        done = 0
        for part in self.embed_iter(texts):
            made[done : done + len(part)] = part
            done += len(part)
        return made

    def embed_iter(self, texts: Iterable[str], budget: int = TOKENS) -> Iterator[Embeddings]:
        """Embeddings of any number of texts in their order, float32 [texts, dimension] for a window of some at a time.

        Memory does not grow with their number: a window of texts is taken when the one before it was given. `budget` bounds the
        tokens that run together. UsageError where `texts` is a single string.
        """
        if isinstance(texts, str):
            raise UsageError("The texts are a single string, whose characters would be embedded; give a list of texts.")
        for window in windows(texts):
            rows = self._tokenize.encode(window)
            made = np.empty((len(rows), self.dimension), dtype=np.float32)
            for batch in batches([len(row) for row in rows], budget):
                outputs = self._session.run(self._tokenize.pad([rows[index] for index in batch]))
                made[batch] = next(iter(outputs.values()))
            yield made


class ImageEncoder:
    """The image encoder of a bundle; safe for several threads. `threads` and `brief` are Session's.

    `precision` is fp32, or the only one there is, unless said otherwise.
    """

    def __init__(
        self,
        entry: BundleEntry,
        models_dir: Path,
        threads: int | None = None,
        precision: str | None = None,
        brief: bool = False,
    ) -> None:
        artifact = _artifact(entry, "image_encoder", "images", precision)
        if artifact.preprocessing is None:
            raise IntegrityError(f"The manifest has no preprocessing for {artifact.path}; build the bundle again.")
        self.dimension = _dimension(artifact)
        # Pillow is a tenth of a start, and texts need none of it.
        from modelbake.runtime import image_preprocess

        self._preprocess = image_preprocess
        self._preprocessing = artifact.preprocessing
        self._session = Session(models_dir / artifact.path, threads, brief)
        self._input = self._session.input_names[0]

    def embed(self, images: Sequence[Image.Image | Path | bytes]) -> Embeddings:
        """Embeddings of the images (decoded, files, or a file's bytes), float32 [len(images), dimension]."""
        made = np.empty((len(images), self.dimension), dtype=np.float32)
        for start in range(0, len(images), BATCH):
            pixels = np.stack([self._pixels(image) for image in images[start : start + BATCH]])
            outputs = self._session.run({self._input: pixels})
            made[start : start + BATCH] = next(iter(outputs.values()))
        return made

    def _pixels(self, image: Image.Image | Path | bytes) -> NDArray[np.float32]:
        if isinstance(image, (bytes, os.PathLike)):
            return self._preprocess.preprocess_file(image, self._preprocessing)
        return self._preprocess.preprocess(image, self._preprocessing)


def _artifact(entry: BundleEntry, role: str, what: str, precision: str | None) -> Artifact:
    if all(artifact.role != role for artifact in entry.artifacts):
        roles = ", ".join(dict.fromkeys(artifact.role for artifact in entry.artifacts))
        raise UsageError(
            f"The bundle {entry.name!r} does not embed {what}; it has: {roles}. `modelbake list` shows what each bundle does."
        )
    found = entry.artifact(role, precision)
    if found.format != "onnx":
        raise UsageError(
            f"{found.path} of {entry.name!r} is a Core ML package, which apps on Apple's systems load; take the model's ONNX bundle here."
        )
    return found


def _dimension(artifact: Artifact) -> int:
    if artifact.embedding_dimension is None:
        raise IntegrityError(f"The manifest gives no embedding_dimension for {artifact.path}; build the bundle again.")
    return artifact.embedding_dimension
