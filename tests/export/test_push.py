"""push, against a local stand-in of the Hub's HTTP API."""

import base64
import json
import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from densekit.console import Screen
from densekit.errors import CheckpointError, ExportError, SettingsError
from densekit.export.push import push

TOKEN = "hf_" + "x" * 30
QUIET = Screen(quiet=True)


class Hub(ThreadingHTTPServer):
    """Takes repositories and commits as the Hub does, from whoever has the token."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.made: list[dict] = []
        self.files: dict[str, bytes] = {}
        self.url = f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            self.server.made.append(json.loads(body))
            return self.answer(200, {"url": f"{self.server.url}/owner/name"})
        if self.path == "/api/models/owner/name/preupload/main":
            paths = [each["path"] for each in json.loads(body)["files"]]
            return self.answer(
                200, {"files": [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]}
            )
        if self.path == "/api/validate-yaml":  # of a README.md
            return self.answer(200, {"errors": [], "warnings": []})
        assert self.path == "/api/models/owner/name/commit/main"
        for line in body.decode().splitlines():
            entry = json.loads(line)
            if entry["key"] == "file":
                self.server.files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        url = f"{self.server.url}/owner/name/commit/{'a' * 40}"
        return self.answer(200, {"success": True, "commitOid": "a" * 40, "commitUrl": url})

    def answer(self, status, value):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        """Say nothing."""


@pytest.fixture
def hub(monkeypatch):
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)  # HF_ENDPOINT is read when it is imported
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_run_travels_with_a_card_and_without_its_places(colour_run, hub, capfd):
    address = push(colour_run, "owner/name", private=True)
    assert address == f"{hub.url}/owner/name"
    assert [(made["name"], made["organization"]) for made in hub.made] == [("name", "owner")]
    assert hub.made[0].get("private", hub.made[0].get("visibility") == "private")
    assert {"model.json", "model.safetensors", "README.md", "history.csv", "curves.png"} <= hub.files.keys()
    assert not {"settings.yaml", "metrics.json", "skipped.csv"} & hub.files.keys()
    assert hub.files["model.safetensors"] == (colour_run / "model.safetensors").read_bytes()
    assert hub.files["README.md"].startswith(b"---\nlibrary_name: densekit\n")
    said = capfd.readouterr()
    assert "uploading to" in said.err
    assert TOKEN not in said.out + said.err


def test_what_shows_pictures_or_places_stays(colour_run, hub, tmp_path):
    for name in ("model.json", "model.safetensors", "history.csv"):
        (tmp_path / name).write_bytes((colour_run / name).read_bytes())
    (tmp_path / "labels.png").write_bytes(b"a drawing")
    for name in (
        "report.html",
        "splits.csv",
        "predictions.csv",
        "settings.yaml",
        "metrics.json",
        "notes.txt",
        ".hidden",
    ):
        (tmp_path / name).write_text('{"data": "/home/me/pictures"}')
    push(tmp_path, "owner/name", screen=QUIET)
    assert hub.files.keys() == {"model.json", "model.safetensors", "history.csv", "labels.png", "README.md"}
    assert not any(b"/home/me" in content for content in hub.files.values())


def test_own_card_is_taken_as_it_is(colour_run, hub, tmp_path):
    for name in ("model.json", "model.safetensors"):
        (tmp_path / name).write_bytes((colour_run / name).read_bytes())
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / ".hidden").write_text("x")
    push(tmp_path, "owner/name", screen=QUIET)
    assert hub.files.keys() == {"model.json", "model.safetensors", "README.md"}
    assert hub.files["README.md"] == b"mine"


def test_wrong_token_says_how_to_log_in_and_not_the_token(colour_run, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(ExportError, match="refuses owner/name: log in with a token that may write there") as error:
        push(colour_run, "owner/name", screen=QUIET)
    assert "hf_wrong" not in str(error.value)


def test_name_that_no_repository_can_have(colour_run, hub, capfd):
    with pytest.raises(SettingsError, match=r"'a/b/c' is not a repository name: use owner/name"):
        push(colour_run, "a/b/c")
    assert hub.made == []
    assert "uploading" not in capfd.readouterr().err


def test_hub_that_cannot_be_reached(colour_run, hub, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ExportError, match=r"cannot reach http://127.0.0.1:9"):
        push(colour_run, "owner/name", screen=QUIET)


def test_folder_without_a_classifier(hub, tmp_path):
    with pytest.raises(CheckpointError, match=r"cannot read .*model.json"):
        push(tmp_path, "owner/name", screen=QUIET)


def test_a_card_older_than_the_figures_is_told(colour_run, hub, tmp_path, capfd):
    for name in ("model.json", "model.safetensors"):
        (tmp_path / name).write_bytes((colour_run / name).read_bytes())
    for name, time in (("README.md", 1), ("metrics.json", 2)):
        (tmp_path / name).write_text("{}")
        os.utime(tmp_path / name, (time, time))
    push(tmp_path, "owner/name")
    told = " ".join(capfd.readouterr().err.split())
    assert "README.md is older than" in told
    assert "the figures in it may be others" in told
