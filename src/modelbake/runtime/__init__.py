"""What a service imports: encoders that load by manifest, with numpy, onnxruntime, tokenizers and pillow alone."""
