"""Wording: shares and lists, as sentences and pages write them."""

from __future__ import annotations

from collections.abc import Sequence


def percent(share: float | None, digits: int = 1) -> str:
    """A share in percent; what is short of the whole is not written as the whole.

    >>> percent(0.1234), percent(None), percent(1.0), percent(0.99999, 0)
    ('12.3 %', '–', '100.0 %', '> 99 %')
    """
    if share is None:
        return "–"
    text = f"{100 * share:.{digits}f}"
    if share < 1 and float(text) == 100:
        return f"> {100 - 10**-digits:.{digits}f} %"
    return f"{text} %"


def exact(value: float) -> str:
    """The fewest digits that are this number again, since a threshold of fewer is another one.

    >>> exact(9.0), exact(0.1), exact(0.9999999999989683)
    ('9', '0.1', '0.9999999999989683')
    """
    return repr(float(value)).removesuffix(".0")


def signed(value: float, digits: int = 4) -> str:
    """A difference with its sign; what rounds to zero is +0.

    >>> signed(0.0123), signed(-0.25, 1), signed(-0.00001)
    ('+0.0123', '−0.2', '+0.0000')
    """
    # z: what rounds to zero has no minus.
    return f"{value:+z.{digits}f}".replace("-", "−")


def direction(gap: float) -> str:
    return "too sure" if gap > 0 else "too cautious"


def listed(parts: Sequence[str]) -> str:
    """Words in a row.

    >>> listed(["a", "b", "c"]), listed(["a", "b"]), listed(["a"])
    ('a, b and c', 'a and b', 'a')
    """
    return " and ".join([", ".join(parts[:-1]), parts[-1]]) if len(parts) > 1 else "".join(parts)


def as_sentence(message: str) -> str:
    """A message as a sentence of its own; an id or a field at its beginning stays as it is.

    >>> as_sentence("a batch of 8 was freed"), as_sentence("Is it?"), as_sentence("job_1 has ended")
    ('A batch of 8 was freed.', 'Is it?', 'job_1 has ended.')
    """
    whole = message if message.endswith((".", "!", "?", "…")) else f"{message}."
    return whole[:1].upper() + whole[1:] if message.partition(" ")[0].isalpha() else whole


def letter(place: int) -> str:
    """A candidate's short name by its place, counted from 0.

    >>> letter(0), letter(25), letter(26), letter(27), letter(702)
    ('A', 'Z', 'AA', 'AB', 'AAA')
    """
    rest, last = divmod(place, 26)
    return (letter(rest - 1) if rest else "") + chr(ord("A") + last)
