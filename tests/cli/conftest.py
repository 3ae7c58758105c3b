import os
import subprocess
import sys
from typing import NamedTuple

import pytest

from densekit.cli.main import main

# a terminal of known width; buffered output, as everybody has it
ENVIRONMENT = {**os.environ, "COLUMNS": "120", "PYTHONIOENCODING": "utf-8", "PYTHONUNBUFFERED": ""}


class Answer(NamedTuple):
    """What a command left: exit status, standard output, standard error."""

    status: int
    out: str
    err: str


@pytest.fixture
def densekit(monkeypatch, capsys):
    """Run a command line in this process: ``densekit("predict", run, "a.png")``."""

    def run(*arguments: object) -> Answer:
        monkeypatch.setattr(sys, "argv", ["densekit", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        captured = capsys.readouterr()
        assert isinstance(end.value.code, int)
        return Answer(end.value.code, captured.out, captured.err)

    return run


@pytest.fixture
def shell(tmp_path):
    """Run Python code in a process of its own, which starts with the command's name and arguments as sys.argv."""

    def run(code: str, *arguments: object) -> Answer:
        whole = f"import sys\nsys.argv[0] = 'densekit'\nfrom densekit.cli.main import main\n{code}"
        command = [sys.executable, "-c", whole, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, cwd=tmp_path, env=ENVIRONMENT, encoding="utf-8")
        return Answer(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def refused(densekit):
    """Run a command line that must be refused: status 2, nothing on standard output, one line, which is returned."""

    def run(*arguments: object) -> str:
        answer = densekit(*arguments)
        assert (answer.status, answer.out) == (2, ""), answer
        assert answer.err.startswith("densekit: ")
        assert answer.err.count("\n") == 1
        assert answer.err.endswith("\n")
        return answer.err.removeprefix("densekit: ").rstrip()

    return run
