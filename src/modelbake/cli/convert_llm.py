"""scripts/coreml/convert_llm.py: there is no such conversion yet, and the command says so."""

from __future__ import annotations

import click

from modelbake.errors import UsageError


@click.command(
    "convert_llm.py", context_settings={"help_option_names": ["-h", "--help"], "ignore_unknown_options": True}
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> None:
    """Not there yet: language models as Core ML packages come later (exit 2)."""
    raise UsageError(
        "The conversion of language models to Core ML comes later; nothing was done. "
        "convert_embedding.py converts embedding models today."
    )
