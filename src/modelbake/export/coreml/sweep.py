"""Goldens beyond texts: rows of the table of words that no golden text has, which half of a small model's numbers are."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

WORDS = 4096


def swept(vocabulary: int, length: int, first: int, last: int, words: int = WORDS) -> list[NDArray[np.int32]]:
    """Texts of token ids between `first` and `last`, int32 [1, length] and the last one shorter, that hold `words` ids.

    These are evenly spread over the vocabulary, or all where it has fewer; so at least one of any 8 to 20 neighbouring rows, which a
    palette or a block of quantized numbers may share, is read.
    """
    ids = np.unique(np.linspace(0, vocabulary - 1, min(words, vocabulary)).round().astype(np.int32))
    parts = np.split(ids, range(length - 2, len(ids), length - 2))
    return [np.concatenate([[first], part, [last]]).astype(np.int32)[np.newaxis] for part in parts]
