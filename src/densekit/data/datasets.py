"""From a folder, a table or a name to a DataSet with its splits."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from densekit.console import Screen
from densekit.data.downloads import NAMED_SETS, load_named
from densekit.data.folders import natural_key
from densekit.data.listed_pictures import ListedPictures, open_listed, tell_cut_groups
from densekit.data.picture_set import DataSet, PictureSet, Split
from densekit.data.seeding import seed_from
from densekit.data.settings import DataSettings, read_fold
from densekit.data.split_record import SplitRecord
from densekit.data.splits import assign_folds, stratified_split
from densekit.data.splits import limit_per_class as limit_labels
from densekit.errors import DataError, SettingsError
from densekit.units import some

_TEST, _LIMIT, _LIMIT_TEST, _VAL, _FOLD = range(5)  # each cut has its own random numbers


def open_data(
    data: str | Path,
    *,
    data_root: str | Path | None = None,
    val_fraction: float = 0.1,
    test_fraction: float = 0.1,
    fold: str | None = None,
    seed: int = 0,
    limit_per_class: int | None = None,
    limit_test_per_class: int | None = None,
    strict: bool = False,
    record: Path | None = None,
    screen: Screen | None = None,
) -> DataSet:
    """Open a data set and cut it into training, validation and test pictures.

    Args:
        data: a folder (``train/CLASS/*``, ``val/CLASS/*``, ``test/CLASS/*``, or ``CLASS/*``), a table of
            ``path,label[,split]`` or of several labels a picture (see `densekit.data.tables.read_table`), or a name:
            digits, mnist, fashion-mnist, cifar10, cifar100.
        data_root: where named sets are kept; the platform's cache folder by default.
        val_fraction: share of each class's training pictures to validate on, where no val split is given.
        test_fraction: share of each class's pictures to test on, where the data names no splits at all.
        fold: "N/M": test on part N of M equal parts of the training pictures instead, and on no other test pictures.
        seed: decides the cuts; the same seed and files give the same cuts on any machine.
        limit_per_class: keep at most so many training pictures a class (before others are cut off them), or, where they
            have any number of labels, pictures until each label has so many.
        limit_test_per_class: the same for test pictures.
        strict: a picture that cannot be opened is an error instead of being left out.
        record: splits that files had before, see `split_record`: they keep them, whatever has been added since.
        screen: where progress and warnings go.

    Raises:
        DataError: there is no such data, or it cannot be learned from; the message says why.
        SettingsError: a fraction or limit that cannot work.
    """
    screen = screen or Screen()
    _check_settings(val_fraction, test_fraction, limit_per_class, limit_test_per_class, seed)
    if str(data) in NAMED_SETS:
        arrays = load_named(str(data), data_root=data_root, screen=screen)
        classes, skipped = arrays.classes, []
        parts: dict[Split, PictureSet] = {
            "train": PictureSet(arrays.train_pictures, arrays.train_labels, "train"),
            "test": PictureSet(arrays.test_pictures, arrays.test_labels, "test"),
        }
    else:
        path = Path(data).expanduser()
        found = open_listed(path, strict, screen)
        if record is not None:
            limited = limit_per_class is not None or limit_test_per_class is not None
            limited |= fold is not None and any(entry.split == "test" for entry in found.entries)
            return _as_recorded(path, found, SplitRecord(record), limited, screen)
        classes, skipped = _class_names(path, found, screen), found.skipped
        tell_cut_groups(found.entries, screen)
        parts = found.parts(classes)
        if found.without_splits and fold is None:
            _cut(parts, "test", test_fraction, seed_from(seed, _TEST))
    if limit_per_class is not None:
        parts["train"] = _limit(parts["train"], limit_per_class, seed_from(seed, _LIMIT))
    if fold is not None:
        _cut_fold(parts, fold, str(data), classes, seed_from(seed, _FOLD))
    if limit_test_per_class is not None and "test" in parts:
        parts["test"] = _limit(parts["test"], limit_test_per_class, seed_from(seed, _LIMIT_TEST))
    if "val" not in parts:
        _cut(parts, "val", val_fraction, seed_from(seed, _VAL))
    return DataSet(str(data), classes, parts["train"], parts.get("val"), parts.get("test"), tuple(skipped))


def open_chosen(chosen: DataSettings, *, record: Path | None = None, screen: Screen | None = None) -> DataSet:
    """Open the data that settings name (those of a training too), cut as they say; raises what `open_data` does."""
    return open_data(**chosen.model_dump(include=set(DataSettings.model_fields)), record=record, screen=screen)


def open_labelled(
    data: str | Path,
    *,
    classes: tuple[str, ...],
    multilabel: bool = False,
    data_root: str | Path | None = None,
    strict: bool = False,
    screen: Screen | None = None,
) -> PictureSet:
    """Open pictures to test a classifier on: the test split, or everything where the data names no splits.

    Args:
        data: a folder, a table or a name, as for `open_data`; a class may be missing.
        classes: the classifier's class names; labels are places in this tuple.
        multilabel: the classifier answers with any number of labels, so the pictures must come with that too.
        data_root: where named sets are kept.
        strict: a picture that cannot be opened is an error instead of being left out.
        screen: where progress and warnings go.

    Returns:
        The pictures; ``split`` is "test", or "all" where the data names no splits. ``skipped`` names the other files.

    Raises:
        DataError: no such data, no test split, a class that is not in ``classes``, or another kind of labels.
    """
    screen = screen or Screen()
    if str(data) in NAMED_SETS:
        _check_kind(data, False, multilabel)
        arrays = load_named(str(data), data_root=data_root, screen=screen)
        _check_known(str(data), arrays.classes, classes)
        number = np.array([classes.index(name) for name in arrays.classes], np.int64)
        return PictureSet(arrays.test_pictures, number[arrays.test_labels], "test")
    path = Path(data).expanduser()
    found = open_listed(path, strict, screen)
    _check_kind(path, found.multilabel, multilabel)
    _check_known(path, sorted(found.labels, key=natural_key), classes)
    if multilabel and (missing := [name for name in classes if name not in found.labels]):
        screen.warn(f"no picture of {path} has {some(missing)}: if nobody looked for these, their figures say nothing")
    parts = found.parts(classes)
    if found.without_splits:
        return replace(parts["train"], split="all", skipped=tuple(found.skipped))
    if "test" not in parts:
        raise DataError(
            f"{path}: has train or val pictures but no test split: name a folder of classes, such as {path}/val"
        )
    return replace(parts["test"], skipped=tuple(found.skipped))


def _check_kind(source: object, found: bool, wanted: bool) -> None:
    if found and not wanted:
        raise DataError(f"{source}: has several labels per picture, but the classifier gives each picture one class")
    if wanted and not found:
        raise DataError(
            f"{source}: has one class per picture, but the classifier gives several labels: "
            "name a table of path,labels (a cell may hold cat|dog)"
        )


def _check_known(source: object, found: Sequence[str], classes: tuple[str, ...]) -> None:
    if unknown := [name for name in found if name not in classes]:
        raise DataError(f"{source}: the classifier has no class {some(unknown)}; it knows {some(classes, 10)}")


def _check_settings(val_fraction, test_fraction, limit_per_class, limit_test_per_class, seed) -> None:
    for name, fraction in (("val_fraction", val_fraction), ("test_fraction", test_fraction)):
        if not 0 <= fraction < 1:
            raise SettingsError(f"{name}={fraction}: use a share of at least 0 and less than 1")
    limits = (("limit_per_class", limit_per_class), ("limit_test_per_class", limit_test_per_class))
    for name, limit in limits:
        if limit is not None and limit < 1:
            raise SettingsError(f"{name}={limit}: use at least 1, or nothing for no limit")
    if seed < 0:
        raise SettingsError(f"seed={seed}: use 0 or more")


def _as_recorded(path: Path, found: ListedPictures, record: SplitRecord, limited: bool, screen: Screen) -> DataSet:
    """Return the pictures that a run began with, each in its split of then."""
    if found.multilabel != record.multilabel:
        raise DataError(f"{path}: has another kind of labels (one class, or any number) than when the run began")
    entries, headers = record.apply(path, found.entries, found.headers, limited=limited, screen=screen)
    tell_cut_groups(entries, screen)
    parts = replace(found, entries=entries, headers=headers).parts(record.classes)
    if "train" not in parts:
        raise DataError(f"{path}: the training pictures of {record.path} are gone")
    skipped = tuple(found.skipped)
    return DataSet(str(path), record.classes, parts["train"], parts.get("val"), parts.get("test"), skipped)


def _class_names(source: Path, found: ListedPictures, screen: Screen) -> tuple[str, ...]:
    """Class names in natural order; DataError where the classes cannot be learned."""
    names = found.labels
    seen: dict[str, str] = {}
    for name in sorted(names, key=natural_key):
        if (twin := seen.setdefault(name.lower(), name)) != name:  # letters may be meant so
            screen.warn(f"{source}: classes {twin!r} and {name!r} differ by case only: if they are one, rename them")
    trained = {label for entry in found.entries if entry.split in {None, "train"} for label in entry.labels}
    if untrained := sorted(names - trained, key=natural_key):
        raise DataError(f"{source}: no training pictures of {some(untrained)}, only validation or test pictures")
    if not names:
        raise DataError(f"{source}: no picture has any label")
    if len(names) < 2 and not found.multilabel:
        (name,) = names
        inner = [path.name for path in (source / name).iterdir() if path.is_dir()] if (source / name).is_dir() else []
        hint = f": if {some(inner)} in it are the classes, name {source / name}" if inner else ""
        raise DataError(f"{source}: only one class, {name!r}; a classifier needs at least two{hint}")
    return tuple(sorted(names, key=natural_key))


def _limit(part: PictureSet, limit: int, seed: int) -> PictureSet:
    return part.select(limit_labels(part.labels, limit, seed=seed))


def _cut_fold(parts: dict[Split, PictureSet], fold: str, source: str, classes: Sequence[str], seed: int) -> None:
    """Make a fold of the training pictures the test split.

    Raises:
        DataError: a fold is empty, or has all pictures of a class: there are too few.
    """
    train, (number, folds) = parts["train"], read_fold(fold)
    numbers = assign_folds(train.labels, folds, seed=seed, groups=train.groups)
    counts = [train.select(np.flatnonzero(numbers == one)).counts(len(classes)) for one in range(1, folds + 1)]
    if alone := [
        name for name, of_class in zip(classes, np.transpose(counts), strict=True) if (of_class > 0).sum() == 1
    ]:
        what = "two pictures" if train.groups is None else "pictures of two groups"
        raise DataError(f"{source}: {some(alone)} cannot be in {folds} folds: each class needs {what} or more")
    if len(np.unique(numbers)) < folds:
        raise DataError(f"{source}: too few pictures for {folds} folds")
    tested = numbers == number
    parts["train"], parts["test"] = train.select(np.flatnonzero(~tested)), train.select(np.flatnonzero(tested), "test")


def _cut(parts: dict[Split, PictureSet], name: Split, fraction: float, seed: int) -> None:
    """Move a stratified share of the training pictures into a new split, if that leaves it any picture."""
    train = parts["train"]
    stay, out = stratified_split(train.labels, fraction, seed=seed, groups=train.groups)
    if len(out):
        parts["train"], parts[name] = train.select(stay), train.select(out, name)
