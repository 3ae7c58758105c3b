"""Profiles side by side: as a table for people, as CSV and as JSON."""

import csv
import io
import json
from collections.abc import Sequence
from typing import Any

import torch

from densekit.profiling.memory import Prediction
from densekit.profiling.profile import Profile, Timing
from densekit.profiling.stages import HEAD, UPDATE


def profile_table(profiles: Sequence[Profile], batches: Sequence[int], memory: int | None) -> str:
    """Return lines with a column for each network.

    Args:
        profiles: one or more, of the same run.
        batches: for which memory is shown as predicted.
        memory: bytes that a training process may take; None shows no largest batch.
    """
    first = profiles[0]
    rows = [
        ("", *(found.subject.label for found in profiles)),
        ("parameters", *(f"{sum(found.parameters.values()):,}" for found in profiles)),
        ("multiply-adds of a picture", *(count(sum(found.macs.values())) for found in profiles)),
        ("pictures measured", *(f"{found.batch} of {_pixels(found.predictions[0])}" for found in profiles)),
        ("training step", *(_spread(found.training) for found in profiles)),
        ("  pictures/s", *(_rate(found, found.training) for found in profiles)),
        ("inference, pictures/s", *(_rate(found, found.inference) for found in profiles)),
        ("kept for backward, a picture", *(size(_kept(found.predictions[0])) for found in profiles)),
        ("memory of the step", *(size(found.measured.peak) if found.measured else "-" for found in profiles)),
        *_predicted_rows(profiles, batches, memory),
        ("time of the step, and memory kept of a picture, at feature maps of",),
        *((f"  {stage}", *(_stage(found, stage) for found in profiles)) for stage in stages(profiles)),
    ]
    columns = range(len(profiles) + 1)
    widths = [max(len(row[i]) for row in rows if i < len(row) > 1) for i in columns]
    lines = [
        row[0].ljust(widths[0]) + "".join(f"  {cell:>{w}}" for cell, w in zip(row[1:], widths[1:], strict=False))
        for row in rows
    ]
    threads, rounds = torch.get_num_threads(), len(first.training.seconds)
    about = f"{first.device} {first.precision}, {threads} thread{'s' * (threads > 1)}"
    title = f"{about}; times are medians of {rounds} rounds (first to third quartile)"
    return "\n".join([title, *(line.rstrip() for line in lines)]) + "\n"


def _predicted_rows(profiles: Sequence[Profile], batches: Sequence[int], memory: int | None) -> list[tuple[str, ...]]:
    rows = []
    for place, prediction in enumerate(profiles[0].predictions):
        several = len(profiles[0].predictions) > 1
        of = f" of {_pixels(prediction)}" if several else ""
        for batch in batches:
            cells = (size(found.predictions[place].peak(batch)) for found in profiles)
            rows.append((f"  predicted for {batch}{of}", *cells))
        if memory is not None:
            fits = (str(found.largest_batch(memory, found.predictions[place])) for found in profiles)
            rows.append((f"  largest batch in {size(memory)}{of}", *fits))
    return rows


def stages(profiles: Sequence[Profile]) -> list[str]:
    """Return the stages of all profiles, largest feature maps first."""

    def order(stage: str) -> tuple[int, int]:
        pixels = [int(side) for side in stage.split("x")] if stage[0].isdigit() else [0, 0]
        return -pixels[0] * pixels[1], [HEAD, UPDATE].index(stage) if stage in (HEAD, UPDATE) else 0

    return sorted({stage for found in profiles for stage in found.stage_seconds}, key=order)


def profile_json(profiles: Sequence[Profile], batches: Sequence[int], memory: int | None) -> str:
    """Return profiles as a JSON list; times in seconds, memory in bytes."""
    return json.dumps([_plain(found, batches, memory) for found in profiles], indent=2, ensure_ascii=False) + "\n"


def profile_csv(profiles: Sequence[Profile], batches: Sequence[int], memory: int | None) -> str:
    """Return profiles as CSV: a line for each network, picture size and batch that memory is predicted for."""
    text = io.StringIO()
    rows = []
    for found in profiles:
        plain = _plain(found, batches, memory)
        plain |= {
            f"{name}_{key}": value for name in ("training", "inference") for key, value in plain.pop(name).items()
        }
        del plain["stages"]
        rows += [{**plain, **memories} for memories in plain.pop("predicted")]
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _plain(found: Profile, batches: Sequence[int], memory: int | None) -> dict[str, Any]:
    predicted = []
    for prediction in found.predictions:
        fits = None if memory is None else found.largest_batch(memory, prediction)
        kept = round(_kept(prediction))
        at = {"at_size": _pixels(prediction), "kept_bytes_per_picture": kept, "largest_batch": fits}
        predicted += [{**at, "at_batch": batch, "predicted_bytes": prediction.peak(batch)} for batch in batches]
    return {
        "model": found.subject.name,
        "fused": found.subject.fused,
        "device": found.device,
        "precision": found.precision,
        "size": "x".join(map(str, found.size)),
        "batch": found.batch,
        "parameters": sum(found.parameters.values()),
        "macs_per_picture": round(sum(found.macs.values())),
        "measured_bytes": found.measured.peak if found.measured else None,
        "training": _seconds(found, found.training),
        "inference": _seconds(found, found.inference),
        "predicted": predicted,
        "stages": {
            stage: {
                "parameters": found.parameters.get(stage, 0),
                "macs_per_picture": round(found.macs.get(stage, 0)),
                "training_seconds": found.stage_seconds[stage],
                "kept_bytes_per_picture": round(found.predictions[0].kept.get(stage, 0)),
            }
            for stage in stages([found])
        },
    }


def _seconds(found: Profile, timing: Timing) -> dict[str, Any]:
    low, high = timing.spread
    seconds = {"rounds": len(timing.seconds), "median_s": timing.median, "q1_s": low, "q3_s": high}
    return {**seconds, "pictures_per_s": found.batch / timing.median}


def _stage(found: Profile, stage: str) -> str:
    if stage not in found.stage_seconds:
        return ""
    kept = found.predictions[0].kept.get(stage)
    return seconds(found.stage_seconds[stage]) + ("" if kept is None else f", {size(max(kept, 0)):>8}")


def _kept(prediction: Prediction) -> float:
    return sum(prediction.kept.values())


def _pixels(prediction: Prediction) -> str:
    return "x".join(map(str, prediction.size))


def _rate(found: Profile, timing: Timing) -> str:
    return f"{found.batch / timing.median:.3g}"


def _spread(timing: Timing) -> str:
    low, high = (seconds(value) for value in timing.spread)
    return f"{seconds(timing.median)} ({low} to {high})"


def seconds(value: float) -> str:
    """Write a time for people.

    >>> seconds(1.234), seconds(0.01234)
    ('1.23 s', '12.3 ms')
    """
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def size(value: float) -> str:
    """Write bytes for people, 1 GB = 1000 MB.

    >>> size(1_234_000_000), size(250_600_000), size(48_000)
    ('1.23 GB', '251 MB', '0.048 MB')
    """
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.3g} MB"


def count(value: float) -> str:
    """Write a large number for people.

    >>> count(2_603_000_000), count(27_010_000), count(640)
    ('2.60 G', '27 M', '0.64 k')
    """
    unit, letter = next((pair for pair in ((1e9, "G"), (1e6, "M")) if value >= pair[0]), (1e3, "k"))
    return f"{value / unit:.2f} {letter}" if letter == "G" else f"{value / unit:.3g} {letter}"
