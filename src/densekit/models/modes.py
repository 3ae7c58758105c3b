"""The modes of a network, training and evaluation."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from weakref import WeakKeyDictionary

from torch import nn

_lock = Lock()
_busy: WeakKeyDictionary[nn.Module, tuple[int, list[nn.Module]]] = WeakKeyDictionary()
"""Networks that are kept in evaluation mode: by how many at once, and which modules were in training mode before."""


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, and each of its modules back into the mode that it had.

    Of several threads that do so at once, the last one to leave puts them back.
    """
    with _lock:
        users, training = _busy.get(network, (0, []))
        if not users:
            training = [module for module in network.modules() if module.training]
            network.eval()
        _busy[network] = users + 1, training
    try:
        yield
    finally:
        with _lock:
            users, training = _busy.pop(network)
            if users > 1:
                _busy[network] = users - 1, training
            else:
                for module in training:
                    module.training = True
