"""The command line: reads arguments into a recipe, runs the pipeline, prints the result."""

from potstill.cli.application import app, main

__all__ = ["app", "main"]
