"""torch.export: one .pt2 file that PyTorch alone can load and run."""

from pathlib import Path

import torch

from densekit.classifier import Classifier
from densekit.export.program import make_program
from densekit.export.targets import Options
from densekit.files import write_atomically


def write_torch(classifier: Classifier, folder: Path, options: Options) -> Path:
    """Write model.pt2; ``torch.export.load(path).module()`` takes batches of any length."""
    program, path = make_program(classifier, options), folder / "model.pt2"
    write_atomically(path, lambda temporary: torch.export.save(program, temporary))
    return path
