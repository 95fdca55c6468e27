"""Holding back what quantizers and optimizers of other projects print and log while they work."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Hold back progress bars, warnings and log records below ERROR while the block runs; exceptions pass.

    NNCF raises the level of the root logger's handlers, the caller's too; afterwards they are as they were.
    """
    disabled, root_level = logging.root.manager.disable, logging.root.level
    levels = [(handler, handler.level) for handler in logging.root.handlers]
    logging.disable(max(disabled, logging.WARNING))
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        logging.root.setLevel(root_level)
        for handler, level in levels:
            handler.setLevel(level)
