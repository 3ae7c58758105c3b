"""The page: what the figures, tables and pictures of a report are, and the HTML that shows them."""

import platform
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import torch

from densekit.console import Screen
from densekit.data.picture_set import before_pictures
from densekit.evaluation.calibration import calibration_error, confidence_bins
from densekit.evaluation.evaluate import Evaluation
from densekit.evaluation.metrics import Metrics
from densekit.evaluation.multilabel import MultilabelMetrics
from densekit.report.charts import PLOT, reliability_bars, share_ticks, training_curves
from densekit.report.confusion import Cell, confusion_cells, most_confused, places_behind
from densekit.report.costs import count_costs
from densekit.report.label_errors import find_label_errors
from densekit.report.labels import wrong_labels
from densekit.report.pictures import LARGE, SMALL, add_heat_maps, least_certain, show_pictures, worst_mistakes
from densekit.report.texts import FILTERS
from densekit.runtimes.exported import ExportedNetwork
from densekit.training.history import MEAN_PRECISION, drawn
from densekit.training.run_folder import RunFolder
from densekit.training.settings import read_settings
from densekit.version import __version__

MOST_CLASSES = 40  # in the matrix: those with the most mistakes
MOST_CONFUSIONS = 12  # in the list beside it
MOST_A_CELL, MOST_BEHIND = 6, 400  # pictures behind one cell, and behind all
MOST_HIGHLIGHTS, MOST_SUSPECTS = 12, 24
MOST_SKIPPED = 50


def render_page(evaluation: Evaluation, run: RunFolder, screen: Screen) -> str:
    """Return the report of an evaluation as one HTML page that needs nothing else.

    Args:
        evaluation: of the run's classifier.
        run: says how it was trained, where it still does.
        screen: where progress goes.

    Raises:
        CheckpointError: a file of the run cannot be read.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("densekit.report"),
        autoescape=True,  # the names of classes and files may hold anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(FILTERS)
    environment.globals |= {"plot": PLOT, "before_pictures": before_pictures}
    if isinstance(evaluation.metrics, MultilabelMetrics):
        template, one, kind, answers = "several_labels.html", "label", "labels", wrong_labels(evaluation, screen)
    else:
        template, one, kind = "one_class.html", "class", "classes"
        answers = _pictures(evaluation, evaluation.metrics, screen)
    page = environment.get_template(template).render(
        run=run.path.resolve().name,
        written=datetime.now().astimezone(),
        metrics=evaluation.metrics,
        trained=evaluation.classifier.record.get("trained", {}),
        classes=evaluation.classifier.classes,
        one=one,
        kind=kind,
        **answers,
        **_calibration(evaluation),
        **_data(evaluation, run),
        **_training(evaluation, run),
    )
    return page.encode(errors="backslashreplace").decode()  # a file's name need not be valid text


def _pictures(evaluation: Evaluation, metrics: Metrics, screen: Screen) -> dict[str, Any]:
    """Everything that shows pictures: confusion, mistakes, doubts, suspected labels."""
    outcomes, confusion = evaluation.outcomes, metrics.confusion
    probabilities = outcomes.logits.double().softmax(1)
    cells, classes = confusion_cells(confusion), most_confused(confusion, MOST_CLASSES)
    confusions = [cell for cell in cells if cell.true != cell.predicted][:MOST_CONFUSIONS]
    in_matrix = [cell for cell in cells if cell.true in classes and cell.predicted in classes]
    shown = list(dict.fromkeys(confusions + in_matrix))
    behind = places_behind(shown, probabilities, outcomes.labels, most_a_cell=MOST_A_CELL, most=MOST_BEHIND)
    mistakes = worst_mistakes(probabilities, outcomes.labels, MOST_HIGHLIGHTS)
    doubts = least_certain(probabilities, outcomes.labels, MOST_HIGHLIGHTS)
    learned = metrics.split == "train"
    suspects = [] if learned else find_label_errors(probabilities, outcomes.labels)
    small = [place for places in behind.values() for place in places] + suspects[:MOST_SUSPECTS]
    copies = show_pictures(evaluation, small, side=SMALL, screen=screen)
    large = show_pictures(evaluation, mistakes + doubts, side=LARGE, screen=screen)
    if not isinstance(evaluation.classifier.network, ExportedNetwork):
        answers = outcomes.logits[list(large)].argmax(1)
        large = add_heat_maps(evaluation, large, answers, side=LARGE, screen=screen)
    return {
        "matrix_classes": classes,
        "cells": {(cell.true, cell.predicted): cell for cell in cells},
        "confusions": confusions,
        "taken_for": _taken_for(cells),
        "behind": {cell: [copies[place] for place in places] for cell, places in behind.items()},
        "mistakes": [large[place] for place in mistakes],
        "doubts": [large[place] for place in doubts],
        "learned": learned,
        "suspect_count": len(suspects),
        "suspects": [copies[place] for place in suspects[:MOST_SUSPECTS]],
    }


def _taken_for(cells: Sequence[Cell]) -> dict[int, Cell]:
    """The most frequent mistake on each class that has one."""
    worst: dict[int, Cell] = {}
    for cell in cells:
        if cell.true != cell.predicted:
            worst.setdefault(cell.true, cell)
    return worst


def _calibration(evaluation: Evaluation) -> dict[str, Any]:
    temperature, outcomes = evaluation.classifier.temperature, evaluation.outcomes
    diagrams = [("as the network gives them", outcomes.logits * temperature)] if temperature != 1 else []
    diagrams.append(("as densekit answers", outcomes.logits))
    along, up = share_ticks()
    bins = [(title, confidence_bins(logits, outcomes.labels)) for title, logits in diagrams]
    return {
        "temperature": temperature,
        "reliability": [(title, calibration_error(b), reliability_bars(b), b) for title, b in bins],
        "along": along,
        "up": up,
    }


def _data(evaluation: Evaluation, run: RunFolder) -> dict[str, Any]:
    """Pictures of each class in each split, and the files left out."""
    dataset, count = evaluation.dataset, len(evaluation.classifier.classes)
    splits = (dataset.train, dataset.val, dataset.test) if dataset else (evaluation.pictures,)
    balance = {part.split: part.counts(count).tolist() for part in splits if part is not None}
    skipped = [*dataset.skipped, *run.read_skipped()] if dataset else evaluation.pictures.skipped
    skipped = dict.fromkeys([*skipped, *evaluation.outcomes.unreadable])
    return {
        "balance": balance,
        "most_of_a_class": max(1, *(max(counts) for counts in balance.values())),
        "skipped": list(skipped)[:MOST_SKIPPED],
        "skipped_count": len(skipped),
    }


def _training(evaluation: Evaluation, run: RunFolder) -> dict[str, Any]:
    """Curves, costs, settings and versions."""
    history, trained = run.read_history(), evaluation.classifier.record.get("trained", {})
    settings = read_settings(run.settings).model_dump(mode="json") if run.settings.exists() else {}
    exported = isinstance(evaluation.classifier.network, ExportedNetwork)  # a runtime's file, which cannot be counted
    return {
        "history": history,
        "ranked": any(MEAN_PRECISION in row for row in history),
        "curves": [training_curves(history, kind, trained.get("epoch")) for kind in drawn(history)],
        "costs": None if exported else count_costs(evaluation.classifier, history),
        "settings": settings,
        "versions": {
            "trained with": {name: trained[name] for name in ("densekit", "torch") if name in trained},
            "reported with": {"densekit": __version__, "torch": torch.__version__, "Python": platform.python_version()},
        },
    }
