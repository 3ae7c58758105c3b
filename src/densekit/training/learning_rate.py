"""Learning-rate finder: raise the rate until the loss explodes, and choose well below (Smith, arXiv:1506.01186)."""

import copy
import math
from itertools import islice
from pathlib import Path

from densekit.data.seeding import kept_random_numbers
from densekit.errors import TrainingError
from densekit.files import save_figure
from densekit.training.freezing import begin_epoch
from densekit.training.job import Job
from densekit.training.processes import fill_up, summed
from densekit.training.step import train_step

_LOWEST, _HIGHEST, _STEPS = 1e-6, 10.0, 100
_SMOOTHING = 0.9


def find_learning_rate(job: Job) -> float:
    """Sweep the learning rate upwards over up to 100 steps and return a tenth of the one with the lowest loss.

    Network, optimizer, average and random numbers are put back afterwards. Draws learning_rate.png in the run folder.

    Args:
        job: a run that has not begun.
    """
    state = job.state
    pieces = [piece for piece in (state.network, state.optimizer, state.average) if piece is not None]
    before = [copy.deepcopy(piece.state_dict()) for piece in pieces]
    rates, losses = [], []
    smooth = best = 0.0
    begin_epoch(state.network, job.settings, 0)
    with kept_random_numbers(job.accelerator.device), job.screen.bar("learning rate", _STEPS) as bar:
        for step, batch in enumerate(_batches(job)):
            rate = _LOWEST * (_HIGHEST / _LOWEST) ** (step / (_STEPS - 1))
            for group in state.optimizer.param_groups:
                group["lr"] = rate * group["lr_share"]
            loss, _, pictures = summed(train_step(job, batch), job.accelerator).tolist()
            smooth = _SMOOTHING * smooth + (1 - _SMOOTHING) * loss / pictures
            value = smooth / (1 - _SMOOTHING ** (step + 1))  # without the pull towards 0 of the first steps
            if not math.isfinite(value) or (step > 10 and value > 4 * best):
                break
            best = value if step == 0 else min(best, value)
            rates.append(rate)
            losses.append(value)
            bar.advance()
    for piece, values in zip(pieces, before, strict=True):
        piece.load_state_dict(values)
    if not losses or min(losses) > 0.95 * losses[0]:
        raise TrainingError("no learning rate makes the loss fall clearly in the first steps: give one, e.g. --lr 0.01")
    chosen = rates[losses.index(min(losses))] / 10
    if job.accelerator.is_main_process:
        _draw(job.run.path / "learning_rate.png", rates, losses, chosen)
    return chosen


def _batches(job: Job):
    """As many batches as the sweep has steps, from as many epochs as that takes."""
    epochs = math.ceil(_STEPS / job.batches.steps)
    batches = (fill_up(batch, job.accelerator) for epoch in range(epochs) for batch in _epoch(job, epoch))
    return islice((batch for batch in batches if len(batch.labels) > 1), _STEPS)


def _epoch(job: Job, epoch: int):
    job.batches.set_epoch(epoch)
    yield from job.loader


def _draw(path: Path, rates: list[float], losses: list[float], chosen: float) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), layout="constrained", dpi=110)
    axes = figure.subplots()
    axes.plot(rates, losses, color="#5b7fb5")
    axes.axvline(chosen, color="#d1603d", linestyle="--", label=f"chosen: {chosen:.2g}")
    axes.set(xscale="log", xlabel="learning rate", ylabel="training loss, smoothed")
    axes.grid(alpha=0.25)
    axes.legend(frameon=False)
    save_figure(figure, path)
