"""Texts to a text encoder's inputs, with the tokenizer that the manifest names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelbake.errors import IntegrityError
from modelbake.manifest import Tokenizer

# What Python makes of words on the command line that are no UTF-8; the tokenizers package takes no such text.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

# The token ids of one text, int64 [tokens], without padding.
TokenIds = NDArray[np.int64]


@dataclass(frozen=True)
class Tokenize:
    """Tokenizes as the model's reference does: called on texts it gives the inputs of one batch.

    Apart, so that texts of like length can share a batch: `encode` gives each text's token ids, `pad` makes of some of them the
    inputs by name, int64 [len(rows), longest row].
    """

    encode: Callable[[Sequence[str]], list[TokenIds]]
    pad: Callable[[Sequence[TokenIds]], dict[str, NDArray[np.int64]]]

    def __call__(self, texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        return self.pad(self.encode(texts))


def load_tokenizer(spec: Tokenizer, models_dir: Path) -> Tokenize:
    """The tokenizer that the manifest names; IntegrityError where its file is missing, damaged or not what the manifest says."""
    path = models_dir / spec.path
    return (_clip if spec.format == "clip-merges" else _tokenizer_json)(path, spec.max_tokens)


def _clip(path: Path, max_tokens: int) -> Tokenize:
    from modelbake.runtime.clip_tokenizer import ClipTokenizer, eot_positions

    tokenizer = ClipTokenizer(path, max_tokens)

    def encode(texts: Sequence[str]) -> list[TokenIds]:
        ids = tokenizer(texts)
        # Attention is causal and the embedding is read at the first end of text, so nothing behind that has any effect.
        return [row[: end + 1] for row, end in zip(ids, eot_positions(ids), strict=True)]

    return Tokenize(encode, lambda rows: {"input_ids": _padded(rows, 0)[0]})


def open_tokenizer_json(path: Path, max_tokens: int) -> Any:
    """The tokenizers.Tokenizer of a tokenizer.json; IntegrityError where it is none, or does not pad or cut at `max_tokens`."""
    from tokenizers import Tokenizer as FastTokenizer

    try:
        tokenizer = FastTokenizer.from_file(str(path))
    except Exception as error:
        # tokenizers raises bare Exception for a missing and for a damaged file.
        raise IntegrityError(f"{path} is no tokenizer.json ({error}); build or copy the bundle again.") from error
    if tokenizer.padding is None or (tokenizer.truncation or {}).get("max_length") != max_tokens:
        raise IntegrityError(
            f"{path} does not pad its batches and cut texts at the manifest's {max_tokens} tokens; build the bundle again."
        )
    return tokenizer


def without_surrogates(text: str) -> str:
    """The text with U+FFFD for each lone surrogate."""
    return _LONE_SURROGATE.sub("\ufffd", text)


def _tokenizer_json(path: Path, max_tokens: int) -> Tokenize:
    tokenizer = open_tokenizer_json(path, max_tokens)

    pad_id = int(tokenizer.padding["pad_id"])
    tokenizer.no_padding()

    def encode(texts: Sequence[str]) -> list[TokenIds]:
        encodings = tokenizer.encode_batch_fast([without_surrogates(text) for text in texts])
        return [np.array(encoding.ids, dtype=np.int64) for encoding in encodings]

    def pad(rows: Sequence[TokenIds]) -> dict[str, NDArray[np.int64]]:
        ids, mask = _padded(rows, pad_id)
        return {"input_ids": ids, "attention_mask": mask}

    return Tokenize(encode, pad)


def _padded(rows: Sequence[TokenIds], pad_id: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The rows under each other, padded at their ends, and 1 where there is a token; int64 [len(rows), longest row] both."""
    lengths = np.array([len(row) for row in rows])
    mask = (np.arange(lengths.max(initial=0)) < lengths[:, np.newaxis]).astype(np.int64)
    ids = np.full(mask.shape, pad_id, dtype=np.int64)
    ids[mask == 1] = np.concatenate(rows)
    return ids, mask
