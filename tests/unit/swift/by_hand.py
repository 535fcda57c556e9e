"""wordpiece.swift once more in Python, statement by statement, to hold its rules against the tokenizers package."""

from __future__ import annotations

import unicodedata

from modelbake.swift.tokenizer import WordPiece

Vocabulary = dict[bytes, int]


def encode(text: str, facts: WordPiece, vocabulary: Vocabulary, most_tokens: int) -> list[int]:
    ids: list[int] = []
    plain = b""
    data = text.encode()
    index = 0
    while index < len(data):
        found = next((pair for pair in facts.special if data.startswith(pair[0].encode(), index)), None)
        if found:
            ids += _words(plain, facts, vocabulary)
            plain = b""
            ids.append(found[1])
            index += len(found[0].encode())
        else:
            plain += data[index : index + 1]
            index += 1
    ids += _words(plain, facts, vocabulary)
    room = most_tokens - len(facts.before) - len(facts.after)
    return [*facts.before, *ids[:room], *facts.after]


def _words(plain: bytes, facts: WordPiece, vocabulary: Vocabulary) -> list[int]:
    ids: list[int] = []
    word = ""
    for scalar in _normalized(plain.decode(), facts):
        if scalar.isspace() and scalar not in "\x1c\x1d\x1e\x1f":
            ids += _tokens(word, facts, vocabulary)
            word = ""
        elif _is_punctuation(scalar):
            ids += _tokens(word, facts, vocabulary) + _tokens(scalar, facts, vocabulary)
            word = ""
        else:
            word += scalar
    return ids + _tokens(word, facts, vocabulary)


def _tokens(word: str, facts: WordPiece, vocabulary: Vocabulary) -> list[int]:
    if not word:
        return []
    if len(word) > facts.longest_word:
        return [facts.unknown]
    ids: list[int] = []
    start = 0
    while start < len(word):
        end = len(word)
        number = None
        while end > start:
            piece = word[start:end].encode()
            number = vocabulary.get(facts.continuation.encode() + piece if start > 0 else piece)
            if number is not None:
                break
            end -= 1
        if number is None:
            return [facts.unknown]
        ids.append(number)
        start = end
    return ids


def _normalized(text: str, facts: WordPiece) -> str:
    scalars = ""
    for original in text:
        scalar = original
        if facts.clean_text:
            if ord(original) in (0, 0xFFFD) or _is_control(original):
                continue
            scalar = " " if original.isspace() else original
        if facts.chinese and _is_ideograph(scalar):
            scalars += f" {scalar} "
            continue
        scalars += scalar
    if facts.strip_accents:
        scalars = "".join(s for s in unicodedata.normalize("NFD", scalars) if unicodedata.category(s) != "Mn")
    if facts.lowercase:
        scalars = "".join(s.lower() for s in scalars)
    return scalars


def _is_control(scalar: str) -> bool:
    return scalar not in "\t\n\r" and unicodedata.category(scalar) in ("Cc", "Cf", "Co")


def _is_punctuation(scalar: str) -> bool:
    value = ord(scalar)
    ascii_one = any(low <= value <= high for low, high in ((33, 47), (58, 64), (91, 96), (123, 126)))
    return ascii_one or unicodedata.category(scalar).startswith("P")


def _is_ideograph(scalar: str) -> bool:
    ranges = (
        (0x4E00, 0x9FFF),
        (0x3400, 0x4DBF),
        (0x20000, 0x2A6DF),
        (0x2A700, 0x2B73F),
        (0x2B740, 0x2B81F),
        (0x2B920, 0x2CEAF),
        (0xF900, 0xFAFF),
        (0x2F800, 0x2FA1F),
    )
    return any(low <= ord(scalar) <= high for low, high in ranges)
