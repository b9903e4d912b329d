"""What a document may hold."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from service.ipc.documents import Gone, Peer


@pytest.mark.parametrize("name", ["control", "acceptor", "serving-1", "alone-12"])
def test_processes_have_names_of_one_form(name: str) -> None:
    """A name becomes that of a folder, so that no other is read."""
    assert Peer(name=name, pid=1, start=1).name == Gone(name=name).name == name
    for wrong in ("", "/etc", f"../{name}", f"{name}/", f"{name}\n", f"x{name}", "serving-0", "serving-", "group-1"):
        with pytest.raises(ValidationError):
            Gone(name=wrong)
