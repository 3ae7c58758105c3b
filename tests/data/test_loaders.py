import multiprocessing
import os
import signal
from itertools import chain

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from densekit.data.batches import EpochBatches, OrderedBatches, class_weights, sampling_weights
from densekit.data.loaders import evaluation_loader, make_loader, worker_count
from densekit.data.memory import load_into_memory
from densekit.data.picture_set import PictureSet
from densekit.data.pictures import Skipped
from densekit.data.preprocessing import Preprocessing
from densekit.data.settings import Augmentation
from densekit.data.transforms import training_transform
from densekit.errors import PictureError, SettingsError

PREPROCESSING = Preprocessing(channels=1, size=(8, 8))
RANDOM = training_transform(PREPROCESSING, Augmentation(crop_padding=2, flip=True, trivial_augment=True))


def numbers(batches):
    return [[place.number for place in batch] for batch in batches]


@pytest.fixture
def arrays():
    pixels = np.random.default_rng(0).integers(0, 256, (22, 8, 8), dtype=np.uint8)
    return PictureSet(pixels, np.arange(22) % 3, "train")


@pytest.fixture
def files(arrays, tmp_path):
    paths = [tmp_path / f"{i:02}.png" for i in range(len(arrays))]
    for i, path in enumerate(paths):
        Image.fromarray(arrays.pictures[i]).save(path)
    return PictureSet(paths, arrays.labels, "train", arrays.shapes)


def assert_same(ours, others):
    assert len(ours) == len(others)
    for mine, other in zip(ours, others, strict=True):
        assert_close(tuple(mine[:3]), tuple(other[:3]), rtol=0, atol=0)
        assert mine.unreadable == other.unreadable


def test_an_epoch_is_a_permutation_by_seed_and_epoch():
    batches = EpochBatches(22, 5, seed=1)
    first = numbers(batches)
    assert [len(batch) for batch in first] == [5, 5, 5, 5, 2]
    assert sorted(chain(*first)) == list(range(22))
    assert numbers(batches) == first
    batches.set_epoch(1)
    assert numbers(batches) != first
    assert numbers(EpochBatches(22, 5, seed=1, epoch=1)) == numbers(batches)
    assert numbers(EpochBatches(22, 5, seed=2)) != first
    batches.set_epoch(0)
    assert numbers(batches) == first


@pytest.mark.parametrize("start", [0, 1, 4, 5])
def test_resuming_gives_the_tail(start):
    whole = list(EpochBatches(22, 5, seed=1, epoch=3))
    resumed = EpochBatches(22, 5, seed=1, epoch=3, start_step=start)
    assert list(resumed) == whole[start:]
    assert len(resumed) == 5 - start


@pytest.mark.parametrize(
    ("length", "size", "drop_last", "lengths"),
    [
        (21, 5, False, [5, 5, 5, 5]),
        (22, 5, True, [5, 5, 5, 5]),
        (20, 5, True, [5] * 4),
        (3, 5, False, [3]),
        (1, 5, False, [1]),
    ],
    ids=["lone_last_picture", "drop_last", "even", "less_than_a_batch", "one_picture"],
)
def test_last_batch(length, size, drop_last, lengths):
    batches = EpochBatches(length, size, seed=0, drop_last=drop_last)
    assert [len(batch) for batch in batches] == lengths
    assert len(batches) == len(lengths)


@pytest.mark.parametrize("length", [24, 23, 22, 21, 27, 4])
def test_ranks_share_the_steps_of_one_process(length):
    """Two processes with batches of 3 see, step by step, what one with batches of 6 sees."""
    ranks = [list(EpochBatches(length, 3, seed=0, rank=rank, world_size=2)) for rank in (0, 1)]
    single = list(EpochBatches(length, 6, seed=0))
    assert len(ranks[0]) == len(ranks[1])
    for mine, other, whole in zip(*ranks, single, strict=False):
        assert len(mine) == len(other)
        assert sorted(mine + other) == sorted(whole[: len(mine) * 2])
    seen = [place.number for batches in ranks for batch in batches for place in batch]
    assert len(set(seen)) == len(seen) >= length - 3


@pytest.mark.parametrize("world_size", [1, 2, 3, 30])
def test_evaluation_sees_every_picture_once(world_size):
    ranks = [OrderedBatches(22, 4, rank=rank, world_size=world_size) for rank in range(world_size)]
    assert sorted(number for batches in ranks for number in chain(*numbers(batches))) == list(range(22))
    assert [len(list(batches)) for batches in ranks] == [len(batches) for batches in ranks]
    if world_size == 1:
        assert list(chain(*numbers(ranks[0]))) == list(range(22))


def test_weighted_sampling_balances_classes_and_resumes():
    labels = np.repeat([0, 1], [3000, 30])
    batches = EpochBatches(3030, 100, seed=0, weights=sampling_weights(labels))
    drawn = labels[list(chain(*numbers(batches)))]
    assert drawn.mean() == pytest.approx(0.5, abs=4 * 0.5 / 3030**0.5)  # four standard errors
    assert (
        numbers(EpochBatches(3030, 100, seed=0, weights=sampling_weights(labels), start_step=7)) == numbers(batches)[7:]
    )


BAD_BATCHES = {
    "no_pictures": {"length": 0},
    "batch_size_0": {"batch_size": 0},
    "rank_too_high": {"rank": 2, "world_size": 2},
    "fewer_pictures_than_processes": {"length": 3, "world_size": 4},
    "drop_last_leaves_nothing": {"batch_size": 23, "drop_last": True},
    "start_beyond": {"start_step": 7},
    "short_weights": {"weights": np.ones(3)},
    "zero_weights": {"weights": np.zeros(22)},
    "negative_weights": {"weights": -np.ones(22)},
}


@pytest.mark.parametrize("settings", BAD_BATCHES.values(), ids=BAD_BATCHES)
def test_batches_that_cannot_be(settings):
    with pytest.raises(SettingsError):
        EpochBatches(**{"length": 22, "batch_size": 4, "seed": 0, **settings})


@pytest.mark.parametrize("kind", ["arrays", "files"])
def test_workers_and_memory_change_nothing(request, kind, screen):
    """Two epochs, augmented: alone, with two processes, from memory, from the middle of the second."""
    pictures = request.getfixturevalue(kind)

    def epochs(workers, pictures=pictures, starts=((0, 0), (1, 0))):
        batches = EpochBatches(22, 5, seed=3)
        loader = make_loader(pictures, RANDOM, batches, seed=3, workers=workers)
        result = []
        for epoch, start in starts:
            batches.set_epoch(epoch, start)
            result += list(loader)
        return result

    alone = epochs(0)
    torch.rand(7)  # what else was drawn must not matter
    assert_same(epochs(2), alone)
    assert_same(epochs(0, load_into_memory(pictures, screen=screen)[0]), alone)
    assert_same(epochs(0, starts=[(1, 2)]), alone[7:])
    by_number = [dict(zip(batch.index.tolist(), batch.pictures, strict=True)) for batch in alone]
    first, second = ({**by_number[i], **by_number[i + 1]} for i in (0, 5))
    common = first.keys() & second.keys()
    assert any(not torch.equal(first[i], second[i]) for i in common)  # augmented anew in the next epoch


def test_a_picture_drawn_twice_is_augmented_twice(arrays):
    batches = EpochBatches(22, 22, seed=0, weights=np.eye(22)[4])
    (batch,) = make_loader(arrays, RANDOM, batches, workers=0)
    assert batch.index.tolist() == [4] * 22
    assert len({pixels.numpy().tobytes() for pixels in batch.pictures}) > 10


def test_a_process_that_ends_while_it_hands_over_a_picture(arrays, monkeypatch):
    """The connection breaks before PyTorch has noticed why; then it is the same error."""

    def broken(self):
        raise ConnectionResetError

    monkeypatch.setattr("torch.utils.data.DataLoader.__iter__", broken)
    with pytest.raises(RuntimeError, match=r"^DataLoader worker \(pid"):
        list(evaluation_loader(arrays, Preprocessing(size=(8, 8)), 4, workers=0))


def test_batch_holds_what_the_set_holds(files):
    batches = list(evaluation_loader(files, PREPROCESSING, 8, workers=0))
    assert torch.cat([batch.index for batch in batches]).tolist() == list(range(22))
    assert_close(torch.cat([batch.labels for batch in batches]), torch.from_numpy(files.labels))
    expected = np.stack([np.asarray(files.read(i)) for i in range(22)])[:, None] / 255
    assert_close(torch.cat([batch.pictures for batch in batches]), torch.from_numpy(expected).float())


def test_pictures_too_narrow_to_be_cropped_are_named(files):
    """Enlarged until a line of one pixel's width covers the square, it would take gigabytes."""
    Image.new("L", (1, 1_200_000)).save(files.pictures[3])
    cropping = PREPROCESSING.model_copy(update={"resize": "crop", "size": (32, 32)})
    batches = list(evaluation_loader(files, cropping, 2, workers=0))
    why = "1200000x1 pixels are too narrow: enlarged to 38400000x32 for a cut of 32x32"
    assert batches[1].unreadable == [Skipped(files.pictures[3], why)]
    assert len(torch.cat([batch.index for batch in batches])) == 21


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_pictures_are_named(files, workers):
    for i in (3, 16, 17):
        files.pictures[i].write_bytes(b"")
    batches = list(evaluation_loader(files, PREPROCESSING, 2, workers=workers))
    assert torch.cat([batch.index for batch in batches]).tolist() == [i for i in range(22) if i not in {3, 16, 17}]
    assert torch.cat([batch.labels for batch in batches]).tolist() == [i % 3 for i in range(22) if i not in {3, 16, 17}]
    assert batches[1].unreadable == [Skipped(files.pictures[3], "the file is empty")]
    assert batches[8].index.numel() == batches[8].pictures.numel() == 0
    assert len(batches[8].unreadable) == 2
    strict = evaluation_loader(files, PREPROCESSING, 2, workers=workers, strict=True)
    with pytest.raises(PictureError) as caught:
        list(strict)
    assert str(caught.value) == f"{files.pictures[3]}: the file is empty"
    assert multiprocessing.active_children() == []  # its processes ended with it


def test_loader_processes_leave_ctrl_c_to_the_one_that_trains(files):
    batches = evaluation_loader(files, PREPROCESSING, 1, workers=1)
    seen = []
    for batch in batches:
        seen += batch.index.tolist()
        if len(seen) == 3:
            for process in multiprocessing.active_children():
                os.kill(process.pid, signal.SIGINT)
    assert seen == list(range(22))


def test_class_weights_by_definition():
    """scikit-learn's "balanced": n / (classes * count)."""
    labels = np.repeat([0, 1, 2], [7, 2, 50])
    assert_close(class_weights(labels, 3), torch.tensor([59 / 21, 59 / 6, 59 / 150]))
    assert class_weights(labels, 3)[labels].mean().item() == pytest.approx(1)
    assert class_weights(labels, 4)[3] == 0


def test_worker_count(arrays):
    assert worker_count(3, arrays) == 3
    assert worker_count("auto", arrays) == 0
    many = PictureSet(np.zeros((5000, 1, 1), np.uint8), np.zeros(5000, np.int64), "train")
    assert 0 <= worker_count("auto", many) <= 8
    with pytest.raises(SettingsError, match="workers=-1"):
        worker_count(-1, arrays)


def test_one_processor_is_left_for_training(files, monkeypatch):
    many = files.select(np.zeros(5000, np.int64))
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    assert worker_count("auto", many) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert worker_count("auto", many) == 1


def test_a_few_photographs_are_worth_processes_and_a_few_small_pictures_are_not(files, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1}, raising=False)
    for shape, processes in (((3000, 4000, 3), 1), ((300, 400, 3), 0)):
        shapes = np.tile(np.array(shape, np.int64), (len(files), 1))
        assert worker_count("auto", PictureSet(files.pictures, files.labels, "train", shapes)) == processes
