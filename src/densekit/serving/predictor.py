"""Predictor: many threads ask, one computes, and those who wait for it are answered together."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from densekit.classifier import Classifier

T = TypeVar("T")


class Predictor:
    """Computes for any number of threads, in a thread of its own.

    PyTorch keeps a team of threads for each thread that computes, which get in each other's way, and a network with
    hooks in it, as Grad-CAM sets them, can answer nobody else: so one thread computes, and takes as its next batch
    whatever has come in meanwhile. Nobody waits for a batch to fill.

    Args:
        classifier: any.
        batch_size: pictures at a time, at most.
    """

    def __init__(self, classifier: Classifier, batch_size: int):
        self.classifier = classifier
        self._most = classifier.batch_size(batch_size)
        self._waiting: deque[tuple[Tensor, Future[Tensor]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="densekit-predictor")

    def probabilities(self, pictures: Sequence[Tensor]) -> list[Tensor]:
        """Class probabilities (K,) of each preprocessed picture (C, H, W); waits for them."""
        answers: list[Future[Tensor]] = [Future() for _ in pictures]
        self._waiting.extend(zip(pictures, answers, strict=True))
        for _ in pictures:  # as often as it can be needed: where others were faster, nobody waits and nothing is done
            self._thread.submit(self._answer)
        return [answer.result() for answer in answers]

    def run(self, work: Callable[[], T]) -> T:
        """Let the thread that computes do something else with the network; waits for it."""
        return self._thread.submit(work).result()

    def close(self) -> None:
        """Answer nothing that has not been begun; who waits for it gets a CancelledError."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        while self._waiting:
            self._waiting.popleft()[1].cancel()

    def _answer(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        if not batch:
            return
        pictures, answers = zip(*batch, strict=True)
        try:
            rows = self.classifier.probabilities(torch.stack(pictures))
        except Exception as error:
            for answer in answers:
                answer.set_exception(error)
            return
        for answer, row in zip(answers, rows, strict=True):
            answer.set_result(row)
