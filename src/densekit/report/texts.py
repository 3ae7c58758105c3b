"""How the report writes numbers."""

from densekit.evaluation.report import shorten
from densekit.units import duration, short


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


FILTERS = {"shorten": shorten, "percent": percent, "count": count, "short": short, "duration": duration}
