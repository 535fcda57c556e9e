"""Tokenizers of single characters or bytes for sample weights, since a model's real vocabulary is part of what could not be fetched."""

from __future__ import annotations

from typing import Any

_BERT_TOKENS = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
# Their ids are RoBERTa's own.
_ROBERTA_TOKENS = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}


def character_wordpiece() -> Any:
    """A tokenizers.Tokenizer as BERT's, uncased, with the printable ASCII characters for a vocabulary."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    special = list(_BERT_TOKENS.values())
    characters = [chr(code) for code in range(33, 127)]
    vocabulary = {token: index for index, token in enumerate([*special, *characters, *(f"##{c}" for c in characters)])}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    return tokenizer


def byte_bpe() -> Any:
    """A tokenizers.Tokenizer as RoBERTa's, with the 256 bytes for a vocabulary and no merges."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    special = list(_ROBERTA_TOKENS.values())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", vocabulary["</s>"]), ("<s>", vocabulary["<s>"]), add_prefix_space=False
    )
    return tokenizer


def fast_tokenizer(model_type: str, max_tokens: int) -> Any:
    """The transformers tokenizer of a bert, distilbert or roberta sample; it says itself which inputs the model takes."""
    from transformers import PreTrainedTokenizerFast

    roberta = model_type == "roberta"
    tokens = {f"{name}_token": token for name, token in (_ROBERTA_TOKENS if roberta else _BERT_TOKENS).items()}
    if roberta:
        tokens |= {"cls_token": "<s>", "sep_token": "</s>"}
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_bpe() if roberta else character_wordpiece(),
        model_max_length=max_tokens,
        model_input_names=[*inputs, "token_type_ids"] if model_type == "bert" else inputs,
        **tokens,
    )
