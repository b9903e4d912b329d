"""The pages of scores, as a browser without scripts goes: from a file to a promise, and what is refused on the way."""

from __future__ import annotations

import pytest

from service.web import calibrators
from tests.helpers.api import Api
from tests.helpers.staging import stage_bytes

PAGE = {"Accept": "text/html"}
HOSTILE = "<script>alert('1')</script>"
ROWS = "score,label,language\n" + "".join(f"{i / 30:.2f},{int(i > 90 or i % 3 == 0)},{HOSTILE}\n" for i in range(300))


def sent(api: Api, monkeypatch: pytest.MonkeyPatch, content: str, **fields: str) -> str:
    """The page that a form comes back as, or leads to once its file was fitted."""
    monkeypatch.setattr(calibrators, "_FITTED_S", 0.0)
    files = {"file": ("judge.csv" if content else "", content.encode())}
    answer = api.client.post("/calibrators/new", files=files, data=fields, headers=PAGE, follow_redirects=False)
    if not answer.is_redirect:
        return answer.text
    api.work(answer.headers["location"].rpartition("/")[2])
    return api.client.get(answer.headers["location"], headers=PAGE).text


def test_from_a_file_to_a_promise(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page says the promise that a form asked for, to a script its part alone; a bad report leaves the promise."""
    assert "No scores have been sent yet" in api.client.get("/calibrators", headers=PAGE).text
    asked = {"max_error": "7,5 %", "confidence": "90", "slice": "language", "valid_for": "v1", "publish_as": "judge"}
    page = sent(api, monkeypatch, ROWS, **asked)
    [record] = api.client.get("/v1/calibrators").json()["data"]
    path, promise = f"/calibrators/{record['id']}", record["promise"]
    assert (promise["max_error"], promise["confidence"], record["version"]) == (0.075, 0.9, 1)
    assert page.index(promise["sentence"]) < page.index("<svg") < page.index(record["predict_url"])
    assert ("that is promised." in page, "version 1 of" in page, HOSTILE in page) == (True, True, False)
    assert promise["sentence"] in api.client.get("/calibrators", headers=PAGE).text
    assert api.client.get(f"{path}/report", headers=PAGE).url.path == path
    assert "is published as" in api.client.post(f"{path}/delete", headers=PAGE).text
    with stage_bytes(api.registry.artifacts, b'{"promise": 1}') as staged, api.registry.write() as unit:
        unit.calibrators.get(record["id"]).report_sha256 = staged.keep()
    part = api.client.get(path, headers={**PAGE, "HX-Request": "true"}).text
    assert (promise["sentence"] in part, "report.html" in part, "<html" in part) == (True, True, False)


def test_what_is_refused_is_said(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bad field comes back at its place with what was entered; a bad file is told on the page of its record."""
    assert 'id="max_error-error"' in sent(api, monkeypatch, ROWS, max_error="much")
    assert "Choose a file." in sent(api, monkeypatch, "")
    assert 'id="publish_as-error"' in sent(api, monkeypatch, ROWS, publish_as="no name")
    assert "bad_labels" in sent(api, monkeypatch, "score,label\n" + "1,maybe\n" * 20)
