"""Several finished runs side by side: figures, paired differences, settings that differ; as a table and as one page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jinja2
from markupsafe import Markup

from potstill.report import numbers
from potstill.report.words import Said, check_language, same

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class ComparedRun:
    """What is compared of a run.

    Args:
        name: Its folder as the user gave it.
        served_as: Runtime and precision that answered the rows.
        value: The metric on the test rows.
        quality: All measures.
        p50_ms: Median time of one row in the fastest runtime of that model, as the run measured it.
    """

    name: str
    served_as: str
    value: float
    quality: Mapping[str, float]
    parameters: int | None
    bytes: int | None
    p50_ms: float | None
    runtime: str | None


@dataclass(frozen=True)
class Difference:
    """How much further a run is than the first one.

    Args:
        value: The metric of `run` less that of the first run.
        low: Lower end of the 95 % interval; None where the metric has none.
    """

    run: str
    than: str
    value: float
    low: float | None = None
    high: float | None = None

    @property
    def verdict(self) -> str:
        """``"better"`` or ``"worse"`` where the interval leaves out 0; else ``"open"``."""
        if self.low is None or self.high is None or self.low <= 0 <= self.high:
            return "open"
        return "better" if self.low > 0 else "worse"


@dataclass(frozen=True)
class Comparison:
    """Runs of one task.

    Args:
        rows: Test rows that all runs answered; None where each has its own.
        settings: Recipe key → the value in each run, for keys that differ.
    """

    task: str
    metric: str
    rows: int | None
    paired: bool
    runs: tuple[ComparedRun, ...]
    differences: tuple[Difference, ...]
    settings: Mapping[str, tuple[Any, ...]]
    notes: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain values."""
        found = asdict(self)
        for one, difference in zip(found["differences"], self.differences, strict=True):
            one["verdict"] = difference.verdict
        return found

    def as_tables(self) -> list[Table]:
        """The runs with their differences from the first, and the settings that differ, for the terminal."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        rows = "each on its own test rows" if self.rows is None else f"{self.rows} test rows"
        title = f"{self.task}, {rows}; differences from the first with 95 % intervals"
        table = Table(box=SIMPLE_HEAD, title=title, caption="\n".join(self.notes), caption_justify="left", padding=(0, 1))
        table.add_column("run", overflow="fold")
        for name in (self.metric, "difference", "on disk", "p50 ms"):
            table.add_column(name, justify="right", no_wrap=True)
        for number, run in enumerate(self.runs):
            own = shown_difference(self.metric, self.differences[number - 1]) if number else ""
            size, speed = numbers.size(run.bytes), numbers.significant(run.p50_ms)
            table.add_row(f"{run.name}\n  {run.served_as}", numbers.quality(self.metric, run.value), own, size, speed)
        if not self.settings:
            return [table]
        settings = Table(box=SIMPLE_HEAD, title="settings that differ", padding=(0, 1))
        for name in ("key", *(run.name for run in self.runs)):
            settings.add_column(name, overflow="fold")
        for key, values in self.settings.items():
            settings.add_row(key, *map(str, values))
        return [table, settings]


VERDICTS = {
    "better": Said("better", "更好"),
    "worse": Said("worse", "更差"),
    "open": Said("no difference shown", "未显示差异"),
}
WORDS = {
    "title": Said("Comparison of runs", "运行对比"),
    "switch": Said("中文", "English"),
    "runs": Said("Runs", "各次运行"),
    "run": Said("run", "运行"),
    "difference": Said("difference from the first, 95 % interval", "与第一个运行的差（95 % 区间）"),
    "parameters": Said("parameters", "参数量"),
    "bytes": Said("on disk", "文件大小"),
    "p50": Said("p50, batch 1", "p50，批量 1"),
    "served": Said("served as", "部署形式"),
    "settings": Said("Settings that differ", "不同的设置"),
    "no_settings": Said("All settings are the same.", "所有设置都相同。"),
    "key": Said("key", "键"),
    "paired": Said(
        "All runs answered the same {rows} test rows. Differences are paired: every draw of rows is the same for all runs."
        " Where the interval holds 0, the rows show no difference.",
        "所有运行回答了相同的 {rows} 条测试数据。差值是配对的：每次抽样对所有运行取相同的行。区间包含 0 时，数据未显示差异。",
    ),
    "unpaired": Said(
        "Differences are not paired: each run was measured on its own test rows, and drawn by itself.",
        "差值未配对：每个运行在各自的测试数据上评测，并分别抽样。",
    ),
    "speed": Said(
        "Times are those of each run's own report: medians of one row in the fastest runtime of that model.",
        "时间取自各运行自己的报告：该模型最快运行时处理一行的中位数。",
    ),
    "notes": Said("Notes", "说明"),
}


def shown_difference(metric: str, one: Difference) -> str:
    """A difference with its interval; points of per cent where the metric is a share."""
    text = numbers.signed(metric, one.value)
    if one.low is None or one.high is None:
        return text
    return f"{text} [{numbers.signed(metric, one.low)}, {numbers.signed(metric, one.high)}]"


def comparison_page(found: Comparison, *, lang: str = "en") -> str:
    """One self-contained page in the style of the report, in English and Chinese.

    Raises:
        RecipeError: No such language.
    """
    here = Path(__file__).parent
    environment = jinja2.Environment(loader=jinja2.FileSystemLoader(here), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.globals.update(numbers=numbers, words=WORDS, verdicts=VERDICTS, same=same, shown_difference=shown_difference)
    said = WORDS["paired" if found.paired else "unpaired"]
    about = Said(*(text.format(rows=found.rows) for text in said))
    style = Markup((here / "page.css").read_text("utf-8"))
    template = environment.get_template("comparison.html.j2")
    return template.render(found=found, lang=check_language(lang), style=style, about=about)
