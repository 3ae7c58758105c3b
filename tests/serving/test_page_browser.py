"""The page in a real browser: pictures are chosen as a person does, answers and reasons are shown."""

import json
import socket
import threading

import pytest
import uvicorn
from fastapi.responses import HTMLResponse, Response

from densekit.loading import load_classifier
from densekit.serving.app import _PAGE, create_app

WAIT = ("--virtual-time-budget=20000",)
CHOOSE = """
const until = async (found) => { while (!found()) await new Promise((done) => setTimeout(done, 20)); };
const files = await Promise.all(PICTURES.map(async ([path, name]) =>
  new File([await (await fetch(path)).blob()], name)));
await until(() => document.querySelector("#commands").textContent);
const chosen = new DataTransfer();
for (const file of files) chosen.items.add(file);
const input = document.querySelector("#files");
input.files = chosen.files;
input.dispatchEvent(new Event("change"));
await until(() => !document.querySelector("#save").hidden);
if (WHY) {
  [...document.querySelectorAll("ol button")].find((button) => button.textContent.includes(WHY)).click();
  await until(() => document.querySelector(".heat:not([hidden])")?.naturalWidth);
}
"""


@pytest.fixture
def driven(colour_classifier, colours):
    """Serve an application whose page at /driven chooses pictures by itself: ``driven(pictures, why) -> address``."""
    running = []

    def start(pictures: dict[str, bytes], why: str = "", classifier=colour_classifier, **further) -> str:
        metrics = {"accuracy": 0.96, "accuracy_interval_95": [0.8046, 0.9929], "pictures": 25, **further}
        app = create_app(classifier, metrics=metrics)
        paths = [[f"picture/{place}", name] for place, name in enumerate(pictures)]
        script = f"const PICTURES = {json.dumps(paths)}, WHY = {json.dumps(why)};{CHOOSE}"
        page = (_PAGE / "index.html").read_text(encoding="utf-8")
        page = page.replace("</head>", '<script src="drive.js" type="module"></script></head>')
        contents = list(pictures.values())
        app.get("/driven")(lambda: HTMLResponse(page))
        app.get("/drive.js")(lambda: Response(script, media_type="text/javascript"))
        app.get("/picture/{place}")(lambda place: Response(contents[int(place)], media_type="image/png"))
        listening = socket.create_server(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        running.append((server, thread, listening))
        return f"http://127.0.0.1:{listening.getsockname()[1]}/driven"

    yield start
    for server, thread, listening in running:
        server.should_exit = True
        thread.join()
        listening.close()


def test_pictures_that_are_chosen_are_answered(browse, driven, upload, read_page):
    pictures = {"one.png": upload("red")[1], "broken.png": b"no picture", "two.png": upload("deep blue")[1]}
    page = read_page(browse(driven(pictures), *WAIT, "--dump-dom"))
    assert "simple_cnn, 3 classes" in page.text
    assert "Right on 96.0 % of 25 test pictures (95 % interval 80.5 % to 99.3 %)." in page.text
    assert (
        "3 pictures save as CSV Choose a class to see what in the picture speaks for it. one.png red 9" in page.text
    )  # in the order in which they were chosen
    assert "broken.png not a picture of a known format two.png deep blue 9" in page.text
    assert len(page.every("meter")) == 2 * 3 + 1  # one is the template's


def test_nothing_chosen_is_nothing_to_save(browse, driven, read_page):
    page = read_page(browse(driven({}), *WAIT, "--dump-dom"))
    assert "0 pictures" not in page.text
    assert {"id": "save", "type": "button", "hidden": ""} in page.every("button")


def test_the_reason_lies_over_the_picture(browse, driven, upload, read_page):
    page = read_page(browse(driven({"one.png": upload("red")[1]}, why="grün"), *WAIT, "--dump-dom"))
    assert {"type": "button", "title": "Why grün?", "aria-pressed": "true"} in page.every("button")
    assert page.every("img")[1]["alt"] == "What speaks for grün"


def test_names_are_text_whatever_is_in_them(browse, driven, upload, read_page):
    name = "<img src=x onerror=alert(1)>.png"
    page = read_page(browse(driven({name: upload("red")[1]}), *WAIT, "--dump-dom"))
    assert name in page.text
    assert all(picture.get("src", "blob:").startswith("blob:") for picture in page.every("img"))


def test_every_label_of_a_picture_is_marked(browse, driven, label_run, halves, read_page):
    classifier = load_classifier(label_run, device="cpu")
    answers = {path: classifier.predict(path)[0].labels for path in (halves.parent / f"{i}.png" for i in range(12))}
    both = next(path for path, labels in answers.items() if len(labels) == 2)
    none = next(path for path, labels in answers.items() if not labels)
    pictures = {"both.png": both.read_bytes(), "again.png": both.read_bytes(), "none.png": none.read_bytes()}
    address = driven(pictures, classifier=classifier, mean_average_precision=0.987)
    page = read_page(browse(address, *WAIT, "--dump-dom"))
    assert "simple_cnn, 3 labels" in page.text
    assert "Mean average precision 98.7 %. Every label right on 96.0 % of 25 test pictures" in page.text
    assert sum(item.get("class") == "found" for item in page.every("li")) == 4
