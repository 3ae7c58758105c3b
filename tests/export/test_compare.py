import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from densekit.classifier import Classifier
from densekit.console import Screen
from densekit.data.picture_set import PictureSet
from densekit.data.preprocessing import Preprocessing
from densekit.errors import DataError
from densekit.export.compare import compare
from densekit.export.targets import Options, Tolerance, find_target

QUIET, STRICT = Screen(quiet=True), Tolerance(0.01, 0.99)


class Brightness(nn.Module):
    """Logits that follow from the mean of the picture alone: (mean, 1 - mean), and what is added to them."""

    def __init__(self, added: tuple[float, float] = (0.0, 0.0)):
        super().__init__()
        self.added = nn.Parameter(torch.tensor(added))

    def forward(self, pictures):
        mean = pictures.mean((1, 2, 3))
        return torch.stack([mean, 1 - mean], 1) + self.added


@pytest.fixture
def pictures(paint, tmp_path):
    folder = paint(tmp_path / "x", "red", 5)
    (folder / "broken.png").write_bytes(b"")
    files = sorted(folder.iterdir())
    shapes = torch.tensor([[12, 12, 3]] * 6).numpy()
    return PictureSet(files, torch.zeros(6, dtype=torch.int64).numpy(), "val", shapes)


def classifier(added=(0.0, 0.0)) -> Classifier:
    return Classifier(Brightness(added), ("bright", "dark"), Preprocessing(size=(12, 12)))


def run(pictures, added, tolerance=STRICT):
    return compare(classifier(), classifier(added), pictures, tolerance, workers=0, screen=QUIET)


def test_the_same_network_differs_by_nothing(pictures):
    found = run(pictures, (0.0, 0.0))
    assert (found.pictures, found.split) == (5, "val")  # the broken one is left out
    assert found.largest_logit_difference == found.mean_probability_difference == 0
    assert found.agreement == 1
    assert found.within_tolerance
    assert "on 5 val pictures" in str(found)


def test_a_constant_on_all_logits_changes_no_probability(pictures):
    found = run(pictures, (0.5, 0.5))
    assert found.largest_logit_difference == pytest.approx(0.5)
    assert found.mean_logit_difference == pytest.approx(0.5)
    assert found.largest_probability_difference < 1e-6
    assert found.within_tolerance


def test_probabilities_are_those_of_the_temperature(pictures):
    one, other = (replace(classifier(added), temperature=0.25) for added in ((0.0, 0.0), (0.01, 0.0)))
    found = compare(one, other, pictures, STRICT, workers=0, screen=QUIET)
    assert found.mean_logit_difference == pytest.approx(0.005)
    files = [path for path in pictures.pictures if path.name != "broken.png"]
    answers = (dict(each.predict(files[0], top=2)[0].top) for each in (one, other))
    before, after = (answer["bright"] for answer in answers)
    # where a softmax is straight
    assert abs(after - before) == pytest.approx(0.01 / 0.25 * before * (1 - before), rel=0.05)
    assert found.largest_probability_difference == pytest.approx(abs(after - before), rel=0.05)


def test_a_turned_answer_is_out_of_tolerance(pictures):
    before = run(pictures, (0.0, 0.0))
    found = run(pictures, (-2.0, 0.0))
    assert found.mean_logit_difference == pytest.approx(1.0)
    assert {before.accuracy_exported, found.accuracy_exported} <= {0.0, 1.0}
    assert found.accuracy_trained == before.accuracy_trained
    assert not found.within_tolerance
    assert found.to_dict()["within_tolerance"] is False


def test_logits_that_are_no_numbers_are_never_within_tolerance(pictures):
    assert not run(pictures, (math.nan, 0.0), Tolerance(1.0, 0.0)).within_tolerance


def test_nothing_to_compare_on(pictures):
    broken = pictures.select([i for i in range(6) if pictures.name(i).endswith("broken.png")])
    with pytest.raises(DataError, match="none of the 1 pictures to compare on can be read"):
        run(broken, (0.0, 0.0))


def test_tolerance_widens_with_the_options():
    target = find_target("openvino", int8=True, bake_preprocessing=True)
    exact, baked, int8 = (target.tolerance_for(each) for each in (Options(), Options(False, True), Options(True, True)))
    assert exact == target.tolerance
    assert exact.probability < baked.probability < int8.probability


def test_answers_that_changed_are_out_of_tolerance_however_close_they_are(pictures):
    found = run(pictures, (0.0, 0.0), Tolerance(1.0, 0.9))  # as of 8 bits
    assert found.within_tolerance
    assert not replace(found, agreement=0.5).within_tolerance


def test_each_accuracy_is_of_its_own_network(pictures):
    found = compare(classifier((10.0, 0.0)), classifier((0.0, 10.0)), pictures, STRICT, workers=0, screen=QUIET)
    assert (found.accuracy_trained, found.accuracy_exported) == (1, 0)  # all are "bright"
