"""What needs a process of its own: how a command starts, and how it ends."""

import sys
from pathlib import Path

import pytest

from densekit.cli.main import TABLE
from densekit.version import __version__

HEAVY = ("torch", "torchvision", "matplotlib", "sklearn", "accelerate", "PIL")
TELL_MODULES = "try:\n    main()\nfinally:\n    print(*sys.modules, file=sys.stderr)"


def test_help_names_every_verb_and_imports_next_to_nothing(shell):
    answer = shell(TELL_MODULES, "--help")
    assert answer.status == 0
    for verb, (_, summary) in TABLE.items():
        assert verb in answer.out
        assert summary in " ".join(answer.out.split())
    assert not {*HEAVY, "pydantic", "numpy"} & set(answer.err.split())
    shown = [line.split()[1] for line in answer.out.splitlines() if line.startswith("│ ") and line[2] != " "]
    assert shown == [*TABLE, "--help", "--version"]  # in the order in which they are used


@pytest.mark.parametrize("verb", TABLE)
def test_help_of_a_verb_starts_without_torch(shell, verb):
    answer = shell(TELL_MODULES, verb, "--help")
    assert answer.status == 0
    assert f"Usage: densekit {verb}" in answer.out
    assert TABLE[verb][1].rstrip(".").partition(",")[0] in " ".join(answer.out.split())
    assert not set(HEAVY) & set(answer.err.split())


@pytest.mark.parametrize(
    "command", [["predict", "{run}", "{picture}"], ["train", "nothing"]], ids=["predict", "mistake"]
)
def test_commands_start_with_little_more_than_torch(shell, colour_run, colours, command):
    """Importing torchvision, which imports torch's compiler, takes as long as importing torch."""
    picture = colours / "test" / "red" / "100.png"
    answer = shell(TELL_MODULES, *(word.format(run=colour_run, picture=picture) for word in command))
    modules = set(answer.err.split())
    assert answer.status == (0 if command[0] == "predict" else 2), answer
    assert "torch" in modules
    assert not {"torchvision", "torch._dynamo", "sklearn", "matplotlib"} & modules


@pytest.mark.parametrize(
    "command", [[str(Path(sys.executable).with_name("densekit"))], [sys.executable, "-m", "densekit"]]
)
def test_installed_command_prints_its_version(shell, command):
    answer = shell(f"import subprocess\nsys.exit(subprocess.call([*{command}, '--version']))")
    assert answer == (0, f"{__version__}\n", "")


def test_reader_that_goes_away_is_no_error(shell):
    # standard output becomes a pipe that nobody reads
    answer = shell("import os\nread, write = os.pipe()\nos.dup2(write, 1)\nos.close(read)\nmain()", "recipes")
    assert answer == (0, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_is_one_line(shell):
    answer = shell("import os\nos.dup2(os.open('/dev/full', os.O_WRONLY), 1)\nmain()", "recipes")
    assert (answer.status, answer.err) == (2, "densekit: [Errno 28] No space left on device\n")


def test_names_that_the_terminal_cannot_show_are_escaped(shell):
    code = """
from densekit.cli.main import app
sys.stdout.reconfigure(encoding="ascii")
app.command(lambda: print("gr\\xfcn \\udcff"), name="say")
main()
"""
    assert shell(code, "say") == (0, "gr\\xfcn \\udcff\n", "")


def test_ctrl_c_is_one_line_and_status_130(shell):
    code = """
import os, signal, time
from densekit.cli.main import app
def sleep():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it may be ignored
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(30)
app.command(sleep, name="sleep")
main()
"""
    assert shell(code, "sleep") == (130, "", "densekit: interrupted\n")


def test_what_was_saved_says_how_to_go_on(shell):
    code = """
from densekit.cli.main import app
def work():
    raise KeyboardInterrupt("go on with densekit work --resume")
app.command(work, name="work")
main()
"""
    assert shell(code, "work") == (130, "", "densekit: interrupted; go on with densekit work --resume\n")
