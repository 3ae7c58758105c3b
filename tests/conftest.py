"""Fixtures of more than one room: pictures of three colours, a classifier that has learned them, the web."""

import hashlib
import json
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from functools import partial
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {"deep blue": (40, 40, 200), "grün": (40, 200, 40), "red": (200, 40, 40)}
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=800,900"),
)
Paint = Callable[..., Path]


@pytest.fixture(scope="session")
def one_thread():
    """Let PyTorch compute in one thread."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def paint() -> Paint:
    """Write noisy 12x12 pictures of one colour: ``paint(folder, "red", 20)``; the folder is returned."""

    def write(folder: Path, colour: str, count: int, *, first: int = 0) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for i in range(first, first + count):
            noise = np.random.default_rng(i).normal(0, 20, (12, 12, 3))
            pixels = np.clip(COLOURS[colour] + noise, 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{i}.png")
        return folder

    return write


@pytest.fixture(scope="session")
def colours(tmp_path_factory, paint) -> Path:
    """train/ with 20 pictures a class, test/ with 8; one more in test/grün is red, so that 24 of 25 can be right."""
    root = tmp_path_factory.mktemp("colours")
    for name in COLOURS:
        paint(root / "train" / name, name, 20)
        paint(root / "test" / name, name, 8, first=100)
    paint(root / "test" / "grün", "red", 1, first=200)
    return root


@pytest.fixture(scope="session")
def colour_run(colours, tmp_path_factory) -> Path:
    """Run folder of a classifier that is right on every one of `colours` but the mislabelled one."""
    from densekit.console import Screen
    from densekit.training.train import train

    settings = {"model": "simple_cnn", "epochs": 4, "batch_size": 18, "optimizer": "adam", "lr": 0.01}
    fixed = {"device": "cpu", "precision": "fp32", "workers": 0, "tensorboard": False}
    folder = tmp_path_factory.mktemp("runs") / "colours"
    return train(colours, out=folder, screen=Screen(quiet=True), **settings, **fixed).folder


@pytest.fixture(scope="session")
def halves(tmp_path_factory) -> Path:
    """A table of noisy 12x24 pictures whose halves have a colour each, or are grey; the labels are the colours."""
    root = tmp_path_factory.mktemp("halves")
    random, names = np.random.default_rng(0), [None, *COLOURS]
    lines = ["path,labels,split"]
    for i in range(160):
        shown = [names[number] for number in random.integers(0, 4, 2)]
        halves = [np.full((12, 12, 3), COLOURS.get(name, (120, 120, 120))) for name in shown]
        pixels = np.concatenate(halves, 1) + random.normal(0, 20, (12, 24, 3))
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(root / f"{i}.png")
        lines.append(f"{i}.png,{'|'.join(filter(None, shown))},{'test' if i < 40 else ''}")
    (root / "halves.csv").write_text("\n".join(lines), encoding="utf-8")
    return root / "halves.csv"


@pytest.fixture(scope="session")
def label_run(halves, tmp_path_factory) -> Path:
    """Run folder of a multi-label classifier that has learned `halves`, and its test figures."""
    from densekit.console import Screen
    from densekit.evaluation.evaluate import evaluate
    from densekit.training.train import train

    settings = {"model": "simple_cnn", "epochs": 6, "batch_size": 18, "optimizer": "adam", "lr": 0.01}
    fixed = {"device": "cpu", "precision": "fp32", "workers": 0, "tensorboard": False}
    folder = tmp_path_factory.mktemp("runs") / "halves"
    train(halves, out=folder, screen=Screen(quiet=True), **settings, **fixed)
    evaluate(folder, device="cpu", screen=Screen(quiet=True))
    return folder


class Handler(SimpleHTTPRequestHandler):
    """Serves files; a test may change ``answer_with``, the further headers of an answer to a path."""

    def log_message(self, format, *args):
        self.server.requested.append(self.path)

    def end_headers(self):
        for name, value in self.server.answer_with(self.path).items():
            self.send_header(name, value)
        super().end_headers()


@pytest.fixture
def web(tmp_path):
    """A web server on this machine: it serves ``web.folder`` and notes ``web.requested``."""
    folder = tmp_path / "web"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    server.folder, server.requested, server.answer_with = folder, [], lambda path: {}
    server.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


class Hub(ThreadingHTTPServer):
    """The part of the Hugging Face Hub that gives files out; ``hub("owner/name", {"config.json": b"..."})`` commits."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repositories: dict[str, dict[str, dict[str, bytes]]] = {}  # name -> revision -> files
        self.requested: list[str] = []
        self.published: dict[str, bytes] = {}  # what the hub says that a file holds, where that is something else

    def __call__(self, name: str, files: dict[str, bytes]) -> str:
        commit = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.repositories.setdefault(name, {}).update({commit: files, "main": files})
        return commit

    def find(self, path: str) -> tuple[str, str | None, dict[str, bytes]] | str:
        """Return commit, file and files of ``owner/name[/resolve/REVISION/FILE]`` or ``.../revision/REVISION``."""
        owner, name, *rest = path.split("/")
        revisions = self.repositories.get(f"{owner}/{name}")
        if revisions is None:
            return "RepoNotFound"
        files = revisions.get(rest[1] if rest else "main")
        if files is None:
            return "RevisionNotFound"
        commit = next(commit for commit, known in revisions.items() if known is files and commit != "main")
        return commit, rest[2] if len(rest) > 2 else None, files


class HubHandler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, *arguments):
        self.server.requested.append(self.path)

    def do_GET(self):
        path = self.path.lstrip("/").partition("?")[0]
        found = self.server.find(path.removeprefix("api/models/"))
        if isinstance(found, str):
            return self.answer(404, b"", {"X-Error-Code": found})
        commit, file, files = found
        if file is None:
            siblings = [{"rfilename": name} for name in files]
            return self.answer(200, json.dumps({"id": path, "sha": commit, "siblings": siblings}).encode(), {})
        if file not in files:
            return self.answer(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        kind = hashlib.sha256 if file.endswith((".safetensors", ".bin", ".onnx")) else hashlib.sha1
        digest = kind(self.server.published.get(file, files[file])).hexdigest()
        return self.answer(200, files[file], {"ETag": f'"{digest}"', "X-Repo-Commit": commit})

    do_HEAD = do_GET  # noqa: N815

    def answer(self, status, content, headers):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)  # variables are read when it is imported
    monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def dead_url():
    """The address of a server that does not answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return f"http://127.0.0.1:{port}"


class Page(HTMLParser):
    """A page as its elements (name, attributes), and its text outside of the style sheet."""

    def __init__(self, source: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(source)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        if self.elements and self.elements[-1][0] != "style":
            self.words.append(data)

    def every(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of all elements of one kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def ids(self) -> list[str]:
        """All ids."""
        return [attributes["id"] or "" for _, attributes in self.elements if "id" in attributes]


@pytest.fixture(scope="session")
def read_page():
    """Parse the source of a page: ``read_page(text) -> Page``."""
    return Page


@pytest.fixture
def browse(tmp_path):
    """Open an address in a browser that has never been used: ``browse(address, "--dump-dom") -> standard output``."""
    if CHROMIUM is None:
        pytest.skip("needs chromium: apt-get install chromium")

    def run(address: str, *actions: str) -> str:
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", *actions, address]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=120)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def photos(tmp_path, paint) -> Path:
    """Seven pictures of three colours in folders with odd names, and files that are none."""
    root = tmp_path / "meine Bilder ☃"
    paint(root / "red", "red", 3)
    paint(root / "grün", "grün", 2, first=10)
    paint(root / "deep blue" / "deeper", "deep blue", 2, first=20)
    (root / "red" / "notes.txt").write_text("not a picture")
    (root / "red" / ".hidden.png").write_bytes(b"")
    return root


@pytest.fixture
def classifier():
    """Random weights, but batch norms that have seen something, so that modes differ."""
    import torch

    from densekit.classifier import Classifier
    from densekit.data.preprocessing import Preprocessing
    from densekit.models.catalogue import create_model

    torch.manual_seed(0)
    network = create_model("simple_cnn", num_classes=4, image_size=(8, 8))
    network.train()(torch.randn(16, 3, 8, 8))
    preprocessing = Preprocessing(channels=3, size=(8, 8), mean=(0.4,), std=(0.3, 0.2, 0.1))
    return Classifier(network, ("cat", "dög", "great tit", "elk"), preprocessing, {"trained": {"epoch": 3}})
