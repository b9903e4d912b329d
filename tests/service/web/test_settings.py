"""The page of settings: what runs, and every setting with its variable, but no secret."""

from __future__ import annotations

from service.registry.settings import ServiceSettings
from tests.helpers.api import MakeApi

PAGE = {"Accept": "text/html"}
KEY = "an-administrators-key-0123456789"


def test_every_setting_is_there_and_no_secret(make_api: MakeApi) -> None:
    """Each variable stands once with its value; of a key it is said that it is set."""
    api = make_api(api_keys=frozenset({KEY}), max_predict_rows=4321)
    page = api.client.get("/settings", headers={**PAGE, "Authorization": f"Bearer {KEY}"}).text
    for name in ServiceSettings.model_fields:
        assert page.count(f"<code>FEDLAS_{name.upper()}</code>") == 1, name
    assert KEY not in page
    given = page[page.index('aria-label="Set here"') : page.index('aria-label="At their default"')]
    rows = {row.partition("</code>")[0]: row for row in given.split("<code>FEDLAS_")[1:]}
    assert ">set</td>" in rows["API_KEYS"]
    assert ">4321</td>" in rows["MAX_PREDICT_ROWS"]
    assert "4,321 rows" in page
