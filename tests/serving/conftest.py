import pytest
from fastapi.testclient import TestClient

from densekit.loading import load_classifier
from densekit.serving.app import create_app


@pytest.fixture(scope="session")
def colour_classifier(colour_run):
    return load_classifier(colour_run, device="cpu")


@pytest.fixture
def client(colour_classifier):
    with TestClient(create_app(colour_classifier)) as client:
        yield client


@pytest.fixture
def upload(colours):
    """The file of a test picture as a form takes it: ``upload("red")``."""

    def form(colour: str) -> tuple[str, bytes]:
        path = colours / "test" / colour / "100.png"
        return f"{colour}.png", path.read_bytes()

    return form
