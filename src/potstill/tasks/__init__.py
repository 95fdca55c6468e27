"""Tasks: which there are, and which one a model and its data call for."""

from potstill.tasks.inference import answers_of, infer
from potstill.tasks.table import TASKS, build, of_several, plain_tasks

__all__ = ["TASKS", "answers_of", "build", "infer", "of_several", "plain_tasks"]
