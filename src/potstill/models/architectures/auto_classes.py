"""Registration of Potstill's own model types with transformers' Auto classes, in whichever order both packages are imported.

Importing transformers takes seconds, so `import potstill` does not do it: where transformers is not there yet, its tables of
configurations and of models are watched for, and filled right after they are imported.
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

_MODELS = "transformers.models.auto.modeling_auto"
_TABLES = {  # table of transformers → what of `models/architectures/registration.py` fills it
    "transformers.models.auto.configuration_auto": "register_configs",
    _MODELS: "register",
}


def announce() -> None:
    """Register the types in the tables that are loaded, and in the others as soon as they are."""
    for table in _TABLES:
        if table in sys.modules and not getattr(sys.modules[table].__spec__, "_initializing", False):
            _fill(table)
    watched = {finder.table for finder in sys.meta_path if isinstance(finder, _Watcher)}
    for table in _TABLES.keys() - sys.modules.keys() - watched:
        sys.meta_path.insert(0, _Watcher(table))


def _fill(table: str) -> None:
    """Fill a table; not while the models are themselves being imported, whose last line announces them."""
    models = sys.modules.get("potstill.models.architectures.coded")
    if table == _MODELS and models is not None and not hasattr(models, "CodedForQuestionAnswering"):
        return
    getattr(importlib.import_module("potstill.models.architectures.registration"), _TABLES[table])()


class _Watcher:  # a MetaPathFinder by its shape: importing importlib.abc costs as much as the rest of this package
    """Finds nothing itself: it lets the usual finders find one table, which is filled after it is executed."""

    def __init__(self, table: str) -> None:
        self.table = table

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """The usual spec of the table, whose loader fills it afterwards; None for every other module."""
        if name != self.table:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        loader: Any = None if spec is None else spec.loader
        if loader is not None:
            execute = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _fill(name)

            loader.exec_module = exec_module
        return spec
