"""export_run: a trained classifier as a folder for another runtime, written only if it answers as the original."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.errors import CheckpointError, ExportError
from densekit.evaluation.results import read_metrics
from densekit.export.card import model_card
from densekit.export.compare import Comparison, compare
from densekit.export.real_pictures import real_pictures, samples
from densekit.export.targets import Options, Target, find_target
from densekit.files import check_writable, new_folder, write_json, write_text
from densekit.loading import classifier_folder, load_classifier, results_folder
from densekit.runtimes.exported import ExportedNetwork
from densekit.units import in_shell

_UNCHANGED = 0.98  # share of the pictures; 8 bits, which the tolerance lets change more, commonly turn one of a hundred


@dataclass(frozen=True, eq=False)
class Export:
    """An exported classifier: its folder, the network's file in it, and how it compares.

    Where a path is wanted, it is that of its folder.
    """

    folder: Path
    file: Path
    comparison: Comparison

    def __fspath__(self) -> str:
        return str(self.folder)


def export_run(
    run: str | os.PathLike[str],
    *,
    to: str,
    out: str | Path | None = None,
    int8: bool = False,
    bake_preprocessing: bool = False,
    data: str | Path | None = None,
    data_root: str | None = None,
    screen: Screen | None = None,
) -> Export:
    """Export a trained classifier, and compare the export with the original on real pictures.

    The folder holds the network's file, model.json (classes, preprocessing), comparison.json and a model card. It is
    only made if the comparison is within the target's tolerance. `densekit.load` opens it like a run.

    Args:
        run: run folder, or any folder with model.json and model.safetensors.
        to: "onnx", "openvino" or "torch"; DenseNets also "keras", "mxnet" and "timm".
        out: folder to make, new or empty [RUN/exports/TARGET, numbered if that exists].
        int8: whole numbers of 8 bits, calibrated on the validation pictures.
        bake_preprocessing: the file takes pictures as bytes of any size, and resizes and normalises by itself.
        data: pictures to compare and calibrate on [the run's own validation pictures, else its training pictures].
        data_root: where named data sets are kept.
        screen: where progress goes.

    Raises:
        UnknownNameError: no such target.
        SettingsError: an option that the target does not have, or an ``out`` that is taken.
        CheckpointError: the run cannot be read, or is an export itself.
        DataError: no pictures to compare on.
        MissingPartError: a package that the target needs is not installed.
        ExportError: the export does not answer as the original; nothing is left behind.
    """
    screen = screen or Screen()
    target = find_target(to, int8=int8, bake_preprocessing=bake_preprocessing)
    results, run = results_folder(run), classifier_folder(run, screen)
    classifier = load_classifier(run, device="cpu")
    if isinstance(classifier.network, ExportedNetwork):
        raise CheckpointError(f"{run} is an export already: export the run that it was made of")
    folder = new_folder(out, results / "exports" / (to + "-int8" * int8 + "-bytes" * bake_preprocessing))
    compared, measured = real_pictures(run, classifier, data, data_root, screen, calibrate=int8)
    baked = classifier.preprocessing.model_copy(update={"in_network": bake_preprocessing})
    exported = replace(classifier, preprocessing=baked)
    options = Options(int8, bake_preprocessing, samples(measured, exported) if int8 else ())
    with _made_whole(folder) as work:
        screen.say(f"writing {folder}")
        file = target.write(exported, work, options)
        exported.save_record(work, export={"target": to, "file": file.name})
        comparison = compare(classifier, load_classifier(work), compared, target.tolerance_for(options), screen=screen)
        if not comparison.within_tolerance:
            raise ExportError(
                f"the {to} export does not answer as the trained network and is thrown away: {comparison}"
            )
        write_json(work / "comparison.json", comparison.to_dict())
        use, told = _use(target, options, classifier), _exported(to, comparison, classifier)
        card = model_card(classifier, read_metrics(run, screen), use=use, exported=told, exact=not int8)
        write_text(work / "README.md", card)
    screen.say(f"{to}: {comparison}")
    if comparison.agreement < _UNCHANGED:  # only where the target allows it
        changed = f"{1 - comparison.agreement:.0%} of the answers changed"
        screen.warn(f"{changed}: densekit evaluate {in_shell(folder)} measures the cost")
    return Export(folder, folder / file.name, comparison)


def _use(target: Target, options: Options, classifier: Classifier) -> str:
    function = "sigmoid" if classifier.multilabel else "softmax"
    given = (
        "uint8 (N, H, W, C), opened as said under Input and of any size: the file does the rest"
        if options.bake_preprocessing
        else "float32 (N, C, H, W), made as said under Input"
    )
    threshold = (
        "above its probability under `thresholds` there" if classifier.thresholds is not None else "above a half"
    )
    answered = f", and a label is answered where its own is {threshold}" if classifier.multilabel else ""
    return (
        "`densekit predict FOLDER picture.jpg` and `densekit evaluate FOLDER PICTURES` take this folder as it is. "
        f"Without densekit, where `pictures` is {given}:\n\n```python\n{target.usage}```\n\n"
        f"Its probabilities are the {function} of `logits / {classifier.temperature:.6g}` (the temperature in "
        f"model.json){answered}."
    )


def _exported(to: str, comparison: Comparison, classifier: Classifier) -> str:
    before, after = comparison.accuracy_trained, comparison.accuracy_exported
    accuracy = "every label right" if classifier.multilabel else "accuracy"
    return (
        f"Before and after the export to {to}: {comparison}; {accuracy} on these pictures {before:.2%} and {after:.2%}."
    )


@contextmanager
def _made_whole(folder: Path) -> Iterator[Path]:
    """Give out a folder to fill, and move what is in it to ``folder``, or throw it away if something is raised.

    A new folder appears in one step. In an empty one that is there already (the current one, a mounted disk) the files
    appear one after the other, model.json last: without it there is no classifier.
    """
    there = folder.is_dir()
    check_writable(folder if there else folder.parent)
    with TemporaryDirectory(dir=folder if there else folder.parent, prefix=f".{folder.name}.") as scratch:
        work = Path(scratch) / "export"  # the one around it is closed to other users; this one is not
        work.mkdir()
        yield work
        if there:
            for path in sorted(work.iterdir(), key=lambda path: path.name == "model.json"):
                path.replace(folder / path.name)
        else:
            work.replace(folder)
