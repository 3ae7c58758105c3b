"""Fine-tuning: which parts of a network learn in which epoch, and how fast."""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from densekit.models.transfer import head_name
from densekit.training.settings import TrainSettings


def parameter_groups(network: nn.Module, settings: TrainSettings) -> list[dict[str, object]]:
    """Return the optimizer's groups: the backbone, then the head, each with its share of the learning rate."""
    backbone, head = _split(network)
    shares = (settings.backbone_lr_factor, 1.0)
    return [{"params": params, "lr_share": share} for params, share in zip((backbone, head), shares, strict=True)]


def begin_epoch(network: nn.Module, settings: TrainSettings, epoch: int) -> None:
    """Put a network into training mode, as far as it learns in an epoch (counted from 0).

    What is frozen follows from the epoch alone, so that a resumed run goes on exactly. A frozen backbone keeps its
    batch norms' statistics as well as its weights.
    """
    frozen = epoch < settings.freeze_epochs
    network.train()
    for parameter in _split(network)[0]:
        parameter.requires_grad_(not frozen)
    if frozen or settings.freeze_bn:
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                module.eval()


def _split(network: nn.Module) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """Return the parameters of the backbone and of the head."""
    parts: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    head = f"{head_name(network)}."
    for name, parameter in network.named_parameters():
        parts[name.startswith(head)].append(parameter)
    return parts
