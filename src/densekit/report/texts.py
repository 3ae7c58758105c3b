"""How the report writes numbers."""

from densekit.evaluation.report import shorten
from densekit.training.reporting import duration


def percent(share: float | None, digits: int = 1) -> str:
    r"""Write a share; number and sign stay on one line.

    >>> percent(0.1234), percent(None)
    ('12.3\xa0%', '-')
    """
    return "-" if share is None else f"{share:.{digits}%}".replace("%", "\xa0%")


def count(number: float) -> str:
    """Write a number of things.

    >>> count(12345.2)
    '12,345'
    """
    return f"{number:,.0f}"


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


FILTERS = {"shorten": shorten, "percent": percent, "count": count, "short": short, "duration": duration}
