"""The entry point: finds the command, and turns every error into one message and the right exit code."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from modelbake import __version__
from modelbake.errors import ModelbakeError
from modelbake.output import ReaderGoneError, out

# Command names and their modules; each is imported only when used, so that `embed` starts without the build's packages.
COMMANDS = {
    "bake": "modelbake.cli.bake",
    "bom": "modelbake.cli.bom",
    "build": "modelbake.cli.build",
    "copy": "modelbake.cli.copy",
    "coreml": "modelbake.cli.coreml",
    "embed": "modelbake.cli.embed",
    "fetch": "modelbake.cli.fetch",
    "gc": "modelbake.cli.gc",
    "graft": "modelbake.cli.graft",
    "inspect": "modelbake.cli.inspect",
    "layers": "modelbake.cli.layers",
    "list": "modelbake.cli.list",
    "lock": "modelbake.cli.lock",
    "pack": "modelbake.cli.pack",
    "pull": "modelbake.cli.pull",
    "push": "modelbake.cli.push",
    "report": "modelbake.cli.report",
    "rerank": "modelbake.cli.rerank",
    "sign": "modelbake.cli.sign",
    "store": "modelbake.cli.store",
    "tags": "modelbake.cli.tags",
    "verify": "modelbake.cli.verify",
}

SIGINT_EXIT = 130


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
        return command


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="modelbake")
def cli() -> None:
    """Pinned model weights in; verified, offline-ready bundles and images out.

    Exit codes: 0 done, 1 a bug of ours, 2 usage, 3 unknown name, 4 source or registry unreachable, 5 digest or schema mismatch,
    6 parity gate missed, 7 machine not able, 8 refused for safety.
    """


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit the process."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None, command: click.Command = cli, name: str = "modelbake") -> int:
    """Run `command`, called `name`, on `arguments` (the process's own by default) and return the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    # The command sets these by its options; until it does, or where it never gets that far, its words must do.
    out.json, out.quiet, out.verbose = "--json" in arguments, False, False
    try:
        result: Any = command.main(arguments, prog_name=name, standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        out.info(error.format_message())
        return 2
    except click.ClickException as error:
        hint = f" Try `{error.ctx.command_path} --help`." if isinstance(error, click.UsageError) and error.ctx else ""
        out.error(f"{error.format_message()}{hint}", 2)
        return 2
    except ModelbakeError as error:
        out.error(str(error), error.exit_code)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        out.error("Interrupted; nothing half-made is left, and what was downloaded will be used again.", SIGINT_EXIT)
        return SIGINT_EXIT
    except ReaderGoneError:
        return 0
    except MemoryError:
        out.error("This machine has not enough memory for that; free some, or build one bundle at a time.", 7)
        return 7
