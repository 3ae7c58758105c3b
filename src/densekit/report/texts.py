"""How the report writes numbers."""

from densekit.units import duration, percent, short, shorten


def percent_on_one_line(share: float | None, digits: int = 1) -> str:
    r"""Write a share whose number and sign a browser keeps on one line.

    >>> percent_on_one_line(0.1234)
    '12.3\xa0%'
    """
    return percent(share, digits).replace("%", "\xa0%")


def count(number: float) -> str:
    """Write a number of things.

    >>> count(12345.2)
    '12,345'
    """
    return f"{number:,.0f}"


FILTERS = {"shorten": shorten, "percent": percent_on_one_line, "count": count, "short": short, "duration": duration}
