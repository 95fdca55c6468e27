"""What a row is: its columns, how it is read, encoded and shown, and what a model reads of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features
    from torch import Tensor


class Modality(Protocol):
    """A kind of rows.

    Attributes:
        name: What models of it read, as families of models say it: "text", "image".
        roles: The roles of its content columns in a recipe's ``data.columns``.
        column_names: Names in lower case by which its content columns are known.
        noun: What rows hold, for messages.
        processor_noun: What reads them: "a tokenizer".
        has_tokens: Whether rows are tokens of a vocabulary, with lengths that differ.
        can_augment: Whether rows can be made out of others.
        is_windowed: Whether long rows are always read in windows.
        can_turn: Whether rows can be turned by quarters.
    """

    name: str
    roles: Sequence[str]
    column_names: Sequence[str]
    noun: str
    processor_noun: str
    has_tokens: bool
    can_augment: bool
    is_windowed: bool
    can_turn: bool

    def find_content(self, features: Features, roles: Mapping[str, str], *, taken: Sequence[str] | None = None) -> dict[str, str]:
        """The roles with those of the content columns; raises DataError with the choices where it is not clear.

        Args:
            features: The features of the data set.
            roles: Role → column, as the user has fixed them.
            taken: Columns that hold labels; None for those with a usual name of labels.
        """

    def read_folder(self, folder: Path, files: Sequence[Path], *, labelled: bool) -> Dataset | None:
        """The rows of a folder that is laid out as for this modality alone; None where it is no such folder.

        Args:
            folder: The folder.
            files: The data files in it.
            labelled: Whether rows need labels.

        Raises:
            DataError: The folder holds rows of another modality.
        """

    def read(
        self,
        dataset: Dataset,
        roles: Mapping[str, str],
        split: str,
        notes: list[str],
        *,
        folder: Path | None,
        skip_corrupt: bool,
        start: int = 0,
    ) -> tuple[pa.Table, list[int] | None]:
        """The content columns in fixed form, and which rows they are of; None for all.

        Args:
            dataset: Rows.
            roles: Role → column.
            split: For messages.
            notes: Receives what there is to say.
            folder: Where paths in the rows begin.
            skip_corrupt: Whether rows that cannot be read are left out instead of refused.
            start: Rows before the first one, where the data are read in parts.
        """

    def load_processor(self, name_or_path: str, *, model_config: Any = None) -> Any:
        """The tokenizer or image processor."""

    def reading(self, processor: Any, max_tokens: int | None) -> dict[str, Any]:
        """What a program without the processor's library needs to read a row: fields of `report.metrics.Loading`."""

    def check_reads(self, name: str, config: Any, processor: Any) -> None:
        """Make sure that a model can read what a processor makes; raises ModelError."""

    def fitted(self, processor: Any, config: Any) -> Any | None:
        """The processor for a model with narrower limits; None where it serves as it is."""

    def split_long(self, dataset: Dataset, processor: Any, **options: Any) -> tuple[Dataset, str]:
        """Rows that are longer than a model's window as several rows, and a note."""

    def encode(self, dataset: Dataset, processor: Any, folder: Path, *, max_tokens: int | None = None) -> Any:
        """Rows encoded into a folder (`data.encoded.EncodedRows`), or opened where it holds the same rows already."""

    def collator(self, processor: Any) -> Callable[[list[dict[str, Any]]], dict[str, Tensor]]:
        """Makes a batch of encoded rows."""

    def see(self, rows: Any) -> None:
        """Take the size of example inputs from encoded rows."""

    def middle(self, rows: Any) -> int | None:
        """Tokens of the middle one of encoded rows; None where rows have none."""

    def example_inputs(self, model: Any, *, batch: int = 1, tokens: int | None = None) -> dict[str, Tensor]:
        """Inputs of the right names, shapes and types, for export and for counting operations."""

    def dynamic_axes(self, model: Any) -> dict[str, dict[int, str]]:
        """Input name → {axis: ``"batch"`` or ``"tokens"``}."""

    def text_of(self, row: Mapping[str, Any]) -> str:
        """A row as a person reads it."""

    def shown(self, row: Mapping[str, Any]) -> dict[str, str]:
        """A row for the report: ``text`` or ``image_png_base64``."""

    def augmented(self, rows: Dataset, *, num: int, seed: int, tokenizer: Any, embeddings: np.ndarray) -> Sequence[Any]:
        """The content of new rows, made out of others; empty where none could be made."""

    def augmented_rows(self, made: Sequence[Any], *, first_row_id: int, no_label: np.ndarray) -> Dataset:
        """New content as rows that are ready to be encoded."""

    def passes(self, *, has_maps: bool) -> tuple[float, float]:
        """Passes over the rows and peak learning rate that a student takes by default.

        Args:
            has_maps: Whether its blocks give maps and no tokens.
        """
