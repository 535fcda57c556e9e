"""Small encoders with seeded weights, and their references, for the tests of Core ML conversion."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from tests.coreml_packages import tiny_bert

DIMENSION = 32
VOCABULARY = 100


def sentence_model(folder: Path, pooling: str = "mean", normalized: bool = True) -> Any:
    """A sentence-transformers model of two layers, 64 positions and 100 words."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import PreTrainedTokenizerFast

    from modelbake.export.sample_tokenizer import character_wordpiece

    inner = folder / "inner"
    tiny_bert().save_pretrained(inner)
    PreTrainedTokenizerFast(tokenizer_object=character_wordpiece(), pad_token="[PAD]").save_pretrained(inner)
    parts: list[Any] = [Transformer(str(inner), max_seq_length=64), Pooling(DIMENSION, pooling_mode=pooling)]
    if normalized:
        parts.append(Normalize())
    return SentenceTransformer(modules=parts, device="cpu").eval()


def text(length: int, tokens: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """int32 ids and mask [1, length] of so many tokens."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, VOCABULARY, (1, length), generator=generator, dtype=torch.int32)
    mask = (torch.arange(length) < tokens).to(torch.int32)[None]
    return ids * mask, mask


def clip(image: str = "vit") -> Any:
    """An open_clip model of 16 numbers: a ViT or a ResNet beside two layers of text."""
    import open_clip

    torch.manual_seed(11)
    vision = {"image_size": 32, "layers": (1, 1, 1, 1), "width": 8, "patch_size": None}
    if image == "vit":
        vision = {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 16}
    words = {"context_length": 12, "vocab_size": VOCABULARY, "width": 32, "heads": 4, "layers": 2}
    model = open_clip.model.CLIP(16, vision, words, quick_gelu=image == "resnet").eval()
    for parameter in model.parameters():
        # Nothing is left at 0 or 1, beside which a layer could be lost unseen.
        parameter.data += 0.05 * torch.randn_like(parameter)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer += 0.1 * torch.randn_like(buffer)
    return model
