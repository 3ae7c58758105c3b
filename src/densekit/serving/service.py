"""Service: what a server answers about pictures that are sent to it."""

import io
import os
from threading import BoundedSemaphore
from typing import Annotated, Any

from fastapi import File, Form, Query, Response, UploadFile
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from threadpoolctl import ThreadpoolController
from torch import Tensor

from densekit.classifier import Classifier
from densekit.data.pictures import decode_picture
from densekit.errors import PictureError, SettingsError
from densekit.explain.heat_maps import check_explainable, heat_maps
from densekit.explain.overlay import overlay
from densekit.explain.sheet import fit
from densekit.prediction import Prediction
from densekit.serving.predictor import Predictor
from densekit.version import __version__

_SIDE = 448  # pixels of a heat map


class Likely(BaseModel):
    """A class and its probability."""

    label: str
    probability: float


class Answer(BaseModel):
    """About one picture: its likeliest class and all that are named, best first; or why it could not be read.

    A multi-label classifier answers with ``labels``, all above their thresholds, instead of ``label``.
    """

    path: str
    label: str | None = None
    labels: list[str] | None = None
    probability: float | None = None
    top: list[Likely] | None = None
    error: str | None = None


class Failure(BaseModel):
    """What went wrong with a request, on one line."""

    error: str


class Service:
    """Answers requests; each is called in a thread of its own.

    Args:
        classifier: what answers.
        metrics: its test figures, as in metrics.json.
        batch_size: pictures that go through the network at a time, at most.
    """

    def __init__(self, classifier: Classifier, metrics: dict[str, Any] | None, batch_size: int):
        self.classifier, self.metrics = classifier, metrics
        self.predictor = Predictor(classifier, batch_size)
        self._room, self._own_size = (BoundedSemaphore(os.cpu_count() or 1) for _ in range(2))
        self._threads = ThreadpoolController()  # one for each picture: a team for each would disturb the predictor's

    def predict(
        self,
        pictures: Annotated[list[UploadFile], File(description="picture files")],
        top: Annotated[int, Query(ge=1, description="how many classes to name")] = 5,
    ) -> JSONResponse:
        """Name what is on pictures: a list of answers, in order. Status 422 if none of them could be read."""
        if self.classifier.preprocessing.in_network:  # where pictures stay in their own size until they are answered
            answers = []
            for picture in pictures:
                with self._own_size:
                    answers += self._predict([picture], top)
        else:
            answers = self._predict(pictures, top)
        all_failed = all(answer.error for answer in answers)
        return JSONResponse([answer.to_dict() for answer in answers], 422 if all_failed else 200)

    def _predict(self, pictures: list[UploadFile], top: int) -> list[Prediction]:
        opened = [self._open(picture) for picture in pictures]
        rows = iter(self.predictor.probabilities([pixels for pixels in opened if isinstance(pixels, Tensor)]))
        return [
            found if isinstance(found, Prediction) else self.classifier.name_likeliest(_name(picture), next(rows), top)
            for picture, found in zip(pictures, opened, strict=True)
        ]

    def explain(
        self,
        picture: Annotated[UploadFile, File(description="picture file")],
        label: Annotated[str | None, Form(description="the class to explain; without it the likeliest")] = None,
    ) -> Response:
        """Draw where on a picture the evidence for a class lies, as PNG: bright parts speak for it."""
        check_explainable(self.classifier)
        if label is not None:
            self.classifier.class_number(label)
        with self._room, self._threads.limit(limits=1, user_api="openmp"):
            opened = decode_picture(picture.file.read(), _name(picture))
            pixels, shown = self.classifier.preprocessing(opened)[None], fit(opened, _SIDE)
            seen = self.classifier.preprocessing.seen_part(opened.height, opened.width)
            del opened
        png = io.BytesIO()
        overlay(shown, self.predictor.run(lambda: self._heat(pixels, label)), seen).save(png, "PNG")
        return Response(png.getvalue(), media_type="image/png")

    def model(self) -> dict[str, Any]:
        """Tell what answers: network, classes, preprocessing, test figures, whether it can be explained."""
        shown = {"accuracy", "accuracy_interval_95", "pictures", "mean_average_precision"}  # no folders of this machine
        return {
            "model": self.classifier.model,
            "classes": self.classifier.classes,
            "preprocessing": self.classifier.preprocessing.model_dump(mode="json"),
            "multilabel": self.classifier.multilabel,
            "test": self.metrics and {name: value for name, value in self.metrics.items() if name in shown},
            "explains": _explains(self.classifier),
            "densekit": __version__,
        }

    async def health(self) -> dict[str, str]:  # in no thread: they may all be waiting for the network
        """Tell that the server answers."""
        return {"status": "ok"}

    def _open(self, picture: UploadFile) -> Tensor | Prediction:
        """Decode and prepare a picture; no more of them are in memory in their own size than there are processors."""
        name = _name(picture)
        try:
            with self._room, self._threads.limit(limits=1, user_api="openmp"):
                return self.classifier.preprocessing(decode_picture(picture.file.read(), name))
        except PictureError as error:
            return Prediction(name, error=str(error).removeprefix(f"{name}: "))

    def _heat(self, pixels: Tensor, label: str | None) -> Tensor:
        label = label or self.classifier.classes[int(self.classifier.probabilities(pixels).argmax())]
        return heat_maps(self.classifier, pixels, [label])[0]


def _name(picture: UploadFile) -> str:
    return (picture.filename or "picture").encode(errors="replace").decode()  # what is no text has no JSON


def _explains(classifier: Classifier) -> bool:
    try:
        check_explainable(classifier)
    except SettingsError:
        return False
    return True
