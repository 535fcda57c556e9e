"""Driving docker buildx bake: what the host brings in, the build itself, and the proof that its images run offline."""
