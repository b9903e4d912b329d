"""The URL of a database, as operators give it: what is wrong with one is said without its password."""

from __future__ import annotations

import re
from importlib.util import find_spec

#: Of what SQLAlchemy reads, what the service can use: drivers that take libpq's options, and a file.
_FORM = re.compile(
    r"""sqlite(?:\+pysqlite)?:///[^?]+(?:\?.*)?
    |   postgresql(?:\+(?P<driver>psycopg2?))?://(?:[^:/@]*(?::[^@]*)?@)?   # who
        (?:\[[^/?\]]+\]|[^:/?@]*)(?::[0-9]+)?(?:/[^?]*)?(?:\?.*)?           # where""",
    re.VERBOSE | re.DOTALL,
)
_NEEDED = "needed is postgresql+psycopg://USER:PASSWORD@HOST/NAME or sqlite:////PATH, with special characters as %XX"
_SECRET = re.compile(r"(?<=://).*(?=@)|(?<=\?).*", re.DOTALL)


def fault(url: str) -> str | None:
    """What is wrong with it, if anything.

    >>> fault("postgres://me:secret@host/fedlas").partition(";")[0]
    "'postgres://***@host/fedlas' names no database that can be used"
    >>> fault("postgresql://me:secret@[::1]:5432/fedlas")
    """
    shown = repr(_SECRET.sub("***", url))
    found = _FORM.fullmatch(url)
    if found is None:
        return f"{shown} names no database that can be used; {_NEEDED}"
    driver = found["driver"] or "psycopg"
    if url.startswith("postgresql") and find_spec(driver) is None:
        return f"{shown} needs {driver}, which is not installed: pip install 'fedlas[postgresql]'"
    return None
