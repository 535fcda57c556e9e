"""modelbake: pinned model weights in; verified, offline-ready bundles and images out."""

__version__ = "0.1.0"
