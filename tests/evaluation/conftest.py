import io

import pytest
import yaml
from rich.console import Console

from densekit.console import Screen


@pytest.fixture
def screen():
    """A screen that records what it shows: ``screen.console.export_text()``."""
    return Screen(console=Console(file=io.StringIO(), record=True, width=1000))


@pytest.fixture
def travelled(colour_run, tmp_path):
    """model.json and model.safetensors alone, as somebody else would receive them."""
    folder = tmp_path / "travelled"
    folder.mkdir()
    for name in ("model.json", "model.safetensors"):
        (folder / name).write_bytes((colour_run / name).read_bytes())
    return folder


@pytest.fixture
def trained_on(colour_run, travelled):
    """Make a run folder that says it was trained with other data settings: ``trained_on(data=..., seed=3)``."""

    def make(**settings):
        values = yaml.safe_load((colour_run / "settings.yaml").read_text(encoding="utf-8")) | settings
        (travelled / "settings.yaml").write_text(yaml.safe_dump(values, allow_unicode=True), encoding="utf-8")
        return travelled

    return make


@pytest.fixture
def flat(paint, tmp_path):
    """The same classes without splits: 10 pictures each."""
    for name in ("deep blue", "grün", "red"):
        paint(tmp_path / "flat" / name, name, 10, first=300)
    return tmp_path / "flat"
