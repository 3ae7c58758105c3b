"""Courses of the learning rate, as plain functions of how far training has come."""

import math
from collections.abc import Callable

from densekit.training.settings import TrainSettings

Schedule = Callable[[float], float]  # epochs done, with fraction -> factor of the highest learning rate


def make_schedule(settings: TrainSettings) -> Schedule:
    """Return the factor of the learning rate as a function of the epochs done (with fraction).

    A function of the position alone needs no state: a resumed run continues exactly.

    - constant: 1.
    - step: ``gamma`` more every ``step_every`` epochs.
    - multistep: ``gamma`` more at each milestone (Huang et al., section 4.2: half and three quarters).
    - cosine: from 1 to 0 (Loshchilov and Hutter, arXiv:1608.03983), after the warm-up.
    - one-cycle: straight up during the warm-up, straight down to 0 (Smith, arXiv:1708.07120).

    All but one-cycle also start with a linear warm-up where ``warmup`` is above 0.

    >>> factor = make_schedule(TrainSettings(epochs=10, schedule="multistep"))
    >>> [round(factor(epoch), 3) for epoch in (0, 4.99, 5, 7.5)]
    [1.0, 1.0, 0.1, 0.01]
    """
    total, warmup = settings.epochs, settings.warmup
    if settings.schedule == "one-cycle" and warmup == 0:
        warmup = total / 5

    def factor(done: float) -> float:
        if done < warmup:
            return done / warmup
        left = (total - done) / (total - warmup)  # 1 after the warm-up, 0 at the end
        match settings.schedule:
            case "step":
                return settings.gamma ** (done // settings.step_every)
            case "multistep":
                return settings.gamma ** sum(done >= milestone * total for milestone in settings.milestones)
            case "cosine":
                return (1 + math.cos(math.pi * (1 - left))) / 2
            case "one-cycle":
                return left
        return 1.0

    return factor
