"""The configuration: which server, and with which key.

In this order: what is given, `FEDLAS_URL` and `FEDLAS_API_KEY`, a profile, `http://127.0.0.1:8000`. Profiles stand in
`config.toml` in `$XDG_CONFIG_HOME/fedlas` (`~/.config/fedlas`); `FEDLAS_PROFILE`, or `profile` in the file, names one:

    profile = "team"

    [profiles.team]
    url = "https://fedlas.example.org"
    key_file = "~/.config/fedlas/team.key"      # or key = "…"
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fedlas.client.errors import ConfigurationError

DEFAULT_URL = "http://127.0.0.1:8000"
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True)
class Configuration:
    """A server and the key for it; the key is not shown."""

    url: str
    key: str | None = field(default=None, repr=False)

    @property
    def is_local(self) -> bool:
        """True for a server on this machine, where no proxy stands between."""
        return urlsplit(self.url).hostname in _LOOPBACK


def load_configuration(
    url: str | None = None,
    key: str | None = None,
    *,
    profile: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Configuration:
    """The server and the key to use; raises ConfigurationError.

    A profile's key goes to the profile's URL only.
    """
    url = url or (environment.get("FEDLAS_URL") if profile is None else None)
    key = key or (environment.get("FEDLAS_API_KEY") if profile is None else None)
    if profile is None:
        profile = environment.get("FEDLAS_PROFILE") or None
    if url is None or key is None or profile is not None:
        # Not `Path.expanduser`, which raises RuntimeError for a container's user without a home.
        folder = Path(os.path.expanduser(environment.get("XDG_CONFIG_HOME") or "~/.config"))
        settings = _profile(profile, folder / "fedlas" / "config.toml")
        their_url = settings.get("url")
        if key is None and (url is None or (their_url is not None and _checked(url) == _checked(their_url))):
            key = _key_of(settings)
        url = url or their_url
    key = None if not key else key.strip()
    if key is not None and (not key.isascii() or not key.isprintable() or " " in key):
        raise ConfigurationError(
            "bad_key", "the key has characters that no key has: blanks, line ends or letters beyond ASCII"
        )
    return Configuration(_checked(url or DEFAULT_URL), key)


def _profile(name: str | None, path: Path) -> Mapping[str, str]:
    """The named profile, or the one that the file names; empty where neither does."""
    content = _content(path)
    name = name or content.get("profile")
    if name is None:
        return {}
    if not isinstance(name, str):
        raise ConfigurationError("bad_profile", f"{path}: profile must be text in quotes")
    profiles = content.get("profiles")
    profile = profiles.get(name) if isinstance(profiles, dict) else None
    if not isinstance(profile, dict):
        there = ", ".join(profiles) if isinstance(profiles, dict) and profiles else "none"
        raise ConfigurationError("unknown_profile", f"there is no profile {name!r} in {path}; there are: {there}")
    if strange := [part for part in profile if part not in ("url", "key", "key_file")]:
        raise ConfigurationError(
            "bad_profile", f"{path}: profile {name!r} has {strange[0]!r}; known are url, key and key_file"
        )
    if wrong := [part for part, value in profile.items() if not isinstance(value, str)]:
        raise ConfigurationError("bad_profile", f"{path}: {wrong[0]} of profile {name!r} must be text in quotes")
    return profile


def _content(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise ConfigurationError("bad_profile", f"the profiles in {path} cannot be read: {reason}") from None


def _key_of(profile: Mapping[str, str]) -> str | None:
    if "key_file" not in profile:
        return profile.get("key")
    path = Path(os.path.expanduser(profile["key_file"]))
    try:
        return path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise ConfigurationError("bad_key", f"the profile's key_file {path} cannot be read: {reason}") from None


def _checked(url: str) -> str:
    try:
        parts = urlsplit(url.strip())
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        usable = False
    if not usable:
        raise ConfigurationError("bad_url", f"{url!r} is no URL of a server; expected one such as {DEFAULT_URL}")
    if parts.query or parts.fragment or parts.username is not None:
        message = f"{url!r} has more than a server and a path; the key belongs into FEDLAS_API_KEY or a profile"
        raise ConfigurationError("bad_url", message)
    return url.strip().rstrip("/").removesuffix("/v1")
