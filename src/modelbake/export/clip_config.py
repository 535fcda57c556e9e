"""Which of open_clip's models can be exported: its configuration, and what its table of weights says of them."""

from __future__ import annotations

from typing import Any

from modelbake.bundle import Bundle, ClipModel
from modelbake.errors import UsageError
from modelbake.export._torchvision import declare_missing_ops

# open_clip's settings and the values of them, absence included, that the towers and the runtime's tokenizer are made for.
_SUPPORTED: dict[str, dict[str, tuple[Any, ...]]] = {
    "text_cfg": {
        "hf_model_name": (None,),
        "hf_tokenizer_name": (None,),
        "tokenizer_kwargs": (None,),
        "tokenizer_mode": (None,),
        "vocab_size": (None, 49408),
        "embed_cls": (None, False),
        "no_causal_mask": (None, False),
        "pool_type": (None, "argmax"),
        "block_type": (None, "default"),
        "proj_type": (None, "linear"),
    },
    "vision_cfg": {
        "attentional_pool": (None, False),
        "pool_type": (None, "tok", "avg"),
        "block_type": (None, "default"),
        "output_tokens": (None, False),
    },
}
_CUSTOM_BLOCKS = ("qk_norm", "scaled_cosine_attn", "scale_heads", "scale_attn_inner", "scale_attn", "scale_fc")


def check(bundle: Bundle) -> ClipModel:
    """The bundle's model, when open_clip knows its architecture and weights and this exporter can export it.

    UsageError, in one message with every reason, where not.
    """
    assert isinstance(bundle.model, ClipModel)
    spec = bundle.model
    declare_missing_ops()
    import open_clip

    if spec.architecture not in open_clip.list_models():
        raise UsageError(
            f"{bundle.name}: open_clip has no architecture {spec.architecture!r}; open_clip.list_models() gives their names."
        )
    config = open_clip.get_model_config(spec.architecture)
    reasons = ["it has a multimodal_cfg"] if config.get("multimodal_cfg") else []
    for section, fields in _SUPPORTED.items():
        found = config[section]
        wanted = fields | dict.fromkeys(_CUSTOM_BLOCKS, (None, False))
        reasons += [
            f"{section}.{name} is {found[name]!r}"
            for name, values in wanted.items()
            if name in found and found[name] not in values
        ]
    if reasons:
        raise UsageError(
            f"{bundle.name}: {spec.architecture} cannot be exported: {', '.join(reasons)}. What can: CLIP's own text encoder (causal, "
            "read at its end of text, CLIP's tokenizer) beside a ViT that is read at its class token or averaged, a ResNet, or a timm "
            "model; not SigLIP, CoCa or text encoders of transformers."
        )
    if spec.pretrained is not None:
        entry = open_clip.get_pretrained_cfg(spec.architecture, spec.pretrained)
        if not entry:
            known = ", ".join(open_clip.list_pretrained_tags_by_model(spec.architecture)) or "none"
            raise UsageError(
                f"{bundle.name}: open_clip knows no weights {spec.pretrained!r} of {spec.architecture}; it knows: {known}."
            )
        if entry.get("quick_gelu", False) and not config.get("quick_gelu", False):
            raise UsageError(
                f"{bundle.name}: the weights {spec.pretrained!r} were trained with QuickGELU; take the architecture "
                f"{spec.architecture}-quickgelu."
            )
    return spec


def preprocessing(spec: ClipModel) -> dict[str, Any]:
    """What open_clip's table says of image preprocessing for the weights that the bundle names: open_clip's force_preprocess_cfg."""
    if spec.pretrained is None:
        return {}
    import open_clip

    entry = open_clip.get_pretrained_cfg(spec.architecture, spec.pretrained)
    return {name: entry[name] for name in ("mean", "std", "interpolation", "resize_mode") if name in entry}
