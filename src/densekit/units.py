"""Numbers with units, as people write them."""


def counted(number: int, one: str, several: str) -> str:
    """Write how many there are of something.

    >>> counted(1, "picture is", "pictures are"), counted(0, "picture is", "pictures are")
    ('1 picture is', '0 pictures are')
    """
    return f"{number} {one if number == 1 else several}"


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
