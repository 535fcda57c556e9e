"""Pairs of texts to a cross-encoder's inputs, with the tokenizer.json that the manifest names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelbake.manifest import Tokenizer
from modelbake.runtime.tokenize import open_tokenizer_json, without_surrogates


class PairTokenizer:
    """Tokenizes as the model's reference does: a pair that is too long loses the tokens of its longer text first."""

    def __init__(self, spec: Tokenizer, models_dir: Path) -> None:
        """IntegrityError where the file is no tokenizer.json, or does not cut at the manifest's length."""
        self._tokenizer = open_tokenizer_json(models_dir / spec.path, spec.max_tokens)
        self._padding = dict(self._tokenizer.padding)
        # Every batch is padded by itself, when it is known which pairs are in it.
        self._tokenizer.no_padding()

    def encode(self, pairs: Sequence[tuple[str, str]]) -> list[Any]:
        """One tokenizers.Encoding for each pair of query and document, cut but not padded."""
        cleaned = [(without_surrogates(query), without_surrogates(document)) for query, document in pairs]
        encodings: list[Any] = self._tokenizer.encode_batch(cleaned)
        return encodings

    def pad(self, encodings: Sequence[Any]) -> dict[str, NDArray[np.int64]]:
        """The encodings as int64 arrays [len(encodings), longest] by input name: ids, mask and token types."""
        padding = self._padding
        width = max(len(encoding) for encoding in encodings)
        for encoding in encodings:
            encoding.pad(
                width,
                direction=padding["direction"],
                pad_id=padding["pad_id"],
                pad_type_id=padding["pad_type_id"],
                pad_token=padding["pad_token"],
            )
        return {
            "input_ids": np.array([encoding.ids for encoding in encodings], dtype=np.int64),
            "attention_mask": np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64),
            "token_type_ids": np.array([encoding.type_ids for encoding in encodings], dtype=np.int64),
        }
