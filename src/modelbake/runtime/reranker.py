"""Rerankers: a query and documents to scores, by what the manifest says of a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelbake.errors import IntegrityError, UsageError
from modelbake.manifest import BundleEntry, Manifest
from modelbake.runtime.pair_tokenizer import PairTokenizer
from modelbake.runtime.schedule import batches, windows
from modelbake.runtime.session import Session

ROLE = "reranker"


@dataclass(frozen=True)
class Ranked:
    """One document of a ranking: its place in the list that was given, and its score."""

    index: int
    score: float


class Reranker:
    """The cross-encoder of a bundle. Safe for several threads."""

    def __init__(self, entry: BundleEntry, models_dir: Path, threads: int | None = None) -> None:
        """UsageError where the bundle does not rerank, IntegrityError where its files or the manifest are damaged."""
        if all(artifact.role != ROLE for artifact in entry.artifacts):
            roles = ", ".join(artifact.role for artifact in entry.artifacts)
            raise UsageError(
                f"The bundle {entry.name!r} does not rerank; it has: {roles}. `modelbake list` shows what each bundle does."
            )
        artifact = entry.artifact(ROLE)
        if artifact.tokenizer is None:
            raise IntegrityError(f"The manifest names no tokenizer for {artifact.path}; build the bundle again.")
        self._tokenizer = PairTokenizer(artifact.tokenizer, models_dir)
        self._session = Session(models_dir / artifact.path, threads)

    def score(self, query: str, documents: Sequence[str]) -> NDArray[np.float32]:
        """The score of each document for the query, float32 [len(documents)] in their order; higher is more relevant.

        Pairs are batched by length, so that little is padded; a pair's score does not depend on the others.
        """
        scores = np.empty(len(documents), dtype=np.float32)
        start = 0
        for window in windows(documents):
            encodings = self._tokenizer.encode([(query, document) for document in window])
            for places in batches([len(encoding) for encoding in encodings]):
                scores[start + places] = self._run([encodings[place] for place in places])
            start += len(window)
        return scores

    def rank(self, query: str, documents: Sequence[str], top: int | None = None) -> list[Ranked]:
        """The documents by falling score, equal ones in their order; the first `top` of them, or all."""
        scores = self.score(query, documents)
        order = np.argsort(-scores, kind="stable")[:top]
        return [Ranked(int(index), float(scores[index])) for index in order]

    def _run(self, encodings: list[Any]) -> NDArray[np.generic]:
        inputs = self._tokenizer.pad(encodings)
        return self._session.run({name: inputs[name] for name in self._session.input_names if name in inputs})["score"]


def default_reranker(manifest: Manifest) -> BundleEntry:
    """The manifest's default among the bundles that rerank, else the only one; UsageError where one has to be chosen, or built."""
    entries = [entry for entry in manifest.bundles if any(artifact.role == ROLE for artifact in entry.artifacts)]
    candidates = [entry for entry in entries if entry.default] or entries
    if not candidates:
        raise UsageError("The models folder has no bundle that reranks; build one, such as ms-marco-reranker.")
    if len(candidates) > 1:
        found = ", ".join(entry.name for entry in candidates)
        raise UsageError(f"Name the bundle to rerank with by --bundle; the models folder has: {found}.")
    return candidates[0]
