"""Prediction, what a classifier answers about one picture, and Embeddings, how it sees several."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Prediction:
    """The answer for one picture.

    ``top`` holds the likeliest (class, probability), best first; it is empty where the picture could not be read, and
    ``error`` says why. ``labels`` is the answer of a multi-label classifier: every class above its threshold, best
    first, maybe none; all of them are in ``top``. It is None where a picture has one class of several.
    """

    path: str
    top: tuple[tuple[str, float], ...] = ()
    error: str | None = None
    labels: tuple[str, ...] | None = None

    @property
    def label(self) -> str | None:
        """The likeliest class."""
        return self.top[0][0] if self.top else None

    @property
    def probability(self) -> float | None:
        """Its probability."""
        return self.top[0][1] if self.top else None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON writes it: path, label (or labels), probability and top, or path and error."""
        if self.error is not None:
            return {"path": self.path, "error": self.error}
        top = [{"label": label, "probability": probability} for label, probability in self.top]
        if self.labels is not None:
            return {"path": self.path, "labels": list(self.labels), "top": top}
        return {"path": self.path, "label": self.label, "probability": self.probability, "top": top}


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Vectors of pictures, near each other where a classifier sees the pictures alike.

    Args:
        paths: files of the pictures, in order.
        vectors: float32 (N, D), a row for each of them.
        unreadable: files that could not be read -> why; they have no row.
    """

    paths: tuple[str, ...]
    vectors: "Tensor"
    unreadable: dict[str, str]

    def __repr__(self) -> str:
        """One line, as a notebook shows it."""
        rest = f", {len(self.unreadable)} unreadable" if self.unreadable else ""
        return f"Embeddings({len(self.paths)} pictures, vectors {tuple(self.vectors.shape)}{rest})"
