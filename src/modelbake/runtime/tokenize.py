"""Texts to a text encoder's inputs, with the tokenizer that the manifest names."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelbake.errors import IntegrityError
from modelbake.manifest import Tokenizer

# What Python makes of words on the command line that are no UTF-8; the tokenizers package takes no such text.
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")

# Texts to int64 arrays [len(texts), sequence] by input name.
Tokenize = Callable[[Sequence[str]], dict[str, NDArray[np.int64]]]


def load_tokenizer(spec: Tokenizer, models_dir: Path) -> Tokenize:
    """The function that tokenizes as the model's reference does; batches are padded to their longest text."""
    path = models_dir / spec.path
    return (_clip if spec.format == "clip-merges" else _tokenizer_json)(path, spec.max_tokens)


def _clip(path: Path, max_tokens: int) -> Tokenize:
    from modelbake.runtime.clip_tokenizer import ClipTokenizer, eot_positions

    tokenizer = ClipTokenizer(path, max_tokens)

    def tokenize(texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        ids = tokenizer(texts)
        # Attention is causal and the embedding is read at the end of text, so nothing behind the last one has any effect.
        return {"input_ids": ids[:, : int(eot_positions(ids).max()) + 1]}

    return tokenize


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

    def tokenize(texts: Sequence[str]) -> dict[str, NDArray[np.int64]]:
        encodings = tokenizer.encode_batch([without_surrogates(text) for text in texts])
        return {
            "input_ids": np.array([encoding.ids for encoding in encodings], dtype=np.int64),
            "attention_mask": np.array([encoding.attention_mask for encoding in encodings], dtype=np.int64),
        }

    return tokenize
