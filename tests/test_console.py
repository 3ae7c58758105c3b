import io

import pytest
from rich.console import Console
from rich.table import Table

from densekit.console import Screen, print_table


def recording(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=100, soft_wrap=True, highlight=False)


def text(screen: Screen) -> str:
    assert isinstance(screen.console.file, io.StringIO)
    return screen.console.file.getvalue()


def test_goes_to_standard_error(capsys):
    Screen().say("hello")
    assert capsys.readouterr() == ("", "hello\n")


@pytest.mark.parametrize(
    "line",
    ["a [bold]name[/bold].png", "x" * 300, "3 of 4 (75 %)", "grün ☃"],
    ids=["brackets", "long", "numbers", "unicode"],
)
def test_lines_come_out_as_they_are(line):
    screen = Screen(console=recording(terminal=False))
    screen.say(line)
    screen.warn(line)
    assert text(screen) == f"{line}\nwarning: {line}\n"


def test_quiet_shows_warnings_only():
    screen = Screen(quiet=True, console=recording(terminal=True))
    screen.say("said")
    screen.show(Table("head"))
    with screen.bar("work", 3) as bar:
        bar.advance()
    assert text(screen) == ""
    screen.warn("careful")
    assert "warning: careful" in text(screen)


def test_show_draws_tables():
    screen = Screen(console=recording(terminal=False))
    screen.show(Table("head"))
    assert "head" in text(screen)


@pytest.mark.parametrize(
    ("quiet", "terminal", "drawn"),
    [(False, True, True), (False, False, False), (True, True, False)],
    ids=["terminal", "pipe", "quiet"],
)
def test_bar_only_where_somebody_sees_it(quiet, terminal, drawn):
    screen = Screen(quiet=quiet, console=recording(terminal=terminal))
    assert screen.draws_bars == drawn
    with screen.bar("counting sheep", 4, unit="sheep") as bar:
        bar.advance()
        bar.advance(3, note="and a dog")
    assert ("counting sheep" in text(screen)) == drawn
    assert (bar.progress.tasks[0].completed, bar.progress.tasks[0].fields["note"]) == (4, "and a dog")


def test_bar_tells_the_rate():
    now = 0.0
    screen = Screen(console=Console(file=io.StringIO(), force_terminal=True, get_time=lambda: now))
    with screen.bar("counting sheep", 100, unit="sheep") as bar:
        for now in (1.0, 2.0, 3.0):  # noqa: B007 (the console reads it)
            bar.advance(30)
        bar.progress.refresh()
        assert "sheep 30/s" in text(screen)
        bar.advance(0, note="and a dog")
        bar.advance()
        bar.progress.refresh()
        assert text(screen).count("and a dog") == 1


def test_without_a_terminal_a_line_tells_every_half_minute_how_it_goes():
    now = 0.0
    screen = Screen(console=Console(file=io.StringIO(), force_terminal=False, width=100, get_time=lambda: now))
    with screen.bar("counting sheep", 1000, unit="sheep") as bar:
        for now in range(0, 70, 5):  # noqa: B007 (the console reads it)
            bar.advance(10)
    assert text(screen) == (
        "counting sheep: 70 of 1,000 sheep 2.0/s, 7:45 min left\n"
        "counting sheep: 130 of 1,000 sheep 2.0/s, 7:15 min left\n"
    )
    with screen.bar("downloading", None, unit="bytes") as bar:
        now += 30
        bar.advance(5)
    with screen.bar("epoch", 10, lines=False) as bar:
        now += 30
        bar.advance()
    assert text(screen).splitlines()[2:] == ["downloading: 5 bytes"]


def test_bar_ends_with_an_error_inside():
    screen = Screen(console=recording(terminal=True))
    with pytest.raises(KeyError), screen.bar("work", None) as bar:
        raise KeyError
    assert bar.progress.finished is False
    assert not bar.progress.live.is_started


def test_a_table_for_a_file_has_one_line_for_each_row(capsys):
    table = Table(box=None, pad_edge=False)
    table.add_column("variant", overflow="fold")
    table.add_column("accuracy")
    name = ", ".join(f"setting_{number}=True" for number in range(9))
    table.add_row(f"{name} :smile:", "99.4%")
    print_table(table)
    assert [line.split("  ")[0] for line in capsys.readouterr().out.splitlines()] == ["variant", f"{name} :smile:"]
