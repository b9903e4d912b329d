"""The service's checks of `fedlas doctor`: a database, a broker, files and protections that are there, or are not."""

from __future__ import annotations

from pathlib import Path

import pytest

from service import doctor
from service.processes import wall
from service.registry.registry import Registry
from service.registry.settings import ServiceSettings


def _checked(monkeypatch: pytest.MonkeyPatch, folder: Path, **variables: str) -> dict[str, tuple[str, str]]:
    monkeypatch.setenv("FEDLAS_DATA_DIR", str(folder))
    for name, value in {"wall": "off", **variables}.items():
        monkeypatch.setenv(f"FEDLAS_{name.upper()}", value)
    return {line["name"]: (line["status"], line["found"]) for line in doctor.check()}


def test_what_is_not_there_yet_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before the first start nothing is judged, and nothing is made."""
    assert {name: status for name, (status, _) in _checked(monkeypatch, tmp_path / "data").items()} == dict.fromkeys(
        ["database", "broker", "files", "wall"], "skip"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_registry_that_is_there_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Tables of this version are well; a database without them is named."""
    registry = Registry.open(ServiceSettings(data_dir=tmp_path))
    registry.check()  # SQLite makes its file
    assert _checked(monkeypatch, tmp_path)["database"] == (
        "warn", f"sqlite:///{tmp_path}/registry.sqlite answers, and its tables are of another version"
    )  # fmt: skip
    registry.migrate()
    registry.close()
    found = _checked(monkeypatch, tmp_path)
    assert found["database"][0] == "ok"
    assert found["files"] == ("ok", f"{tmp_path}/artifacts takes files")


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("postgresql+psycopg://u:secret@127.0.0.1:1/x", "postgresql+psycopg://u:***@127.0.0.1:1/x: connection failed"),
        ("sqlite:////etc/passwd", "sqlite:////etc/passwd: file is not a database"),
    ],
)
def test_a_database_that_cannot_be_used_fails_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, found: str
) -> None:
    """The sentence says what was found, and has no password."""
    status, told = _checked(monkeypatch, tmp_path, database_url=url)["database"]
    assert status == "fail"
    assert told.startswith(found)
    assert "\n" not in told


@pytest.mark.parametrize(
    ("url", "found"),
    [("redis://:secret@127.0.0.1:1/0", "redis://:***@127.0.0.1:1/0: Error 111"), ("nonsense", "FEDLAS_BROKER_URL: ")],
)
def test_a_broken_broker_url_fails_in_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str, found: str
) -> None:
    """The sentence says what was found, and has no password."""
    status, told = _checked(monkeypatch, tmp_path, broker_url=url)["broker"]
    assert status == "fail"
    assert told.startswith(found)


def test_files_that_cannot_be_kept_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder that takes none, and a bucket that does not answer."""
    assert _checked(monkeypatch, tmp_path, artifacts="/proc")["files"][0] == "fail"
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("ENDPOINT_URL", "http://127.0.0.1:1")):
        monkeypatch.setenv(f"AWS_{name}", value)
    status, told = _checked(monkeypatch, tmp_path, artifacts="s3://bucket/x")["files"]
    assert (status, told) == (
        "fail",
        's3://bucket/x: Could not connect to the endpoint URL: "http://127.0.0.1:1/bucket"',
    )


def test_settings_that_make_no_sense_fail(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The variable is named, and nothing else is examined by such settings."""
    assert list(_checked(monkeypatch, tmp_path, port="abc", max_predict_rows="0")) == ["settings"]
    lines = [line["found"] for line in doctor.check()]
    assert {line.partition(":")[0] for line in lines} == {"FEDLAS_PORT", "FEDLAS_MAX_PREDICT_ROWS"}


def test_each_protection_of_the_wall_is_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A line for each: one that this machine lacks is a warning, and a failure where the wall is required."""
    found = _checked(monkeypatch, tmp_path / "data", wall="preferred")
    tried = {name: status for name, (status, _) in found.items() if name.startswith("wall, ")}
    assert set(tried) == {f"wall, {control.replace('_', ' ')}" for control in wall.PROTECTIONS}
    assert set(tried.values()) <= {"ok", "warn"}
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(wall, "trial", lambda _: {"files": "off: syscall: Function not implemented"})
    status, told = _checked(monkeypatch, tmp_path, wall="required")["wall, files"]
    assert (status, told) == (
        "fail",
        "predictions are answered without this protection: reads only the served folder, writes nothing "
        "(syscall: Function not implemented)",
    )
