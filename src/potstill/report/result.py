"""What a run gives back: its figures, shown as the summary table, with the paths of what lies in the output folder."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import PrivateAttr

from potstill.ground.tables import nearest
from potstill.report import headline, numbers
from potstill.report.metrics import Metrics, ModelFigures
from potstill.report.table import summary_table

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

WIDTH = 100  # of the table in a notebook, in characters


class Result(Metrics):
    """The figures of a run and where its files are; `Metrics` lists the figures.

    Example:
        >>> result = Result(task="text-classification", metric="accuracy", models={"student": {"quality": {"accuracy": 0.9}}})
        >>> result.student.quality["accuracy"]
        0.9
    """

    _folder: Path = PrivateAttr(default_factory=Path)

    @classmethod
    def of_folder(cls, folder: str | Path) -> Result:
        """The result of a finished run.

        Raises:
            OutputError: There is none.
        """
        result = cls.read(Path(folder) / "report" / "metrics.json")
        assert isinstance(result, Result)
        result._folder = Path(folder)
        return result

    @property
    def student(self) -> ModelFigures:
        """The figures of the student as it was trained; `models` has those of every model, `served` names the one to serve."""
        return self.models["student"]

    @property
    def paths(self) -> Mapping[str, Path]:
        """What lies in the output folder: output, report, metrics, recipe, card, student, and every exported file by its name."""
        known = {
            "output": ".",
            "report": "report/index.html",
            "metrics": "report/metrics.json",
            "recipe": "recipe.yaml",
            "card": "README.md",
            "student": "student",
        }
        return _Named({name: self._folder / place for name, place in {**known, **self.files}.items()})

    def summary(self) -> str:
        """The table that the command line prints, as text."""
        console = _console()
        console.print(summary_table(self))
        return "\n".join(line.rstrip() for line in console.export_text().strip("\n").splitlines())

    def push_to_hub(self, repo_id: str, *, private: bool = False, token: str | None = None) -> str:
        """Upload student, exports and card; returns the address of the commit. See `report.publish.push_to_hub`."""
        from potstill.report.publish import push_to_hub

        return push_to_hub(self._folder, repo_id, private=private, token=token)

    def to_frame(self) -> pd.DataFrame:
        """A `pandas.DataFrame` with a row for each model: quality, share of the teacher's kept, parameters, bytes, median times.

        Times are milliseconds of one row, a column for each runtime.
        """
        import pandas as pd

        rows: dict[str, dict[str, Any]] = {}
        for name, model in self.models.items():
            times = {f"p50_ms {runtime}": sizes["1"].p50 for runtime, sizes in model.latency_ms.items() if "1" in sizes}
            counted = {"retention": headline.retention_of(self, name), "parameters": model.parameters, "bytes": model.bytes}
            rows[name] = {**model.quality, **counted, **times}
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("model")

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)  # type: ignore[misc]
        except AttributeError as err:
            if name.startswith("_"):
                raise
            known = [*type(self).model_fields, "student", "paths", "summary", "to_frame", *self.models]
            guess = nearest(name, known)
            place = f"models[{guess!r}]" if guess in self.models and guess != "student" else guess
            hint = f"; did you mean {place!r}?" if guess else f"; it has {', '.join(known[:12])} …"
            raise AttributeError(f"a result has no {name!r}{hint}") from err

    def __repr__(self) -> str:
        quality = headline.shown_quality(self, "student") if "student" in self.models else "not measured"
        removed = "" if self.ratio.achieved is None else f", {numbers.percent(self.ratio.achieved)} of the parameters removed"
        kept = "" if self.retention is None else f" ({numbers.percent(self.retention)} kept)"
        return f"<Result of {self.task}: {self.metric} {quality}{kept}{removed}; {self.paths['report']}>"

    __str__ = __repr__

    def _repr_html_(self) -> str:
        """The summary table, for a notebook."""
        console = _console()
        console.print(summary_table(self))
        return console.export_html(inline_styles=True, code_format='<pre style="line-height:normal">{code}</pre>')


class _Named(dict[str, Path]):
    """Paths by name; a name that is not there gets the nearest one suggested."""

    def __missing__(self, name: str) -> Path:
        guess = nearest(name, self)
        raise KeyError(f"{name!r}; " + (f"did you mean {guess!r}?" if guess else f"there is {_listed(self)}"))


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names)


def _console() -> Console:
    from rich.console import Console

    return Console(record=True, file=io.StringIO(), width=WIDTH, force_jupyter=False)
