"""What a service imports: encoders that load by manifest, with numpy, onnxruntime, tokenizers and pillow alone."""

from modelbake.runtime.encoder import ImageEncoder, TextEncoder

__all__ = ["ImageEncoder", "TextEncoder"]
