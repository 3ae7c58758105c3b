"""The model card: a README.md with the header that the Hugging Face Hub reads."""

import re
from pathlib import Path
from typing import Any

from densekit.classifier import Classifier
from densekit.data.preprocessing import Preprocessing
from densekit.units import on_one_line

_OPENING = {
    channels: f"""\
import numpy as np
import PIL.Image
import PIL.ImageOps

picture = PIL.ImageOps.exif_transpose(PIL.Image.open("picture.jpg"))
if picture.mode.startswith("I;16"):
    picture = PIL.Image.fromarray((np.asarray(picture) / 257).round().astype("uint8"))
if picture.has_transparency_data:
    white = PIL.Image.new("RGBA", picture.size, "white")
    picture = PIL.Image.alpha_composite(white, picture.convert("RGBA"))
picture = picture.convert("{mode}")
"""
    for channels, mode in ((1, "L"), (3, "RGB"))
}
_MOST_CLASSES = 100  # more names than this are no reading; model.json has them all


def model_card(
    classifier: Classifier, metrics: dict[str, Any] | None, *, use: str, exported: str = "", exact: bool = True
) -> str:
    """Return the text of a card.

    Args:
        classifier: the trained one.
        metrics: its test figures, as in metrics.json, if there are any.
        use: Markdown that says how to load and use it.
        exported: how an export compares with it.
        exact: whether the figures are those of what the card stands beside, and not only of what that was made of.
    """
    from huggingface_hub import ModelCard, ModelCardData

    trained = classifier.record.get("trained", {})
    name = classifier.model
    data = ModelCardData(
        library_name="densekit",
        pipeline_tag="image-classification",
        tags=["image-classification", "densekit"],
        model_name=name,
        eval_results=(_results(metrics) or None) if metrics and exact else None,
    )
    kind = "labels" if classifier.multilabel else "classes"
    epochs = f" for {trained['epochs']} epochs (epoch {trained['epoch']} kept)" if "epochs" in trained else ""
    sections = {
        f"{name}, {len(classifier.classes)} {kind}": f"An image classifier, trained with densekit{epochs}.",
        "Data": _data(metrics),
        "Metrics": "\n\n".join(filter(None, (_figures(metrics, exact), exported))),
        kind.capitalize(): _classes(classifier.classes),
        "Input": describe(classifier.preprocessing),
        "Use": use,
        "Intended use": f"To name which of its {kind} a picture shows, if it is like those it was trained on.",
        "Limits": _limits(metrics, classifier),
    }
    title, *others = (f"{heading}\n\n{text}\n" for heading, text in sections.items())
    return ModelCard(
        "\n".join([f"---\n{data.to_yaml()}\n---\n", f"# {title}", *(f"## {part}" for part in others)])
    ).content


def describe(preprocessing: Preprocessing) -> str:
    """Say in words what a picture goes through."""
    height, width = preprocessing.size
    colours = "grey" if preprocessing.channels == 1 else "RGB"
    if preprocessing.resize == "squash":
        sized = f"resized to {height}x{width} (height x width)"
    else:
        tall, wide = preprocessing.covered_size
        sized = (
            f"resized, proportions kept, to cover {tall}x{wide} (height x width), the centre {height}x{width} cut out"
        )
    mean, std = ([round(value, 4) for value in values] for values in (preprocessing.mean, preprocessing.std))
    return (
        f"Turned upright as EXIF says, transparency laid on white, grey of 16 bits divided by 257; {colours}, {sized}, "
        f"{preprocessing.interpolation} with smoothing; then (value / 255 - mean) / std with mean {mean} and std "
        f"{std}, in channels, height, width. model.json has the exact numbers.\n\nIn Pillow, the first steps are\n\n"
        f"```python\n{_OPENING[preprocessing.channels]}```"
    )


def _results(metrics: dict[str, Any]) -> list[Any]:
    from huggingface_hub import EvalResult

    name, kind = _data_name(metrics), "mAP" if "mean_average_precision" in metrics else "accuracy"
    value = metrics["mean_average_precision" if kind == "mAP" else "accuracy"]
    if value is None:
        return []
    result = EvalResult(
        task_type="image-classification",
        dataset_type=name,
        dataset_name=name,
        dataset_split="test",
        metric_type=kind,
        metric_value=round(value, 4),
    )
    return [result]


def _data_name(metrics: dict[str, Any]) -> str:
    return Path(metrics.get("data") or "pictures").name  # where it was on this computer is nobody's business


def _data(metrics: dict[str, Any] | None) -> str:
    if metrics is None:
        return "Which pictures it was trained on stands here once `densekit evaluate` has tested it."
    return f"Trained and tested on `{_data_name(metrics)}`; the test pictures played no part in the training."


def _figures(metrics: dict[str, Any] | None, exact: bool) -> str:
    if metrics is None:
        return "Not tested: `densekit evaluate` would."
    low, high = metrics["accuracy_interval_95"]
    before = "" if exact else "Before it was rounded to 8 bits (`densekit evaluate` tells it after that): "
    accuracy = f"{metrics['accuracy']:.2%} (95 % interval {low:.2%} to {high:.2%}) on {metrics['pictures']} pictures"
    if "mean_average_precision" in metrics:
        means = {"average precision": "mean_average_precision", "AUROC": "mean_auroc", "F1": "macro_f1"}
        told = ", ".join(f"{what} {metrics[key]:.2%}" for what, key in means.items() if metrics[key] is not None)
        text = f"test means over the labels: {told}; every label right on {accuracy}, binary"
    else:
        text = f"test accuracy {accuracy}, balanced over the classes {metrics['balanced_accuracy']:.2%},"
    text = f"{before}{text} cross-entropy {metrics['loss']:.4f}."
    return text[0].upper() + text[1:]


def _classes(classes: tuple[str, ...]) -> str:
    shown = ", ".join(map(_code, classes[:_MOST_CLASSES]))
    more = f" and {len(classes) - _MOST_CLASSES} more" if len(classes) > _MOST_CLASSES else ""
    return f"In the order of the logits: {shown}{more}"


def _code(name: str) -> str:
    """Return a name as Markdown's code, whatever is in it."""
    name, fence = on_one_line(name), "`" * (1 + max(map(len, re.findall("`+", name)), default=0))
    return f"{fence} {name} {fence}" if len(fence) > 1 else f"`{name}`"


def _limits(metrics: dict[str, Any] | None, classifier: Classifier) -> str:
    unknown = (
        "It says nothing of what is none of its labels."
        if classifier.multilabel
        else "It answers with one of its classes whatever a picture shows."
    )
    text = f"{unknown} On pictures of another kind (camera, light, place) it can be much worse than its figures."
    if classifier.temperature == 1:
        text += " Its probabilities are not calibrated."
    else:
        text += (
            " Its probabilities are calibrated for pictures like those, at the temperature "
            f"{classifier.temperature:.4g}."
        )
    recalls = [(row["recall"], row["name"]) for row in (metrics or {}).get("classes", ()) if row["recall"] is not None]
    if recalls:
        recall, name = min(recalls)
        kind = "label" if classifier.multilabel else "class"
        text += f" Its weakest {kind} is {_code(name)}: it finds {recall:.1%} of those test pictures."
    return text
