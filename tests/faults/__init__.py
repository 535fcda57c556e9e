"""Faults injected into whole commands: what is left behind, and what the next run makes of it. See README.md."""
