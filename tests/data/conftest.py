import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from densekit.console import Screen


@pytest.fixture
def screen():
    """A screen that records what it shows: ``screen.console.export_text()``."""
    return Screen(console=Console(file=io.StringIO(), record=True, width=1000))


@pytest.fixture
def make_folder(tmp_path):
    """Write small pictures: ``make_folder({"train/cat": 3, "train/dog": 2}, mode="RGB", size=(6, 8))``."""

    def make(counts: dict[str, int], mode: str = "RGB", size: tuple[int, int] = (6, 8), root: Path = tmp_path) -> Path:
        random = np.random.default_rng(0)
        shape = size if mode == "L" else (*size, 3)
        for folder, count in counts.items():
            (root / folder).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                pixels = random.integers(0, 256, shape, dtype=np.uint8)
                Image.fromarray(pixels).save(root / folder / f"{i}.png")
        return root

    return make
