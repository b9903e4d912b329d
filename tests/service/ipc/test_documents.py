"""Documents hold what they may and no more; which process answers is the same for all who ask."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from service.acceptor.handing_on import is_whole, path_of
from service.ipc.documents import CONTROL, SERVING, Gone, Peer, place_of, place_of_request
from service.transport.request_head import origin_form

PREDICTIONS = ["/v1/models/spam/predict", "/v2/models/a%20b/infer", "/v2/models/spam/versions/3/infer"]


@pytest.mark.parametrize("name", ["control", "acceptor", "serving-1", "serving-12"])
def test_processes_have_names_of_one_form(name: str) -> None:
    """A name becomes that of a folder, so that no other is read."""
    assert Peer(name=name, pid=1, start=1).name == Gone(name=name).name == name
    for wrong in ("", "/etc", f"../{name}", f"{name}/", f"{name}\n", f"x{name}", "serving-0", "serving-", "group-1"):
        with pytest.raises(ValidationError):
            Gone(name=wrong)


@pytest.mark.parametrize("path", PREDICTIONS)
def test_predictions_go_to_serving_processes(path: str) -> None:
    """Predictions go to any of the serving processes."""
    assert place_of_request(path.encode()) == place_of("serving-2") == SERVING


@pytest.mark.parametrize(
    "path",
    ["/", "", "*", "/v1/models", "/v1/models/spam", "/v1/models//predict", "/v1/models/spam/predict/",
     "/v2/models/stats", "/v1/models/a/b/predict", "/v1/models/spam/predict?a",
     "//v1/models/spam/predict", "/V1/models/spam/predict",
     "/v1/models/spam/predict\n", "/v2/models/spam/versions/infer/x", "/v2/repository/models/spam/load"],
)  # fmt: skip
def test_everything_else_goes_to_control(path: str) -> None:
    """Everything else goes to control, also a path that is nearly a prediction."""
    assert place_of_request(path.encode()) == CONTROL


@pytest.mark.parametrize(
    "target",
    [b"/v1/models/a/predict", b"/v1/models/a/predict?b=/c", b"http://host:1/v1/models/a/predict", b"/", b"/a%20b?",
     b"https://host/v2/models/a/infer?x", b"/v1//x"],
)  # fmt: skip
def test_acceptor_and_transport_read_the_same_path(target: bytes) -> None:
    """Acceptor and transport agree on the path, or each would hand the connection to the other."""
    head = b"POST %b HTTP/1.1\r\nHost: a\r\n\r\nbody" % target
    assert path_of(head) == path_of(b"\r\n" + head) == origin_form(target)[0]
    assert (is_whole(head), is_whole(head[:-8]), is_whole(b"a" * 16 * 1024)) == (True, False, True)


@pytest.mark.parametrize("head", [b"", b"\x16\x03\x01\x02\x00", b"GET", b"GET a b", b"\r\n\r\n"])
def test_what_is_no_head_has_no_path(head: bytes) -> None:
    """A request without a path goes to control."""
    assert path_of(head) == b""
