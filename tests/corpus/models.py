"""Every bad file for the models route."""

from __future__ import annotations

from tests.corpus import foreign, graphs, reaching

CASES = [*foreign.CASES, *graphs.CASES, *reaching.CASES]
