"""Compare an exported classifier with the trained one, on real pictures, through the code that will use it."""

from dataclasses import asdict, dataclass
from typing import Any

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.loaders import Workers, evaluation_loader
from densekit.data.picture_set import PictureSet, before_pictures
from densekit.errors import DataError
from densekit.evaluation.outcomes import Outcomes, collect_outcomes
from densekit.export.targets import Tolerance


@dataclass(frozen=True)
class Comparison:
    """How far an exported classifier is from the trained one.

    Differences are absolute, over all pictures and classes; ``agreement`` is the share of pictures with the same
    answer, the likeliest class or all labels above their thresholds; the accuracies are on these same pictures.
    """

    pictures: int
    split: str
    largest_logit_difference: float
    mean_logit_difference: float
    largest_probability_difference: float
    mean_probability_difference: float
    agreement: float
    accuracy_trained: float
    accuracy_exported: float
    tolerance: Tolerance

    @property
    def within_tolerance(self) -> bool:
        """Whether the export is as good as its target promises; a logit that is no number never is."""
        close = self.largest_probability_difference <= self.tolerance.probability
        return close and self.agreement >= self.tolerance.agreement

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as they stand in comparison.json."""
        return asdict(self) | {"within_tolerance": self.within_tolerance}

    def __str__(self) -> str:
        return (
            f"on {self.pictures} {before_pictures(self.split)}pictures the probabilities differ by at most "
            f"{self.largest_probability_difference:.1e} (mean {self.mean_probability_difference:.1e}), "
            f"same answer on {self.agreement:.2%}"
        )


def compare(
    trained: Classifier,
    exported: Classifier,
    pictures: PictureSet,
    tolerance: Tolerance,
    *,
    workers: Workers = "auto",
    screen: Screen | None = None,
) -> Comparison:
    """Run both classifiers over the same picture files, each with its own preprocessing.

    Args:
        trained: the original.
        exported: what was made of it.
        pictures: real ones; unreadable ones are left out.
        tolerance: what is asked of the export.
        workers: processes that load pictures.
        screen: where progress goes.

    Raises:
        DataError: none of the pictures can be read.
    """
    screen = screen or Screen()
    before, after = (
        _outcomes(classifier, pictures, name, workers, screen)
        for classifier, name in ((trained, "trained"), (exported, "exported"))
    )
    if not len(before):
        raise DataError(f"none of the {len(pictures)} pictures to compare on can be read")
    logits = (after.logits - before.logits).abs()
    before, after = before.as_answered_by(trained), after.as_answered_by(trained)
    probabilities = (after.probabilities - before.probabilities).abs()
    return Comparison(
        pictures=len(before),
        split=pictures.split,
        largest_logit_difference=logits.max().item(),
        mean_logit_difference=logits.mean().item(),
        largest_probability_difference=probabilities.max().item(),
        mean_probability_difference=probabilities.mean().item(),
        agreement=(before.answers == after.answers).all(1).double().mean().item(),
        accuracy_trained=before.accuracy,
        accuracy_exported=after.accuracy,
        tolerance=tolerance,
    )


def _outcomes(classifier: Classifier, pictures: PictureSet, name: str, workers: Workers, screen: Screen) -> Outcomes:
    # a length that leaves a shorter last batch behind shows whether batches of any length work
    loader = evaluation_loader(pictures, classifier.preprocessing, classifier.batch_size(32), workers=workers)
    with screen.bar(f"comparing: {name}", len(loader), "batches") as bar:
        return collect_outcomes(classifier.network, loader, device=classifier.device, bar=bar)
