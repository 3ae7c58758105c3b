"""Warnings about pictures that are tested on although they, or others of their groups, were learned from."""

from collections.abc import Sequence
from pathlib import Path

from densekit.console import Screen
from densekit.data.duplicates import find_duplicates
from densekit.data.learned import digest_pictures, tell_learned_groups
from densekit.data.picture_set import DataSet, PictureSet
from densekit.data.split_record import SplitRecord
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
    digests = digest_pictures(tested, screen) if before.pictures or own.record is not None else []
    _tell_learned(f"what {own.weights} was trained on", before.among(digests), tested, screen)
    tell_learned_groups(str(own.weights), before.groups, tested, screen)
    training = "the training pictures"
    if dataset is not None and own.record is None:  # a named set
        pairs = find_duplicates(dataset.train.pictures, tested.pictures)
        _tell_learned(training, [(dataset.train.name(one), place) for one, place in pairs], tested, screen)
    elif own.record is not None:
        learned = SplitRecord(own.record).learned()
        again = learned.among(digests)
        if dataset is None:  # else groups that its own splits cut are told when it is opened
            tell_learned_groups("the run", learned.groups, tested, screen)
        if again and not Path(own.name).exists():
            _tell_moved(run, own.name, source, len(again), screen)
        else:
            _tell_learned(training, again, tested, screen)


def _tell_moved(run: Path, name: str, source: str, again: int, screen: Screen) -> None:
    which = counted(again, "picture in it is one", "pictures in it are ones")
    screen.warn(
        f"{name} is gone, and {which} that the run was trained on: if its data moved to {source}, "
        f"densekit train {in_shell(source)} --out {in_shell(run)} --resume updates the run, and "
        f"densekit evaluate {in_shell(run)} tests it honestly"
    )


def _tell_learned(learned: str, again: Sequence[tuple[str, int]], tested: PictureSet, screen: Screen) -> None:
    """Warn of tested pictures that were learned from, each given by its name then and its place now."""
    if again:
        which = counted(len(again), "picture is", "pictures are")
        name, place = again[0]
        screen.warn(
            f"{which} among {learned} too, byte for byte, which flatters these figures; first "
            f"{tested.name(place)} = {name}"
        )
