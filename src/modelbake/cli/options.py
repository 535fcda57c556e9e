"""Options that several commands share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any

import click

from modelbake import settings
from modelbake.errors import UsageError
from modelbake.output import out

Command = Callable[..., Any]


def speaking(function: Command) -> Command:
    """Adds --json, --quiet and --verbose, and sets up the output by them."""

    @click.option("--json", "as_json", is_flag=True, help="Give the result as JSON on standard output.")
    @click.option("--quiet", "-q", is_flag=True, help="Say nothing but the result, warnings and errors.")
    @click.option("--verbose", "-v", is_flag=True, help="Say more on what happens.")
    @wraps(function)
    def wrapper(*args: Any, as_json: bool, quiet: bool, verbose: bool, **kwargs: Any) -> Any:
        out.json, out.quiet, out.verbose = as_json, quiet, verbose
        return function(*args, **kwargs)

    return wrapper


def models_dir_option(function: Command) -> Command:
    """Adds --models-dir."""
    return click.option(
        "--models-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="The models folder [default: MODELBAKE_MODELS, else models/ of the project].",
    )(function)


def load_settings(
    models_dir: Path | None = None, weights: str | None = None, offline: bool = False, locked: bool = False
) -> settings.Settings:
    """The environment's settings, with what the command line says over them."""
    found = settings.from_environment()
    if models_dir is not None:
        found = replace(found, models_dir=models_dir)
    if weights is not None:
        found = replace(found, weights=settings.weights_policy(weights))
    if locked:
        found = replace(found, locked=True)
    if offline:
        found = replace(found, offline=True, hub_offline=True)
    return found


offline_option = click.option(
    "--offline",
    is_flag=True,
    help="Use no network: what was fetched before, the project's own files, or sample weights.",
)

weights_option = click.option(
    "--weights",
    type=click.Choice(settings.WEIGHTS_POLICIES),
    help="auto: the real ones, else sample ones; pretrained: the real ones or exit 4; sample: random ones [default: WEIGHTS, else auto].",
)

locked_option = click.option("--locked", is_flag=True, help="Refuse bundles whose bytes are not all pinned.")


def stdin_lines() -> Iterator[str]:
    """The lines of standard input without their ends, as they come; UsageError where it is no text."""
    try:
        for line in sys.stdin:
            yield line.rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise UsageError(f"Standard input is no {error.encoding} text ({error}); convert it first.") from error
