"""densekit serve, in a process of its own: it answers, and ends as it is told."""

import json
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest


class Server:
    """A running command: what it said so far, and where it answers."""

    def __init__(self, *arguments: object):
        command = [Path(sys.executable).with_name("densekit"), "serve", *arguments]
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
        )
        assert self.process.stderr
        self.said = self.process.stderr.readline()
        address = re.search(r"answers at (http://\S+)", self.said)
        assert address, self.said
        self.address = address[1]

    def end(self, signal_number: int) -> tuple[int, str, str]:
        self.process.send_signal(signal_number)
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out, err


@pytest.fixture
def serve():
    running = []

    def start(*arguments: object) -> Server:
        running.append(Server(*arguments))
        return running[-1]

    yield start
    for server in running:
        server.process.kill()
        server.process.communicate()


def test_it_answers_like_predict_until_interrupted(serve, densekit, colour_run, colours):
    picture = colours / "test" / "red" / "100.png"
    server = serve(colour_run, "--port", "0")
    assert "simple_cnn, 3 classes" in server.said
    with picture.open("rb") as file:
        answers = httpx2.post(f"{server.address}/predict?top=2", files={"pictures": file}).json()
    expected = json.loads(densekit("predict", colour_run, picture, "--top", "2", "--format", "json").out)
    assert [entry["label"] for entry in answers[0]["top"]] == [entry["label"] for entry in expected[0]["top"]]
    assert answers[0]["probability"] == pytest.approx(expected[0]["probability"])
    assert httpx2.get(f"{server.address}/model").json()["test"] is None  # it was not evaluated
    status, out, err = server.end(signal.SIGINT)
    assert (status, out) == (0, "")
    assert '"POST /predict?top=2 HTTP/1.1" 200 OK' in err
    assert "Traceback" not in err


def test_it_answers_in_the_precision_that_it_is_told(serve, densekit, colour_run, colours):
    picture = colours / "test" / "red" / "100.png"
    server = serve(colour_run, "--port", "0", "--device", "cpu", "--precision", "bf16")
    assert "cpu bf16" in server.said
    with picture.open("rb") as file:
        seen = httpx2.post(f"{server.address}/predict", files={"pictures": file}).json()[0]["probability"]
    options = ("--device", "cpu", "--format", "json")
    half, single = (
        json.loads(densekit("predict", colour_run, picture, *options, "--precision", name).out)[0]["probability"]
        for name in ("bf16", "fp32")
    )
    assert seen == half != single


def test_an_impatient_person_sees_no_traceback(serve, colour_run):
    server = serve(colour_run, "--port", "0")
    assert httpx2.get(f"{server.address}/health").json() == {"status": "ok"}
    server.process.send_signal(signal.SIGINT)
    status, _, err = server.end(signal.SIGINT)  # 130 where the second comes when it has ended already
    assert status in {0, 130}
    assert "Traceback" not in err


def test_a_service_manager_can_end_it(serve, colour_run):
    assert serve(colour_run, "--port", "0").end(signal.SIGTERM) == (-signal.SIGTERM, "", "")


def test_a_port_in_use_is_told(refused, colour_run):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        told = refused("serve", colour_run, "--port", port)
    assert told == f"cannot listen on 127.0.0.1, port {port} (Address already in use): try another --host or --port"


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_cannot_be_is_told(refused, colour_run, port):
    assert f"port {port}: use a number from 0" in refused("serve", colour_run, "--port", port)


def test_a_host_that_is_not_known_is_told(refused, colour_run):
    assert "cannot listen on no.such.host.invalid" in refused("serve", colour_run, "--host", "no.such.host.invalid")


def test_what_is_no_run_is_told(refused, tmp_path):
    assert "model.json" in refused("serve", tmp_path, "--port", "0")
