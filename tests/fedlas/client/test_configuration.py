"""The choice of the server and of the key."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fedlas.client.configuration import load_configuration
from fedlas.client.errors import ConfigurationError

PROFILES = """
profile = "team"
[profiles.team]
url = "https://team.example/base/"
key_file = "{folder}/team.key"
[profiles.mine]
url = "http://127.0.0.1:9"
key = "k-mine"
[profiles.odd]
uri = "x"
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """An environment whose configuration folder has profiles."""
    folder = tmp_path / "fedlas"
    folder.mkdir()
    (folder / "team.key").write_text("k-team\n")
    (folder / "config.toml").write_text(PROFILES.format(folder=folder))
    return {"XDG_CONFIG_HOME": str(tmp_path)}


def test_a_user_without_a_home_has_no_profiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container's uid that no user database knows gets this machine's service, as anybody without profiles."""
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(os, "getuid", lambda: 2_000_000_001)
    assert load_configuration(environment={}).url == "http://127.0.0.1:8000"


def test_the_nearest_word_counts(environment: dict[str, str], tmp_path: Path) -> None:
    """Given, then the environment, then the profile, then this machine."""
    nothing = load_configuration(environment={"XDG_CONFIG_HOME": str(tmp_path / "nowhere")})
    assert (nothing.url, nothing.key, nothing.is_local) == ("http://127.0.0.1:8000", None, True)
    team = load_configuration(environment=environment)
    assert (team.url, team.key, team.is_local) == ("https://team.example/base", "k-team", False)
    mine = load_configuration(profile="mine", environment={**environment, "FEDLAS_URL": "http://other"})
    assert (mine.url, mine.key) == ("http://127.0.0.1:9", "k-mine")
    assert load_configuration(environment={**environment, "FEDLAS_PROFILE": "mine"}).key == "k-mine"
    given = load_configuration("http://given:1/", "k", environment={**environment, "FEDLAS_API_KEY": "no"})
    assert (given.url, given.key) == ("http://given:1", "k")


def test_a_profiles_key_goes_nowhere_else(environment: dict[str, str]) -> None:
    """Another URL gets no key of the profile's; the profile's own URL does; and no key is ever shown."""
    assert load_configuration("http://elsewhere", environment=environment).key is None
    assert load_configuration(environment={**environment, "FEDLAS_URL": "http://elsewhere"}).key is None
    same = load_configuration("https://team.example/base", environment=environment)
    assert same.key == "k-team"
    assert "k-team" not in repr(same)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"url": "localhost:8000"}, "'localhost:8000' is no URL of a server; expected one such as"),
        ({"url": "http://"}, "is no URL of a server"),
        ({"url": "http://h:notaport"}, "is no URL of a server"),
        ({"url": "http://k@h"}, "the key belongs into FEDLAS_API_KEY or a profile"),
        ({"key": "two words"}, "the key has characters that no key has"),
        ({"key": "schlüssel"}, "the key has characters that no key has"),
        ({"profile": "theirs"}, r"there is no profile 'theirs' in .*; there are: team, mine, odd"),
        ({"profile": "odd"}, "profile 'odd' has 'uri'; known are url, key and key_file"),
    ],
)
def test_what_is_of_no_use_is_a_sentence(arguments: dict[str, str], sentence: str, environment: dict[str, str]) -> None:
    """A sentence names the value that is of no use and what is needed."""
    with pytest.raises(ConfigurationError, match=sentence):
        load_configuration(**arguments, environment=environment)


def test_broken_profiles_are_named(environment: dict[str, str], tmp_path: Path) -> None:
    """A missing key file and a file that is no TOML are reported with their paths."""
    (tmp_path / "fedlas" / "team.key").unlink()
    with pytest.raises(ConfigurationError, match=r"key_file .*team\.key cannot be read: No such file"):
        load_configuration(environment=environment)
    (tmp_path / "fedlas" / "config.toml").write_text("url = ")
    with pytest.raises(ConfigurationError, match=r"the profiles in .*config\.toml cannot be read: "):
        load_configuration(environment=environment)
