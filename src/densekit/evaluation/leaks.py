"""Warnings about pictures that are tested on although they, or others of their groups, were learned from."""

from pathlib import Path

import numpy as np

from densekit.console import Screen
from densekit.data.duplicates import Pictures, find_duplicates
from densekit.data.picture_set import DataSet, PictureSet
from densekit.data.split_record import SplitRecord, tell_learned_groups
from densekit.evaluation.own_data import OwnData, learned_before
from densekit.units import counted, in_shell


def tell_leaks(
    run: Path, own: OwnData, dataset: DataSet | None, tested: PictureSet, source: str, screen: Screen
) -> None:
    """Warn where tested pictures are among what a run, or the weights that it started from, has learned from.

    Args:
        run: its folder.
        own: the data that it was trained with.
        dataset: that data, opened, if the tested pictures are a split of it.
        tested: the pictures.
        source: where they are from.
        screen: where the warnings go.
    """
    before = learned_before(own.weights)
    _tell_duplicates(before.pictures, tested, screen, f"what {own.weights} was trained on")
    tell_learned_groups(str(own.weights), before.groups, tested, screen)
    if dataset is not None:
        _tell_duplicates(dataset.train.pictures, tested, screen)
    elif own.record is not None:
        _tell_learned(run, own.name, SplitRecord(own.record), Path(source), tested, screen)


def _tell_learned(run: Path, name: str, record: SplitRecord, data: Path, tested: PictureSet, screen: Screen) -> None:
    """Warn where pictures that are not the run's own, or seem not to be, are what it learned from all the same."""
    there = Path(name).exists()
    learned = record.learned(Path(name) if there else data)
    tell_learned_groups("the run", learned.groups, tested, screen)
    if there:
        _tell_duplicates(learned.pictures, tested, screen)
    elif moved := sum(path.exists() for path in learned.pictures):
        which = counted(moved, "picture in it has", "pictures in it have")
        screen.warn(
            f"{name} is gone, and {which} the name of one that the run was trained on: if its data moved to {data}, "
            f"densekit train {in_shell(data)} --out {in_shell(run)} --resume updates the run, and "
            f"densekit evaluate {in_shell(run)} tests it honestly"
        )


def _tell_duplicates(
    learned: Pictures, tested: PictureSet, screen: Screen, what: str = "the training pictures"
) -> None:
    if duplicates := find_duplicates(learned, tested.pictures):
        which = counted(len(duplicates), "picture is", "pictures are")
        one, other = duplicates[0]
        screen.warn(
            f"{which} among {what} too, byte for byte, which flatters these figures; first "
            f"{tested.name(other)} = {f'train/{one}' if isinstance(learned, np.ndarray) else learned[one]}"
        )
