"""Locking: a definition's revisions resolved to commits and its files to digests, written into its bundle.toml."""
