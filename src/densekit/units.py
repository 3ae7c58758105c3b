"""Numbers with units, as people write them, and names on one line."""

import shlex
from collections.abc import Iterable


def counted(number: int, one: str, several: str) -> str:
    """Write how many there are of something.

    >>> counted(1, "picture is", "pictures are"), counted(0, "picture is", "pictures are")
    ('1 picture is', '0 pictures are')
    """
    return f"{number} {one if number == 1 else several}"


def some(names: Iterable[str], most: int = 5) -> str:
    """Write the first of some names, and how many more there are.

    >>> some(["cat", "dog", "cow"], most=2)
    "'cat', 'dog' and 1 more"
    """
    names = list(names)
    return ", ".join(map(repr, names[:most])) + (f" and {len(names) - most} more" if len(names) > most else "")


def short(number: float) -> str:
    """Write a large number in three digits.

    >>> short(12_345_678), short(999.6e9), short(17)
    ('12.3 M', '1 T', '17')
    """
    for unit in ("", "k", "M", "G", "T", "P", "E"):
        rounded = float(f"{number:.3g}")
        if rounded < 1000 or unit == "E":
            return f"{rounded:g} {unit}".rstrip()
        number /= 1000
    raise AssertionError


def duration(seconds: float) -> str:
    """Write a time as people say it.

    >>> duration(75)
    '1:15 min'
    """
    minutes, seconds = divmod(round(seconds), 60)
    if not minutes:
        return f"{seconds} s"
    return f"{minutes}:{seconds:02d} min" if minutes < 60 else f"{minutes // 60}:{minutes % 60:02d} h"


def in_shell(path: object) -> str:
    """Write a path or name as a shell takes it for one word.

    >>> in_shell("my run"), in_shell("runs/a")
    ("'my run'", 'runs/a')
    """
    return shlex.quote(str(path))


def on_one_line(name: str) -> str:
    """Write a name whose line breaks and other signs that cannot be seen are escaped.

    >>> on_one_line("a\\nb")
    'a\\\\nb'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in name)


def shorten(name: str) -> str:
    """Cut the middle out of a long name: beginning and end tell names apart.

    >>> shorten("a photograph of a cat")
    'a photogr…of a cat'
    """
    return name if len(name) <= 18 else f"{name[:9]}…{name[-8:]}"


def percent(share: float | None, digits: int = 1) -> str:
    """Write a share.

    >>> percent(0.1234), percent(None)
    ('12.3%', '-')
    """
    return "-" if share is None else f"{share:.{digits}%}"
