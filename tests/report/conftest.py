import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from densekit.console import Screen
from densekit.loading import load_classifier
from densekit.report.write import write_report

HOSTILE = ("<img src=x onerror=alert(1)>", '"><style>*{display:none}<', "{{ 7*7 }} &amp; " + "long" * 30)


@pytest.fixture(scope="session")
def report_file(colour_run, tmp_path_factory) -> Path:
    """The report of `colour_run`, which is right on all test pictures but one."""
    out = tmp_path_factory.mktemp("report")
    return write_report(colour_run, out=out, device="cpu", screen=Screen(quiet=True))


@pytest.fixture(scope="session")
def hostile_file(colour_run, paint, tmp_path_factory) -> Path:
    """A report of classes and files whose names try to break out of the page; 4 of 10 pictures are mistakes."""
    root = tmp_path_factory.mktemp("hostile")
    replace(load_classifier(colour_run, device="cpu"), classes=HOSTILE).save(root / "run")
    for name, colour in zip(HOSTILE, ("deep blue", "grün", "red"), strict=True):
        paint(root / "data" / name, colour, 2)
    wrong = paint(root / "data" / HOSTILE[0], "red", 4, first=10)
    shutil.move(wrong / "10.png", wrong / "<script>alert(1)<.png")
    (wrong / "11.png").rename(wrong / os.fsdecode(b"\xff.png"))
    (wrong / "broken <b>.png").write_bytes(b"no picture")
    return write_report(root / "run", root / "data", device="cpu", screen=Screen(quiet=True))


@pytest.fixture(scope="session")
def hostile_names() -> tuple[str, ...]:
    """Names of the classes of `hostile_file`."""
    return HOSTILE
