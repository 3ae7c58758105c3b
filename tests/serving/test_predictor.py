"""Many threads ask at once: each gets its own answer, and those who wait are answered together."""

import threading
import time
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch import nn

from densekit.classifier import Classifier
from densekit.data.preprocessing import Preprocessing
from densekit.serving.predictor import Predictor


class Watched(nn.Module):
    """Sums each picture's channels; notes batches and threads, and waits for ``go`` in the first batch."""

    def __init__(self):
        super().__init__()
        self.batches, self.threads, self.go = [], set(), threading.Event()

    def forward(self, pictures):
        self.threads.add(threading.current_thread().name)
        self.batches.append(len(pictures))
        self.go.wait(10)
        if pictures.isnan().any():
            raise ValueError("not a number")
        return pictures.sum((2, 3))


@pytest.fixture
def watched():
    return Watched()


@pytest.fixture
def predictor(watched):
    predictor = Predictor(Classifier(watched, ("a", "b", "c"), Preprocessing(size=(2, 2))), 4)
    yield predictor
    watched.go.set()


def picture(number):
    return torch.full((3, 2, 2), 0.0).index_fill(0, torch.tensor([number % 3]), 1 + number / 10)


def test_each_gets_its_own_answer_and_waiting_ones_share_batches(predictor, watched):
    pictures = [picture(number) for number in range(10)]
    with ThreadPoolExecutor(10) as pool:
        first = pool.submit(predictor.probabilities, [pictures[0]])
        while not watched.batches:  # it computes now
            pass
        others = [pool.submit(predictor.probabilities, [one]) for one in pictures[1:]]
        while len(predictor._waiting) < 9:
            pass
        watched.go.set()
        answers = [asked.result()[0] for asked in (first, *others)]
    for one, answer in zip(pictures, answers, strict=True):
        torch.testing.assert_close(answer, one.sum((1, 2)).softmax(0))
    assert watched.batches == [1, 4, 4, 1]
    assert len(watched.threads) == 1


def test_many_pictures_of_one_request_are_cut_into_batches(predictor, watched):
    watched.go.set()
    answers = predictor.probabilities([picture(number) for number in range(9)])
    assert [int(answer.argmax()) for answer in answers] == [0, 1, 2] * 3
    assert watched.batches == [4, 4, 1]
    assert predictor.probabilities([]) == []


def test_an_error_reaches_those_who_asked_and_nobody_later(predictor, watched):
    watched.go.set()
    with pytest.raises(ValueError, match="not a number"):
        predictor.probabilities([picture(0) * torch.nan])
    assert int(predictor.probabilities([picture(2)])[0].argmax()) == 2


def test_other_work_waits_for_its_turn(predictor, watched):
    with ThreadPoolExecutor(2) as pool:
        asked = pool.submit(predictor.probabilities, [picture(0)])
        while not watched.batches:
            pass
        work = pool.submit(predictor.run, lambda: threading.current_thread().name)
        assert not work.done()
        watched.go.set()
        assert work.result() in watched.threads
        assert asked.result()


def test_when_it_closes_nobody_waits_any_longer(predictor, watched):
    with ThreadPoolExecutor(3) as pool:
        begun = pool.submit(predictor.probabilities, [picture(0)])
        while not watched.batches:
            time.sleep(0.01)
        waiting = [pool.submit(predictor.probabilities, [picture(1)]), pool.submit(predictor.run, lambda: None)]
        while predictor._thread._work_queue.qsize() < 2:
            time.sleep(0.01)
        predictor.close()
        for asked in waiting:
            with pytest.raises(CancelledError):
                asked.result(5)
        watched.go.set()
        assert begun.result(5)


def test_pictures_of_any_size_go_one_by_one():
    """An export that prepares pictures itself takes each in its own size: they cannot be stacked."""

    class AnySize(nn.Module):
        def forward(self, pictures):
            return pictures.float().mean((1, 2))

    classifier = Classifier(AnySize(), ("r", "g", "b"), Preprocessing(size=(2, 2), in_network=True))
    predictor = Predictor(replace(classifier), 8)
    sizes = [(2, 3), (5, 4)]
    answers = predictor.probabilities([torch.full((*size, 3), 7, dtype=torch.uint8) for size in sizes])
    assert [answer.tolist() for answer in answers] == [pytest.approx([1 / 3] * 3)] * 2
