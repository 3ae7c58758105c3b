"""Weights into a network: names of other libraries, other inputs, other classes, and what became of every tensor."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor, nn

from densekit.errors import CheckpointError

_COUNTS = "num_batches_tracked"  # plays no part in what a batch norm computes; files before torch 0.4.1 lack it
_RENAMES = (
    (re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)"), r"\1\2"),  # torchvision's files: norm.1
    (re.compile(r"(denselayer\d+\.)layers\."), r"\1"),  # MONAI
    (re.compile(r"(^|\.)class_layers\.out\."), r"\1classifier."),  # MONAI
)
_IN_SEQUENCE = re.compile(r"((?:^|\.)(?:classifier|fc))\.(\d+)\.")  # a head that is more than a linear layer
_AVERAGE = re.compile(r"(^|[._])(ema|swa|averaged?)([._]|$)")  # how the average of the weights is called
_MOST_REASONS = 3


@dataclass(frozen=True)
class Transfer:
    """What became of every tensor, by name: the network's first, then the file's.

    Attributes:
        loaded: taken as it is.
        adapted: taken after a change, with what was changed.
        new: not in the file or not fitting, so still as the network was built, with the reason.
        unused: of the file, but of nothing in the network.
        head: the names of the network's last layer.
        doubts: what speaks for the file being of another network all the same, in words.
    """

    loaded: tuple[str, ...]
    adapted: Mapping[str, str]
    new: Mapping[str, str]
    unused: tuple[str, ...]
    head: frozenset[str]
    doubts: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether nothing but the head is new, and nothing speaks for another network."""
        return self.new.keys() <= self.head and not self.doubts

    def rows(self) -> list[dict[str, str]]:
        """Return a row for every tensor: its name, what became of it, and why."""
        parts = (
            ("loaded", dict.fromkeys(self.loaded, "")),
            ("adapted", self.adapted),
            ("new", self.new),
            ("left over", dict.fromkeys(self.unused, "")),
        )
        return [{"tensor": key, "became": what, "why": why} for what, keys in parts for key, why in keys.items()]

    def __str__(self) -> str:
        """Return one line for people."""
        taken = len(self.loaded) + len(self.adapted)
        parts = [f"{taken} of {taken + len(self.new)} tensors taken"]
        parts += [f"adapted: {_list(self.adapted)}"] if self.adapted else []
        parts += [f"new: {_list(self.new)}"] if self.new else []
        parts += [f"left over in the file: {_some(self.unused)}"] if self.unused else []
        return "; ".join([*parts, *self.doubts])


def head_name(model: nn.Module) -> str | None:
    """Return the name of the linear layer that makes a network's logits; None for one without.

    timm's networks say so themselves. (Of the two heads of a distilled one, it is the first.)

    >>> head_name(nn.ModuleDict({"features": nn.Conv2d(3, 8, 3), "classifier": nn.Linear(8, 2)}))
    'classifier'
    """
    told = _told_by_timm(model, "classifier")
    return told or next((name for name in ("classifier", "fc") if name in dict(model.named_children())), None)


def _told_by_timm(model: nn.Module, part: str) -> str | None:
    told = (getattr(model, "pretrained_cfg", None) or {}).get(part)
    return told if told is None or isinstance(told, str) else told[0]


def transfer(model: nn.Module, tensors: Mapping[str, Tensor], *, keep_head: bool = True) -> Transfer:
    """Copy into a network what fits it of a checkpoint's tensors.

    Understood are the names of densekit, torchvision (old and new), timm and MONAI, below any prefix
    (``module.``, ``state_dict.model.``, ``densenet121.``, ...). The first convolution is adapted to other input
    channels: n are summed to one, or repeated to m and multiplied by n/m, so that the expected activation stays.
    2-D convolutions are inflated to 3-D: repeated over the depth and divided by it (Carreira and Zisserman,
    arXiv:1705.07750, section 2.4).

    Args:
        model: changed in place; a network of densekit, or any other with the same names.
        tensors: by name, as `densekit.models.checkpoints.read_checkpoint` gives them.
        keep_head: False leaves the network's last layer as it is, for other classes.

    Returns:
        What became of every tensor.

    Raises:
        CheckpointError: nothing fits but perhaps the head and vectors, or a tensor is not finite.
    """
    model = getattr(model, "_orig_mod", model)  # torch.compile's wrapper
    wanted = model.state_dict()
    if not tensors:
        raise CheckpointError("there are no tensors with values in it")
    if any(own.is_meta for own in wanted.values()):
        raise CheckpointError(
            "the network is on the meta device, where nothing has values: model.to_empty(device=...) first"
        )
    sources, doubts = _match(tensors, model)
    head = frozenset(key for key in wanted if key.rpartition(".")[0] == head_name(model))
    first = _told_by_timm(model, "first_conv")
    stem = f"{first}.weight" if first else next(iter(wanted))
    values, adapted, new = {}, {}, {}
    for key, own in wanted.items():
        if key not in sources:
            new[key] = "not in the file"
        elif key in head and not keep_head:
            new[key] = "for other classes"
        else:
            value, note = _adapt(tensors[sources[key]], own.shape, stem=key == stem)
            if own.is_floating_point() and not value.is_floating_point():
                new[key] = f"{value.dtype} in the file".replace("torch.", "")
            elif value.shape == own.shape:
                if not value.float().isfinite().all():
                    raise CheckpointError(f"{sources[key]} is not finite: the file is damaged, or its training failed")
                values[key] = value
                adapted |= {key: note} if note else {}
            else:
                new[key] = f"{_shape(tensors[sources[key]])} in the file, {_shape(own)} here"
    if all(key in head or value.dim() < 2 for key, value in values.items()):
        raise CheckpointError(_nothing_fits(tensors, wanted, sources))
    model.load_state_dict({**wanted, **values})
    return Transfer(
        loaded=tuple(key for key in values if key not in adapted),
        adapted=adapted,
        new={key: why for key, why in new.items() if not key.endswith(_COUNTS)},
        unused=tuple(sorted(tensors.keys() - sources.values())),
        head=head,
        doubts=doubts,
    )


def _match(tensors: Iterable[str], model: nn.Module) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return, for names of the network, the name in the file, and what speaks for another network.

    They are looked for below the prefix under which most weights are found. Of two whole networks in one file the
    average of the weights is the better one; what it lacks, as those of weights alone lack the statistics of batch
    norms, is taken from the other.
    """
    wanted, weights = model.state_dict(), dict(model.named_parameters())
    names = _translate(tensors)
    votes = Counter(prefix for name in names.values() for prefix in _prefixes(name) if name[len(prefix) :] in weights)
    if not votes:
        return {}, ()
    averages = {prefix for prefix in votes if _AVERAGE.search(prefix)}
    first, *others = sorted(votes, key=lambda prefix: (votes[prefix], prefix in averages), reverse=True)
    matched: dict[str, str] = {}
    for prefix in (first, *(others if first in averages else ())):
        for key, name in names.items():
            own = name[len(prefix) :]
            if name.startswith(prefix) and own in wanted and (prefix == first or own not in weights):
                matched.setdefault(own, key)
    taken = set(matched.values())
    parts = {key.partition(".")[0] for key in wanted}
    left = {key: name[len(first) :] for key, name in names.items() if key not in taken and name.startswith(first)}
    foreign = [key for key, name in left.items() if name.partition(".")[0] in parts]
    doubts = [f"is it of another network? This one has parts, but no tensors, for {_some(foreign)}"] if foreign else []
    rivals = [prefix for prefix in others if votes[prefix] == votes[first] and first not in averages]
    if rivals:
        doubts.append(f"the file has several such networks: that of {first.rstrip('.')!r} is taken")
    return matched, tuple(doubts)


def _translate(tensors: Iterable[str]) -> dict[str, str]:
    """Return the names of a file as densekit calls the same tensors."""
    names = {key: key for key in tensors}
    for key in names:
        for pattern, replacement in _RENAMES:
            names[key] = pattern.sub(replacement, names[key])
    places = {match.groups() for name in names.values() if (match := _IN_SEQUENCE.search(name))}
    alone = Counter(head for head, _ in places)

    def without_place(match: re.Match[str]) -> str:
        # a linear layer with dropout before it, or a sigmoid behind it, as in CheXNet; not the first of several
        return f"{match[1]}." if alone[match[1]] == 1 else match[0]

    return {key: _IN_SEQUENCE.sub(without_place, name) for key, name in names.items()}


def _prefixes(name: str) -> list[str]:
    return ["", *(name[: place + 1] for place, letter in enumerate(name) if letter == ".")]


def _adapt(tensor: Tensor, shape: torch.Size, *, stem: bool) -> tuple[Tensor, str]:
    """Bring a weight to the number of dimensions and, at the stem, of input channels of ``shape``; say how."""
    if not tensor.is_floating_point() or tensor.shape == shape:
        return tensor, ""
    tensor, notes = tensor.to(torch.promote_types(tensor.dtype, torch.float32)), []
    if len(shape) == 2 and tensor.shape[2:] == (1, 1):
        tensor, notes = tensor.flatten(1), ["1x1 convolution to linear"]  # timm's squeeze-and-excitation
    elif len(shape) == 5 and tensor.dim() == 4:
        depth = shape[2]
        tensor = tensor[:, :, None].expand(-1, -1, depth, -1, -1) / depth
        notes = [f"repeated over a depth of {depth}"] if depth > 1 else []
    if stem and tensor.dim() == len(shape) > 2 and tensor.shape[1] != shape[1]:
        have, need = tensor.shape[1], shape[1]
        tensor = tensor.sum(1, keepdim=True) if need == 1 else tensor[:, torch.arange(need) % have] * (have / need)
        notes.append(f"{have} input channels to {need}")
    return tensor, " and ".join(notes)


def _nothing_fits(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], sources: Mapping[str, str]) -> str:
    key, own = next(iter(wanted.items()))
    alike = (name for name, tensor in tensors.items() if tensor.dim() == own.dim())
    theirs = sources.get(key) or next(alike, next(iter(tensors)))
    return (
        f"the weights are of another network: they have {theirs} {_shape(tensors[theirs])}, "
        f"where {key} {_shape(own)} is wanted"
    )


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape)) or "one number"


def _list(reasons: Mapping[str, str]) -> str:
    """List names by reason, as many as a line holds."""
    by_reason = groupby(sorted(reasons, key=lambda key: reasons[key]), key=lambda key: reasons[key])
    parts = [f"{_some(list(keys))} ({reason})" for reason, keys in by_reason]
    more = [f"{len(parts) - _MOST_REASONS} more reasons"] if len(parts) > _MOST_REASONS else []
    return ", ".join([*parts[:_MOST_REASONS], *more])


def _some(names: Iterable[str]) -> str:
    first, *others = names
    return f"{first} and {len(others)} more" if others else first
