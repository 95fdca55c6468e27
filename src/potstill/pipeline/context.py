"""What the stages of one run share: the recipe, the output folder, and the results that lie there."""

from __future__ import annotations

import json
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from potstill.data.encoded import EncodedRows
from potstill.data.splits import Splits
from potstill.disk import fingerprint, read_json
from potstill.errors import ModelError
from potstill.recipe import Recipe
from potstill.tasks import build as build_task
from potstill.tasks.contract import Task

if TYPE_CHECKING:
    from potstill.pipeline.observer import Observer
    from potstill.pipeline.stage import StageResult
    from potstill.teacher.load import LoadedTeacher
