"""What the documentation tells people to type can be typed: every command, flag, link and public name is there."""

import re
import shlex
from pathlib import Path

import pytest
from cyclopts import CycloptsError

import densekit
from densekit.cli.main import TABLE, app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md")), *ROOT.glob("src/**/*.md")]
COMMAND = re.compile(rf"\bdensekit ((?:{'|'.join(TABLE)}) (?:\\\n|[^`\n|#])+)")


def commands(text):
    """Lines after "densekit VERB", without what only stands for something else."""
    for line in COMMAND.findall(text):
        words = shlex.split(line.replace("\\\n", " "))
        if "..." not in words and not any(word.startswith("[--") for word in words):
            yield words


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_page_holds(page, monkeypatch):
    monkeypatch.setenv("HOSTNAME", "here")
    text = page.read_text(encoding="utf-8")
    wrong = [target for target in re.findall(r"\]\(([^)#:]+)\)", text) if not (page.parent / target).exists()]
    wrong += [name for name in re.findall(r"\bdk\.(\w+)", text) if name not in densekit.__all__]
    for words in commands(text):
        try:
            app.parse_args(words, exit_on_error=False, print_error=False)
        except CycloptsError as error:
            wrong.append(f"densekit {' '.join(words)}: {error}")
    assert not wrong


def test_commands_are_found():
    found = [words for page in PAGES for words in commands(page.read_text(encoding="utf-8"))]
    assert {words[0] for words in found} >= {"train", "evaluate", "predict", "explain", "profile", "study", "export"}
    assert ["study", "growth-rate", "digits"] in [words[:3] for words in found]  # it goes over two lines
