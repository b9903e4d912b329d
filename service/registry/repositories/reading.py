"""How lists are read: a few rows at a time, since a page may end long before its limit."""

from __future__ import annotations

#: Rows that are held at once. A row of an older version may have 4 MiB, and as much again while it is parsed.
AT_ONCE = 4
