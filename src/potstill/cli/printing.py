"""Results on stdout: JSON or a table; and the libraries' own output, switched off."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import typer

_PROCESS = ExitStack()  # what holds until the process ends


def print_json(value: Any) -> None:
    """A value as indented JSON."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def show(as_json: bool, value: Any, make_table: Callable[[], Any]) -> None:
    """A result as JSON, or as what rich draws of it."""
    if as_json:
        print_json(value)
        return
    from rich.console import Console

    Console().print(make_table())


def quiet_libraries() -> None:
    """Progress belongs to the bars drawn here; the libraries' own are switched off for this process."""
    from potstill.ground.quiet import quieted

    _PROCESS.enter_context(quieted())
