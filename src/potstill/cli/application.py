"""The application: its commands in order, and the entry point, which makes errors into exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from potstill.cli.predictions import compare, export, predict
from potstill.cli.reference import doctor, losses, methods, schema
from potstill.cli.results import evaluate, push, report
from potstill.cli.runs import demo, distill, plan
from potstill.cli.start import init

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
COMMANDS = (init, distill, plan, predict, compare, export, evaluate, push, report, demo, doctor, schema, losses, methods)

app = typer.Typer(
    name="potstill",
    help="A big model and a data file in; a small, fast, measured model out.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for _command in COMMANDS:
    app.command()(_command)


@app.callback(invoke_without_command=True)
def _first(
    context: typer.Context, version: Annotated[bool, typer.Option("--version", "-V", help="Print the version.")] = False
) -> None:
    if version:
        from potstill import __version__

        typer.echo(__version__)
    elif context.invoked_subcommand is None:
        typer.echo(context.get_help())
    else:
        return
    raise typer.Exit


def main() -> None:
    """Entry point: errors become one line and exit code 2, an interruption says how to go on."""
    from potstill.errors import PotstillError
    from potstill.ground.hardware import set_thread_policy

    set_thread_policy()
    code = 0
    try:
        code = app(standalone_mode=False) or 0
    except PotstillError as error:
        if "--traceback" in sys.argv:
            raise
        typer.echo(f"error: {error}", err=True)
        sys.exit(EXIT_USER_ERROR)
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except Exception as error:
        if type(error).__module__.startswith(("click", "typer")) and hasattr(error, "format_message"):
            typer.echo(f"error: {error.format_message()}", err=True)
            sys.exit(EXIT_USER_ERROR)
        raise
    if code == EXIT_INTERRUPTED:  # typer turns Ctrl-C into this code
        typer.echo("Interrupted. What was finished is kept; run the same command again to go on from there.", err=True)
    if code:
        sys.exit(code)
