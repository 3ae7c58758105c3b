"""The port that a server listens on."""

import json
import shutil
import socket

import pytest

from densekit.errors import SettingsError
from densekit.loading import fingerprint
from densekit.serving.serve import _address, _listen, serve


def test_an_answer_goes_out_at_once():
    """Not when the client has confirmed the first half of it, 40 ms later."""
    with (
        _listen("127.0.0.1", 0) as listening,
        socket.create_connection(listening.getsockname()),
        listening.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(
    ("host", "shown"),
    [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("localhost", None), ("::1", "[::1]"), ("::", "[::1]")],
)
def test_the_address_can_be_opened(host, shown):
    if ":" in host and not socket.has_ipv6:
        pytest.skip("no IPv6 on this machine")
    with _listen(host, 0) as listening:
        address = _address(listening)
        assert shown is None or address == f"http://{shown}:{listening.getsockname()[1]}"
        name, _, port = address.removeprefix("http://").rpartition(":")
        socket.create_connection((name.strip("[]"), int(port))).close()


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".com", "no.such.host.invalid"])
def test_a_host_that_cannot_be_is_told(host):
    with pytest.raises(SettingsError, match=f"cannot listen on {host}"):
        _listen(host, 0)


@pytest.mark.parametrize("fused", [True, False])
def test_what_is_asked_for_reaches_the_application(fused, colour_run, tmp_path, monkeypatch):
    copy = shutil.copytree(colour_run, tmp_path / "run")
    figures = {"split": "test", "accuracy": 0.5, "classifier": fingerprint(copy)}
    (copy / "metrics.json").write_text(json.dumps(figures))
    seen, asked = {}, []

    def note(classifier, **given):
        seen.update(given)
        raise SettingsError("seen")

    monkeypatch.setattr("densekit.serving.app.create_app", note)
    monkeypatch.setattr("densekit.serving.serve.fuse_where_faster", asked.append)
    with pytest.raises(SettingsError, match="seen"):
        serve(copy, port=0, device="cpu", fused=fused, batch_size=7, max_upload_mb=0.5)
    assert seen == {"metrics": figures, "batch_size": 7, "max_upload_mb": 0.5}
    assert len(asked) == fused
