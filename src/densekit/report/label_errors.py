"""Pictures whose label is probably wrong: confident learning.

Northcutt, Jiang and Chuang, Confident learning: estimating uncertainty in dataset labels, JAIR 70, 2021
(arXiv:1911.00068). A class's threshold is how probable the network finds it, on average, on the pictures labelled with
it. Where another class passes its threshold, the picture is counted as that class "confidently"; where the likeliest
class contradicts the label too, the picture is suspected. A class the network is rarely sure of thus needs less.
"""

import torch
from torch import Tensor


def find_label_errors(probabilities: Tensor, labels: Tensor) -> list[int]:
    """Return the places of the suspected pictures, the most suspicious first.

    Args:
        probabilities: (N, K) of pictures that the network has not learned from; on others it repeats the labels.
        labels: int64 (N,).
    """
    of_label = probabilities.gather(1, labels[:, None])[:, 0]  # (N,)
    pictures = torch.bincount(labels, minlength=probabilities.shape[1])
    thresholds = torch.zeros_like(probabilities[0]).index_add(0, labels, of_label) / pictures  # NaN: nobody passes it
    confident = probabilities.where(probabilities >= thresholds, -1.0)
    best, likely = confident.max(1)
    suspected = (best >= 0) & (likely != labels) & (probabilities.argmax(1) != labels)
    places = suspected.nonzero()[:, 0]
    order = (of_label - best)[places].argsort(stable=True)
    return places[order].tolist()
