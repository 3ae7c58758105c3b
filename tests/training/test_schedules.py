import warnings

import numpy as np
import pytest
import torch
from torch.optim import lr_scheduler

from densekit.training.schedules import make_schedule
from densekit.training.settings import make_settings

EPOCHS = 12


def reference(make, steps=EPOCHS):
    """The rates that a scheduler of torch gives, one for each call of its ``step``."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimizer takes no steps here
        scheduler = make(optimizer)
        for _ in range(steps):
            rates.append(scheduler.get_last_lr()[0])
            scheduler.step()
    return rates


def factors(positions, **settings):
    factor = make_schedule(make_settings(epochs=EPOCHS, **settings))
    return [factor(position) for position in positions]


@pytest.mark.parametrize(
    ("settings", "make"),
    [
        pytest.param({"schedule": "constant"}, lambda o: lr_scheduler.ConstantLR(o, factor=1.0), id="constant"),
        pytest.param(
            {"schedule": "step", "step_every": 5, "gamma": 0.3},
            lambda o: lr_scheduler.StepLR(o, step_size=5, gamma=0.3),
            id="step",
        ),
        pytest.param(
            {"schedule": "multistep"}, lambda o: lr_scheduler.MultiStepLR(o, milestones=[6, 9]), id="multistep_of_paper"
        ),
        pytest.param(
            {"schedule": "multistep", "milestones": (0.25, 0.5, 0.75), "gamma": 0.5},
            lambda o: lr_scheduler.MultiStepLR(o, milestones=[3, 6, 9], gamma=0.5),
            id="three_milestones",
        ),
        pytest.param({"schedule": "cosine"}, lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=EPOCHS), id="cosine"),
    ],
)
def test_epochs_begin_with_the_rates_of_torch(settings, make):
    np.testing.assert_allclose(factors(range(EPOCHS), **settings), reference(make), rtol=1e-12)


@pytest.mark.parametrize("schedule", ["constant", "step", "multistep", "cosine"])
def test_warm_up_rises_in_a_straight_line_to_the_full_rate(schedule):
    warm = factors([0, 0.5, 1, 2, 3], schedule=schedule, warmup=3)
    np.testing.assert_allclose(warm, [0, 0.5 / 3, 1 / 3, 2 / 3, 1])


def test_cosine_after_a_warm_up_is_torchs_over_the_rest():
    after = factors(range(3, EPOCHS), schedule="cosine", warmup=3)
    rest = reference(lambda o: lr_scheduler.CosineAnnealingLR(o, T_max=EPOCHS - 3), EPOCHS - 3)
    np.testing.assert_allclose(after, rest, rtol=1e-12)


@pytest.mark.parametrize("warmup", [1, 4], ids=["short", "long"])
def test_one_cycle_is_torchs_with_straight_lines(warmup):
    def one_cycle(optimizer):  # torch counts positions 0 to total_steps - 1, with the peak at pct * total_steps - 1
        return lr_scheduler.OneCycleLR(
            optimizer,
            max_lr=1.0,
            total_steps=EPOCHS + 1,
            pct_start=(warmup + 1) / (EPOCHS + 1),
            anneal_strategy="linear",
            cycle_momentum=False,
            div_factor=1e12,
            final_div_factor=1e12,
        )

    expected = reference(one_cycle, EPOCHS + 1)
    actual = factors(range(EPOCHS + 1), schedule="one-cycle", warmup=warmup)
    np.testing.assert_allclose(actual, expected, atol=1e-9)


def test_one_cycle_peaks_after_a_fifth_unless_told_otherwise():
    peak = EPOCHS / 5
    np.testing.assert_allclose(
        factors([0, peak / 2, peak, (peak + EPOCHS) / 2, EPOCHS], schedule="one-cycle"), [0, 0.5, 1, 0.5, 0], atol=1e-12
    )


@pytest.mark.parametrize("warmup", [0, 0.1, 2.5], ids=["none", "part_of_an_epoch", "between_epochs"])
@pytest.mark.parametrize("schedule", ["constant", "step", "multistep", "cosine", "one-cycle"])
def test_rates_stay_between_nothing_and_the_highest(schedule, warmup):
    values = factors(np.linspace(0, EPOCHS, 500), schedule=schedule, warmup=warmup)
    assert min(values) >= 0
    assert 0.99 < max(values) <= 1
