"""The table of an evaluation on a terminal."""

from rich.table import Table
from rich.text import Text

from densekit.data.picture_set import before_pictures
from densekit.evaluation.metrics import Metrics
from densekit.evaluation.multilabel import MultilabelMetrics
from densekit.units import counted, percent


def metrics_table(metrics: Metrics | MultilabelMetrics) -> Table:
    """Return the per-class table for a terminal, with the overall figures as its caption."""
    low, high = metrics.accuracy_interval_95
    accuracy = f"{metrics.accuracy:.2%} (95 % interval {low:.2%} to {high:.2%})"
    of, rest = before_pictures(metrics.split), f"loss {metrics.loss:.4f}, {metrics.pictures} pictures"
    rest += "" if metrics.groups is None else f" of {counted(metrics.groups, 'group', 'groups')}"
    columns = {"precision": "precision", "recall": "recall", "F1": "f1"}
    if isinstance(metrics, MultilabelMetrics):
        if any(row.threshold != 0.5 for row in metrics.classes):
            columns = {"threshold": "threshold", **columns}
        columns |= {"avg. precision": "average_precision", "AUROC": "auroc"}
        means = f"AUROC {percent(metrics.mean_auroc)}, F1 {percent(metrics.macro_f1)} (means of the labels)"
        caption = (
            f"{of}mean average precision {percent(metrics.mean_average_precision, 2)}, {means}, "
            f"every label right on {accuracy}, {rest}"
        )
    else:
        more = f", top-5 {metrics.top5:.2%}" if metrics.top5 is not None else ""
        more += f", AUROC {metrics.auroc:.1%}" if metrics.auroc is not None else ""
        caption = f"{of}accuracy {accuracy}{more}, {rest}"
    table = Table(caption=caption, caption_justify="left", box=None, pad_edge=False)
    table.add_column("label" if isinstance(metrics, MultilabelMetrics) else "class", overflow="fold")
    for title in ("pictures", *columns):
        table.add_column(title, justify="right")
    for row in metrics.classes:
        cells = (percent(getattr(row, name)) for name in columns.values())
        table.add_row(Text(row.name), str(row.pictures), *cells)
    return table
