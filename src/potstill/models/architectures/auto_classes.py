"""Registration of Potstill's own model types with transformers' Auto classes, in whichever order both packages are imported.

Importing transformers takes seconds, so `import potstill` does not do it: where transformers is not there yet, its table of
configurations is watched for, and filled right after it is imported. Models follow with the first configuration that is made
(`configuration.StudentConfig`): their layers import transformers' own, which may be half imported while its tables are.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec

_TABLE = "transformers.models.auto.configuration_auto"


def announce() -> None:
    """Register the configurations where their table is loaded, else as soon as it is."""
    if _TABLE in sys.modules and not getattr(sys.modules[_TABLE].__spec__, "_initializing", False):
        _fill()
    elif _TABLE not in sys.modules and not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


def _fill() -> None:
    importlib.import_module("potstill.models.architectures.registration").register_configs()


class _Watcher:  # a MetaPathFinder by its shape: importing importlib.abc costs as much as the rest of this package
    """Finds nothing itself: it lets the usual finders find the table, which is filled after it is executed."""

    is_asking = False

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The usual spec of the table, whose loader fills it afterwards; None for every other module."""
        if name != _TABLE or self.is_asking:
            return None
        self.is_asking = True
        try:
            spec = importlib.util.find_spec(name)
        finally:
            self.is_asking = False
        loader: Any = None if spec is None else spec.loader
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _fill()

            loader.exec_module = exec_module
        return spec
