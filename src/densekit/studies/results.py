"""The figures of a study: one line for each run, and what they amount to for each variant."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

from pydantic import BaseModel, ConfigDict, ValidationError
from rich.table import Table
from rich.text import Text

from densekit.errors import CheckpointError
from densekit.files import write_csv
from densekit.units import short


class Result(BaseModel):
    """One finished run, a line of results.csv."""

    model_config = ConfigDict(frozen=True)

    variant: str
    seed: int
    run: str  # folder, relative to the study's
    parameters: int
    macs: int  # multiply-adds a picture
    epochs: int | None = None  # trained
    kept_epoch: int | None = None
    seconds: float | None = None  # of training, without validation
    measure: str = "accuracy"  # what the scores are, see `densekit.training.history`
    val_score: float | None = None  # of the kept epoch
    val_loss: float | None = None
    test_score: float | None = None
    error: str | None = None  # why there are no figures


class Spread(BaseModel):
    """Mean and standard deviation (of the sample) over the seeds.

    >>> print(Spread.of([0.5, 0.6]))
    55.0% ± 7.1
    """

    model_config = ConfigDict(frozen=True)

    mean: float
    deviation: float | None  # of a single value there is none

    @classmethod
    def of(cls, values: Iterable[float | None]) -> "Spread | None":
        """Summarise the values that there are."""
        known = [value for value in values if value is not None]
        return cls(mean=fmean(known), deviation=stdev(known) if len(known) > 1 else None) if known else None

    def __str__(self):
        return f"{self.mean:.1%}" + ("" if self.deviation is None else f" ± {100 * self.deviation:.1f}")


@dataclass(frozen=True)
class Summary:
    """What the runs of one variant amount to."""

    variant: str
    results: tuple[Result, ...]
    val_score: Spread | None
    test_score: Spread | None
    seconds: Spread | None

    @property
    def parameters(self) -> int:
        """Number of parameters of its network."""
        return self.results[0].parameters

    @property
    def macs(self) -> int:
        """Multiply-adds of one picture."""
        return self.results[0].macs


def summarise(results: Iterable[Result], variants: Iterable[str]) -> list[Summary]:
    """Summarise the runs of each variant, in the order of ``variants``; one without any run is left out.

    Results of other variants, which a plan had once, do not count.
    """
    grouped: dict[str, list[Result]] = {variant: [] for variant in variants}
    for result in results:
        if result.variant in grouped:
            grouped[result.variant].append(result)
    return [
        Summary(
            variant,
            tuple(runs),
            Spread.of(run.val_score for run in runs),
            Spread.of(run.test_score for run in runs),
            Spread.of(run.seconds for run in runs),
        )
        for variant, runs in grouped.items()
        if runs
    ]


def measure_of(summaries: Iterable[Summary]) -> str:
    """Return what the scores of a study are, see `densekit.training.history`."""
    results = (result for summary in summaries for result in summary.results)
    return next((result.measure for result in results if not result.error), "accuracy")


def best_variants(summaries: Iterable[Summary]) -> list[Summary]:
    """Return the variants with the highest mean validation score, more than one where they tie; none without any score.

    The test split has no say. Variants of which a run failed come after all others: their mean is that of the lucky
    seeds.
    """
    judged = [(summary.val_score.mean, summary) for summary in summaries if summary.val_score is not None]
    judged = [(mean, summary) for mean, summary in judged if not any(run.error for run in summary.results)] or judged
    highest = max((mean for mean, _ in judged), default=0.0)
    return [summary for mean, summary in judged if mean == highest]


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Write results.csv; scores are shares, times are seconds."""
    write_csv(path, Result.model_fields, (result.model_dump() for result in results))


def read_results(path: Path) -> list[Result]:
    """Read results.csv; there are none before the first run has ended.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.exists():
        return []
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [Result.model_validate({k: v or None for k, v in row.items()}) for row in csv.DictReader(file)]
    except (ValidationError, AttributeError):
        raise CheckpointError(f"{path} does not hold the results of a study") from None


def results_table(summaries: Sequence[Summary], caption: str) -> Table:
    """Return the table for a terminal: a line for each variant."""
    tested = any(summary.test_score is not None for summary in summaries)
    table = Table(caption=caption, caption_justify="left", box=None, pad_edge=False)
    table.add_column("variant", overflow="fold")
    measure = measure_of(summaries)
    for title in ("runs", f"val {measure}", *[f"test {measure}"] * tested, "parameters", "MACs", "training"):
        table.add_column(title, justify="right")
    for summary in summaries:
        failed = [result for result in summary.results if result.error]
        runs = str(len(summary.results)) + (f", {len(failed)} failed" if failed else "")
        scores = [summary.val_score, *[summary.test_score] * tested]
        table.add_row(
            Text(summary.variant),
            runs,
            *("-" if spread is None else str(spread) for spread in scores),
            f"{summary.parameters:,}",
            short(summary.macs),
            "-" if summary.seconds is None else f"{summary.seconds.mean:.0f} s",
        )
    return table
