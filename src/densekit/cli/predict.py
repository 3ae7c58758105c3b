"""densekit predict."""

import csv
import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING, Literal, TextIO

from densekit.cli.options import Device, Precision, Quiet

if TYPE_CHECKING:
    from densekit.prediction import Prediction

Format = Literal["table", "csv", "json", "jsonl"]
MANY_PICTURES = 100  # for so many it pays to compile the fused steps if that was never done here


def predict(
    run: Path,
    /,
    *images: str,
    top: int = 5,
    format: Format = "table",
    batch_size: int = 32,
    device: Device = "auto",
    precision: Precision = "fp32",
    quiet: Quiet = False,
) -> int:
    """Name what is on pictures. Exit status 2 only if none can be read.

    CSV and JSON are written while the pictures are read, so that what was answered is kept whatever happens then.

    Parameters
    ----------
    run
        Run folder, exported folder or hf-hub:OWNER/NAME.
    images
        Picture files, folders and patterns.
    top
        How many classes to name; of several labels per picture, at least all that are the answer.
    format
        Format of the answers on standard output; jsonl writes a line of JSON for each picture.
    batch_size
        Pictures per batch.
    """
    from densekit.console import Screen
    from densekit.data.find_pictures import find_pictures
    from densekit.errors import DataError
    from densekit.loading import load_classifier

    if not images:
        raise DataError("no pictures named: densekit predict RUN IMAGE... takes files, folders and patterns")
    screen = Screen(quiet=quiet)
    files, failed = find_pictures(images), 0
    many = len(files) > MANY_PICTURES
    classifier = load_classifier(run, device=device, precision=precision, fused=many, screen=screen)

    def answers() -> "Iterator[Prediction]":
        nonlocal failed
        with screen.bar("predicting", len(files)) as bar:
            for answer in classifier.predict_each(files, top=top, batch_size=batch_size):
                failed += answer.error is not None
                bar.advance()
                yield answer

    # on a terminal, where the bar is drawn, all at the end
    write_predictions(list(answers()) if sys.stdout.isatty() else answers(), format, sys.stdout)
    if failed:
        screen.warn(f"{failed} of {len(files)} pictures could not be read")
    return 2 if failed == len(files) else 0


def write_predictions(answers: "Iterable[Prediction]", format: Format, out: TextIO) -> None:
    """Write predictions as an aligned table, as CSV (a row for each class named), as a JSON list or as JSON lines.

    In the table, which is written when all are there, what is not the answer of a multi-label classifier is in
    brackets.
    """
    if format == "json":
        opening = "["
        for answer in answers:
            out.write(f"{opening}\n{indent(json.dumps(answer.to_dict(), indent=2, ensure_ascii=False), '  ')}")
            out.flush()
            opening = ","
        out.write("\n]\n")
    elif format == "jsonl":
        for answer in answers:
            out.write(json.dumps(answer.to_dict(), ensure_ascii=False) + "\n")
            out.flush()
    elif format == "csv":
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["path", "rank", "label", "probability", "error", "answer"])
        for answer in answers:
            found = (answer.label,) if answer.labels is None else answer.labels
            rows = [
                [answer.path, rank, label, f"{probability:.6f}", "", int(label in found)]
                for rank, (label, probability) in enumerate(answer.top, start=1)
            ]
            writer.writerows(rows or [[answer.path, "", "", "", answer.error, ""]])
            out.flush()
    else:
        from densekit.units import on_one_line

        answers = list(answers)
        paths = [on_one_line(answer.path) for answer in answers]
        width = max(map(len, paths))
        for path, answer in zip(paths, answers, strict=True):
            named = [f"{on_one_line(label)} {p:.1%}" for label, p in answer.top]
            if answer.labels is not None:
                found = [label in answer.labels for label, _ in answer.top]
                named = [name if yes else f"({name})" for name, yes in zip(named, found, strict=True)]
                named = named if answer.labels else ["none", *named]
            out.write(f"{path:<{width}}  {'  '.join(named) or 'cannot be read: ' + str(answer.error)}\n")
