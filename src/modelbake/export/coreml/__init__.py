"""Core ML packages made on Linux: encoders to trace, conversion, the package's files, smaller variants of it."""
