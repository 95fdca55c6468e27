"""Progress bars and remarks of the libraries below, switched off for the time of a run."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quieted() -> Iterator[None]:
    """Inside, transformers, datasets and nncf draw no bars and log errors alone; afterwards they are as they were."""
    import datasets
    from transformers.utils import logging as of_transformers

    nncf = logging.getLogger("nncf")
    verbosity, level = of_transformers.get_verbosity(), nncf.level
    had_bars, had_other_bars = of_transformers.is_progress_bar_enabled(), datasets.are_progress_bars_disabled()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        of_transformers.set_verbosity_error()
        of_transformers.disable_progress_bar()
        datasets.disable_progress_bars()
        nncf.setLevel(logging.ERROR)
        try:
            yield
        finally:
            of_transformers.set_verbosity(verbosity)
            nncf.setLevel(level)
            if had_bars:
                of_transformers.enable_progress_bar()
            if not had_other_bars:
                datasets.enable_progress_bars()
