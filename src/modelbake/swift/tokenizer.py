"""What Swift must know of a tokenizer.json to give the same token ids: BERT's, and no other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelbake.errors import IntegrityError, UsageError


@dataclass(frozen=True)
class WordPiece:
    """A tokenizer.json of normalizer BertNormalizer, pre-tokenizer BertPreTokenizer and model WordPiece.

    `special` are the tokens that are found in the text as they stand, with their ids; `before` and `after` the ids around a text.
    """

    special: tuple[tuple[str, int], ...]
    before: tuple[int, ...]
    after: tuple[int, ...]
    unknown: int
    padding: int
    continuation: str
    longest_word: int
    clean_text: bool
    chinese: bool
    strip_accents: bool
    lowercase: bool


def read_wordpiece(path: Path) -> WordPiece:
    """The facts of the tokenizer.json at `path`.

    IntegrityError where it is none, UsageError where it does anything that the Swift code does not.
    """
    try:
        document: Any = json.loads(path.read_bytes())
        model, normalizer = document["model"], document["normalizer"]
        kinds = (normalizer["type"], document["pre_tokenizer"]["type"], model["type"])
        if kinds != ("BertNormalizer", "BertPreTokenizer", "WordPiece"):
            raise UsageError(
                f"{path} is made of {', '.join(kinds)}; Swift is written for BERT's (BertNormalizer, BertPreTokenizer, WordPiece) alone."
            )
        accents = normalizer["strip_accents"]
        before, after = _around(document["post_processor"], path)
        return WordPiece(
            special=_special(document["added_tokens"], path),
            before=before,
            after=after,
            unknown=int(model["vocab"][model["unk_token"]]),
            padding=int((document["padding"] or {"pad_id": 0})["pad_id"]),
            continuation=str(model["continuing_subword_prefix"]),
            longest_word=int(model["max_input_chars_per_word"]),
            clean_text=bool(normalizer["clean_text"]),
            chinese=bool(normalizer["handle_chinese_chars"]),
            # Left open, it goes with lower-casing.
            strip_accents=bool(normalizer["lowercase"] if accents is None else accents),
            lowercase=bool(normalizer["lowercase"]),
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise IntegrityError(f"{path} is no tokenizer.json ({error!r}); build or copy the bundle again.") from error


def _special(added: list[dict[str, Any]], path: Path) -> tuple[tuple[str, int], ...]:
    for token in added:
        if token["normalized"] or token["single_word"] or token["lstrip"] or token["rstrip"] or not token["content"]:
            raise UsageError(
                f"{path} looks for {token['content']!r} otherwise than as it stands, which the Swift code does not; tokenise in the app."
            )
    # The longest first: it is what is found where several begin at one place.
    ordered = sorted(added, key=lambda token: (-len(token["content"].encode()), token["content"]))
    return tuple((str(token["content"]), int(token["id"])) for token in ordered)


def _around(processor: dict[str, Any], path: Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if processor["type"] == "BertProcessing":
        return (int(processor["cls"][1]),), (int(processor["sep"][1]),)
    if processor["type"] != "TemplateProcessing":
        raise UsageError(
            f"{path} ends texts by {processor['type']}, which the Swift code does not know; tokenise in the app."
        )
    parts: tuple[list[int], list[int]] = ([], [])
    place = 0
    for part in processor["single"]:
        if "Sequence" in part:
            place += 1
        else:
            parts[place].extend(processor["special_tokens"][part["SpecialToken"]["id"]]["ids"])
    return tuple(parts[0]), tuple(parts[1])
