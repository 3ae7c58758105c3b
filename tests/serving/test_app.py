"""The application, request by request: its answers are those of `Classifier.predict` and `heat_maps`."""

import asyncio
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from starlette.exceptions import HTTPException
from torch import nn

from densekit.data.pictures import read_picture
from densekit.data.preprocessing import Preprocessing
from densekit.errors import SettingsError
from densekit.explain.heat_maps import heat_maps
from densekit.explain.overlay import overlay
from densekit.explain.sheet import fit
from densekit.loading import load_classifier
from densekit.serving.app import create_app
from densekit.serving.upload_limit import UploadLimit


def test_answers_are_those_of_predict(client, colour_classifier, colours, upload):
    files = [colours / "test" / colour / "100.png" for colour in ("red", "grün", "deep blue")]
    answers = client.post("/predict?top=2", files=[("pictures", upload(file.parent.name)) for file in files])
    assert answers.status_code == 200
    for answer, expected in zip(answers.json(), colour_classifier.predict(files, top=2), strict=True):
        assert answer["path"] == f"{expected.label}.png"
        assert answer["label"] == expected.label
        assert [entry["label"] for entry in answer["top"]] == [label for label, _ in expected.top]
        shares = torch.tensor([entry["probability"] for entry in answer["top"]])
        torch.testing.assert_close(shares, torch.tensor([share for _, share in expected.top]))


def test_all_classes_are_named_if_wanted(client, upload):
    top = client.post("/predict?top=99", files={"pictures": upload("red")}).json()[0]["top"]
    assert len(top) == 3
    assert sum(entry["probability"] for entry in top) == pytest.approx(1)


def test_a_broken_picture_is_told_and_the_others_are_answered(client, upload):
    broken = {"text.png": b"no picture", "empty.jpg": b"", "cut.png": upload("red")[1][:200]}
    answers = client.post("/predict", files=[("pictures", file) for file in (*broken.items(), upload("red"))])
    assert answers.status_code == 200
    *told, answered = answers.json()
    assert [entry["path"] for entry in told] == list(broken)
    assert told[0]["error"] == "not a picture of a known format"
    assert told[1]["error"] == "the file is empty"
    assert told[2]["error"].startswith("damaged or cut short")
    assert answered["label"] == "red"


def test_where_no_picture_can_be_read_the_status_says_so(client):
    answers = client.post("/predict", files={"pictures": ("a.png", b"no picture")})
    assert answers.status_code == 422
    assert answers.json() == [{"path": "a.png", "error": "not a picture of a known format"}]


def test_a_picture_that_would_fill_the_memory_is_told_and_the_others_are_answered(colour_classifier, upload):
    """A line of a pixel's width, enlarged until it covers a square: four kilobytes would become gigabytes."""
    cropping = colour_classifier.preprocessing.model_copy(update={"resize": "crop"})
    line = io.BytesIO()
    Image.new("L", (1, 1_200_000)).save(line, "PNG")
    with TestClient(create_app(replace(colour_classifier, preprocessing=cropping))) as client:
        files = [("pictures", ("line.png", line.getvalue())), ("pictures", upload("red"))]
        told, answered = client.post("/predict", files=files).json()
        assert told["error"].startswith("1200000x1 pixels are too narrow: enlarged to ")
        assert answered["label"] == "red"
        explained = client.post("/explain", files={"picture": ("line.png", line.getvalue())})
        assert (explained.status_code, list(explained.json())) == (422, ["error"])


def test_a_network_that_takes_pictures_as_they_are_gets_one_after_the_other(colour_classifier, upload):
    """Where each stays in its own size until it is answered, a few kilobytes could become gigabytes."""

    class Mean(nn.Module):
        def forward(self, pictures):
            return pictures.float().mean((1, 2))

    own_size = colour_classifier.preprocessing.model_copy(update={"in_network": True})
    app = create_app(replace(colour_classifier, network=Mean(), preprocessing=own_size))
    predictor, together = app.state.predictor, []
    ask = predictor.probabilities
    predictor.probabilities = lambda pictures: together.append(len(pictures)) or ask(pictures)
    files = [("pictures", upload("red")), ("pictures", ("x.png", b"none")), *[("pictures", upload("grün"))] * 2]
    with TestClient(app) as client:
        answers = client.post("/predict", files=files).json()
    assert together == [1, 0, 1, 1]
    labels = [answer.get("label") for answer in answers]
    assert labels[1] is None
    assert labels[2] == labels[3] != labels[0]


def test_a_name_that_is_no_text_is_answered(client, upload):
    _, content = upload("red")
    head = b'--x\r\nContent-Disposition: form-data; name="_charset_"\r\n\r\nunicode_escape\r\n'
    head += b'--x\r\nContent-Disposition: form-data; name="pictures"; filename="\\ud800.png"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x; charset=unicode_escape"}
    answer = client.post("/predict", content=head + content + b"\r\n--x--\r\n", headers=kind)
    assert (answer.status_code, answer.json()[0]["path"]) == (200, "?.png")


def test_a_fault_of_ours_is_told_without_its_details(colour_classifier, upload):
    broken = replace(colour_classifier, network=nn.Sequential(nn.Flatten(), nn.Linear(1, 3)))  # fits no picture
    with TestClient(create_app(broken), raise_server_exceptions=False) as client:
        answer = client.post("/predict", files={"pictures": upload("red")})
    assert answer.status_code == 500
    assert answer.json() == {"error": "internal error: the log of the server says which"}


def test_a_name_is_never_opened(client, tmp_path, upload):
    (tmp_path / "there.png").write_bytes(upload("red")[1])
    answers = client.post("/predict", files={"pictures": (str(tmp_path / "there.png"), b"")})
    assert answers.json()[0]["error"] == "the file is empty"


def test_pictures_are_read_as_training_reads_them(client, colours):
    """EXIF rotation, transparency and deep grey, as `read_picture` has them, and not as Pillow opens them."""
    halves = Image.new("RGBA", (12, 12), (40, 200, 40, 0))  # white, seen through
    png = io.BytesIO()
    halves.save(png, "PNG")
    seen = client.post("/predict", files={"pictures": ("a.png", png.getvalue())}).json()[0]
    png = io.BytesIO()
    Image.new("RGB", (12, 12), "white").save(png, "PNG")
    white = client.post("/predict", files={"pictures": ("a.png", png.getvalue())}).json()[0]
    assert seen == white


@pytest.mark.parametrize("label", [None, "grün"], ids=["likeliest", "asked"])
def test_the_reason_is_the_heat_map(client, colour_classifier, colours, upload, label):
    answer = client.post("/explain", files={"picture": upload("red")}, data={"label": label} if label else {})
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/png"
    picture = read_picture(colours / "test" / "red" / "100.png")
    pixels = colour_classifier.preprocessing(picture)[None]
    place = colour_classifier.classes.index(label or "red")
    expected = overlay(fit(picture, 448), heat_maps(colour_classifier, pixels, torch.tensor([place]))[0])
    drawn = Image.open(io.BytesIO(answer.content))
    np.testing.assert_array_equal(np.asarray(drawn), np.asarray(expected))


def test_an_unknown_class_is_told(client, upload):
    answer = client.post("/explain", files={"picture": upload("red")}, data={"label": "rde"})
    assert answer.status_code == 422
    assert answer.json() == {"error": "unknown class 'rde'; did you mean: red?"}


def test_what_answers_is_described(colour_classifier):
    metrics = {"accuracy": 0.96, "accuracy_interval_95": [0.8, 0.99], "pictures": 25, "data": "/home/somebody"}
    with TestClient(create_app(colour_classifier, metrics=metrics)) as client:
        model = client.get("/model").json()
    assert model["model"] == "simple_cnn"
    assert model["classes"] == list(colour_classifier.classes)
    assert model["preprocessing"] == colour_classifier.preprocessing.model_dump(mode="json")
    assert model["test"] == {"accuracy": 0.96, "accuracy_interval_95": [0.8, 0.99], "pictures": 25}
    assert model["explains"] is True
    assert "/home" not in str(model)


@pytest.mark.parametrize(
    ("method", "path", "status", "error"),
    [
        ("POST", "/predict", 422, "pictures: Field required"),
        ("POST", "/predict?top=0", 422, "top: Input should be greater than or equal to 1; pictures: Field required"),
        ("GET", "/predict", 405, "Method Not Allowed"),
        ("GET", "/nonsense", 404, "Not Found"),
        ("GET", "/page/../app.py", 404, "Not Found"),
    ],
)
def test_errors_are_one_line_of_json(client, method, path, status, error):
    answer = client.request(method, path)
    assert answer.status_code == status
    assert answer.json() == {"error": error}


def test_text_instead_of_a_file_is_told(client):
    answer = client.post("/predict", data={"pictures": "hello"}, files={"other": b""})
    assert answer.status_code == 422
    assert answer.json() == {"error": "pictures: no file, received: <class 'str'>"}


@pytest.mark.parametrize("declares", [True, False], ids=["with_length", "chunked"])
def test_too_large_uploads_are_refused(colour_classifier, upload, declares):
    with TestClient(create_app(colour_classifier, max_upload_mb=0.001)) as client:
        request = client.build_request("POST", "/predict", files={"pictures": ("a.png", bytes(2000))})
        body, kind = request.read(), request.headers["content-type"]
        parts = (body[start : start + 500] for start in range(0, len(body), 500))
        answer = client.post("/predict", content=body if declares else parts, headers={"content-type": kind})
        assert answer.status_code == 413
        assert answer.json() == {"error": "the upload is larger than 0.001 MB, the limit of this server"}
        assert client.post("/predict", files={"pictures": upload("red")}).status_code == 200


def test_an_upload_that_says_it_is_too_large_is_not_even_begun():
    async def read_body(scope, receive, send):
        await receive()

    async def receive():
        raise AssertionError("it was read")

    scope = {"type": "http", "headers": [(b"content-length", b"2000")]}
    with pytest.raises(HTTPException, match="413"):
        asyncio.run(UploadLimit(read_body, most=1999)(scope, receive, receive))


def test_the_page_loads_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    for name in ("page/page.js", "page/style.css"):
        assert f'"{name}"' in page.text
        assert client.get(f"/{name}").status_code == 200
        assert "http" not in client.get(f"/{name}").text
    assert "http://" not in page.text
    assert "https://" not in page.text


def test_programs_find_the_description(client):
    paths = client.get("/openapi.json").json()["paths"]
    assert sorted(paths) == ["/explain", "/health", "/model", "/predict"]
    answers = paths["/predict"]["post"]["responses"]
    assert answers["200"]["content"]["application/json"]["schema"]["items"] == {"$ref": "#/components/schemas/Answer"}
    assert answers["413"]["content"]["application/json"]["schema"] == {"$ref": "#/components/schemas/Failure"}
    assert "image/png" in paths["/explain"]["post"]["responses"]["200"]["content"]
    assert client.get("/health").json() == {"status": "ok"}
    for path in ("/health", "/"):  # as monitors ask
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    "setting",
    [{"batch_size": 0}, {"max_upload_mb": 0}, {"max_upload_mb": float("nan")}, {"max_upload_mb": float("inf")}],
)
def test_settings_that_cannot_be_are_refused(colour_classifier, setting):
    with pytest.raises(SettingsError, match="both must be above 0 and finite"):
        create_app(colour_classifier, **setting)


def test_the_reason_lies_over_the_part_that_was_seen(colour_classifier):
    """Of a wide picture, whose middle is cut out."""
    cut = Preprocessing(size=(12, 12), resize="crop", mean=(0.5,), std=(0.25,))
    classifier = replace(colour_classifier, preprocessing=cut)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 36, 3), dtype=np.uint8))
    (file := io.BytesIO()), picture.save(file, "PNG")
    files = {"picture": ("wide.png", file.getvalue(), "image/png")}
    answer = TestClient(create_app(classifier)).post("/explain", files=files, data={"label": "red"})
    pixels, place = cut(picture)[None], torch.tensor([classifier.classes.index("red")])
    expected = overlay(fit(picture, 448), heat_maps(classifier, pixels, place)[0], (1 / 3, 0.0, 2 / 3, 1.0))
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(answer.content))), np.asarray(expected))


def test_any_number_of_labels(label_run, halves):
    classifier = load_classifier(label_run, device="cpu")
    metrics = json.loads((label_run / "metrics.json").read_text())
    files = [halves.parent / f"{i}.png" for i in range(12)]
    with TestClient(create_app(classifier, metrics=metrics)) as client:
        told = client.get("/model").json()
        assert told["multilabel"] is True
        assert told["test"]["mean_average_precision"] == metrics["mean_average_precision"]
        answers = client.post("/predict?top=1", files=[("pictures", (f.name, f.read_bytes())) for f in files]).json()
    expected = classifier.predict(files, top=1)
    assert [answer["labels"] for answer in answers] == [list(each.labels or ()) for each in expected]
    assert {len(each["labels"]) for each in answers} == {0, 1, 2}
    assert not any("label" in answer for answer in answers)
