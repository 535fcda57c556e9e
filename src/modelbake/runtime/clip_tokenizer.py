"""CLIP's byte-pair tokenizer without torch: text to the token ids that open_clip's SimpleTokenizer gives.

The algorithm and the vocabulary are OpenAI's (openai/CLIP, clip/simple_tokenizer.py, MIT), in the variant of
open_clip/tokenizer.py with its default `lower` cleaning. Ids: 0-255 bytes, 256-511 bytes that end a word, 512 + rank
the merges, then start and end of text.
"""

from __future__ import annotations

import functools
import heapq
import html
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from modelbake.errors import IntegrityError, UsageError

# The vocabulary lists 262144 merges; CLIP was trained with the first 49152 - 256 - 2 of them.
MERGES = 48894
# SHA-256 of the file that write_tokenizer_file makes, 524619 bytes.
MERGES_SHA256 = "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a"
START_OF_TEXT = 512 + MERGES
END_OF_TEXT = START_OF_TEXT + 1

# Bounds of the word cache: at most this many words of at most this many characters, a few MB.
CACHED_WORDS = 16384
CACHED_WORD_LENGTH = 64

_SPECIAL = {"<start_of_text>": (START_OF_TEXT,), "<end_of_text>": (END_OF_TEXT,)}
_WORD_PREFIX = "<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d"

# Text of these characters alone passes ftfy and html.unescape unchanged, and stdlib `re` splits it as `regex` does. So
# plain English needs neither package, whose imports take longer than all else here.
_PLAIN = re.compile(r"[\t\n -%'-~]*")
_PLAIN_WORD = re.compile(_WORD_PREFIX + r"|[a-z]+|[0-9]|[^\sa-z0-9]+", re.ASCII)


class ClipTokenizer:
    """Tokenizer for CLIP's text encoder; safe to use from several threads.

    `merges`: the file of write_tokenizer_file, as its path or as its bytes.
    `context_length`: tokens per text, start and end included (77 in all of OpenAI's models).
    Raises IntegrityError where `merges` is missing or is not such a file, UsageError for a context length under 2.
    """

    def __init__(self, merges: str | os.PathLike[str] | bytes, context_length: int = 77) -> None:
        if context_length < 2:
            raise UsageError(f"context_length is {context_length}: it must hold start and end of text, so at least 2")
        self.context_length = context_length
        self._ranks = _read_merges(merges)
        self._byte_symbols, self._byte_ids = _byte_alphabet()
        self._cached_word = functools.lru_cache(maxsize=CACHED_WORDS)(self._word_ids)

    def __call__(self, texts: str | Sequence[str]) -> npt.NDArray[np.int64]:
        """Token ids, int64 [len(texts), context_length]: start, the text, end, zeros; cut texts end in end-of-text too.

        A single string counts as one text. Lone surrogates become U+FFFD. As in open_clip, a literal `<start_of_text>`
        or `<end_of_text>` in a text gives that token.
        """
        if isinstance(texts, str):
            texts = [texts]
        ids = np.zeros((len(texts), self.context_length), dtype=np.int64)
        for row, text in zip(ids, texts, strict=True):
            tokens = [START_OF_TEXT, *self.encode(text, limit=self.context_length - 1)]
            del tokens[self.context_length - 1 :]
            tokens.append(END_OF_TEXT)
            row[: len(tokens)] = tokens
        return ids

    def encode(self, text: str, limit: int | None = None) -> list[int]:
        """Token ids of the text without start and end; reading stops at the word that reaches `limit` tokens."""
        tokens: list[int] = []
        for word in _words(text):
            tokens += self._cached_word(word) if len(word) <= CACHED_WORD_LENGTH else self._word_ids(word)
            if limit is not None and len(tokens) >= limit:
                break
        return tokens

    def _word_ids(self, word: str) -> tuple[int, ...]:
        """Ids of one word: neighbours are merged lowest rank first, leftmost first among equals.

        open_clip merges all occurrences of the lowest pair at once. That is the same, because no two merges make the
        same symbol and each joins symbols that stand before it, so a new pair always ranks after the pair that made it.
        A heap keeps a word of n bytes at O(n log n) where open_clip's loop is O(n²).
        """
        if word in _SPECIAL:
            return _SPECIAL[word]
        data = word.encode("utf-8")
        symbols: list[str] = [self._byte_symbols[byte] for byte in data]
        ids = [self._byte_ids[byte] for byte in data]
        last = len(data) - 1
        symbols[last] += "</w>"
        ids[last] += 256
        if last == 0:
            return tuple(ids)

        ranks = self._ranks
        right = list(range(1, last + 2))
        left = list(range(-1, last))
        heap: list[tuple[int, int, str]] = []
        for i in range(last):
            pair = f"{symbols[i]} {symbols[i + 1]}"
            if (rank := ranks.get(pair)) is not None:
                heap.append((rank, i, pair))
        heapq.heapify(heap)
        while heap:
            rank, i, pair = heapq.heappop(heap)
            j = right[i]
            # An entry is stale once either side was merged with another neighbour. A symbol that was swallowed is "",
            # so no pair matches it.
            if j > last or f"{symbols[i]} {symbols[j]}" != pair:
                continue
            symbols[i] += symbols[j]
            symbols[j] = ""
            ids[i] = 512 + rank
            right[i] = k = right[j]
            if k <= last:
                left[k] = i
                pair = f"{symbols[i]} {symbols[k]}"
                if (rank_of_new := ranks.get(pair)) is not None:
                    heapq.heappush(heap, (rank_of_new, i, pair))
            if (h := left[i]) >= 0:
                pair = f"{symbols[h]} {symbols[i]}"
                if (rank_of_new := ranks.get(pair)) is not None:
                    heapq.heappush(heap, (rank_of_new, h, pair))
        return tuple(token for token, symbol in zip(ids, symbols, strict=True) if symbol)


def eot_positions(token_ids: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Where CLIP's text encoder pools: the first end-of-text of each row, int64 [n], of ids int64 [n, context_length].

    open_clip takes the arg max of the ids. Attention is causal, so columns after the largest position change nothing.
    """
    positions: npt.NDArray[np.int64] = token_ids.argmax(axis=1)
    return positions


def write_tokenizer_file(vocabulary: str | os.PathLike[str], out_path: str | os.PathLike[str]) -> None:
    """Write the file that ClipTokenizer reads, from OpenAI's `bpe_simple_vocab_16e6.txt.gz`, which open_clip ships.

    UTF-8 text: `#version: 0.2`, then a merge `left right` a line, most frequent first; the same bytes everywhere. This
    is the `merges.txt` of the `tokenizers` and `transformers` libraries. Needs neither open_clip nor torch. Raises
    IntegrityError where the vocabulary is missing, damaged or another one.
    """
    import gzip
    import hashlib
    import zlib

    name = f"CLIP vocabulary {os.fspath(vocabulary)}"
    try:
        lines = gzip.decompress(Path(vocabulary).read_bytes()).decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise IntegrityError(f"{name} cannot be read ({error}): install open_clip_torch again") from error
    data = "\n".join(["#version: 0.2", *lines[1 : 1 + MERGES], ""]).encode()
    if (digest := hashlib.sha256(data).hexdigest()) != MERGES_SHA256:
        raise IntegrityError(
            f"{name} is not OpenAI's: its merges have sha256 {digest}, expected {MERGES_SHA256}; "
            "install open_clip_torch again"
        )
    Path(out_path).write_bytes(data)


def _words(text: str) -> Iterator[str]:
    """The pieces that are byte-pair encoded one by one, of the cleaned and lower-cased text."""
    if _PLAIN.fullmatch(text):
        pattern: Any = _PLAIN_WORD
        text = text.lower()
    else:
        fix_text, pattern = _unicode_tools()
        text = html.unescape(html.unescape(fix_text(text))).strip()
        text = " ".join(text.split()).lower()
    for match in pattern.finditer(text):
        yield match.group()


@functools.cache
def _unicode_tools() -> tuple[Callable[[str], str], Any]:
    """ftfy's mender and the word pattern of `regex`, imported at the first text that is not plain ASCII."""
    import ftfy
    import regex

    return ftfy.fix_text, regex.compile(_WORD_PREFIX + r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)


def _byte_alphabet() -> tuple[list[str], list[int]]:
    """For each byte the character that stands for it in merges, and its token id; printable Latin-1 comes first."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    rest = [byte for byte in range(256) if byte not in printable]
    symbols, ids = [""] * 256, [0] * 256
    for token, byte in enumerate(printable + rest):
        ids[byte] = token
        symbols[byte] = chr(byte) if token < len(printable) else chr(256 + token - len(printable))
    return symbols, ids


def _read_merges(merges: str | os.PathLike[str] | bytes) -> dict[str, int]:
    """Rank of each pair, keyed `left right` as the file writes it."""
    name = "the CLIP merges" if isinstance(merges, bytes) else f"CLIP merges file {os.fspath(merges)}"
    try:
        data = merges if isinstance(merges, bytes) else Path(merges).read_bytes()
        header, *lines = data.decode("utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise IntegrityError(f"{name} cannot be read ({error.strerror}): build or pull the bundle again") from error
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{name} is no UTF-8 text ({error}): build or pull the bundle again") from error
    ranks = dict(zip(lines, range(len(lines)), strict=True))
    if not header.startswith("#version") or len(ranks) != MERGES or data.count(b" ") != MERGES + 1:
        raise IntegrityError(
            f"{name} must be a #version line and {MERGES} different lines of two symbols, found {len(lines)} lines: "
            "build or pull the bundle again"
        )
    return ranks
