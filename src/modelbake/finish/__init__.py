"""Core ML bundles finished on a Mac: packages compiled, their goldens replayed through Apple's runtime, and what came of it kept."""
