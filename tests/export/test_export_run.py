"""From a run to an exported folder and back, with the run of the three colours."""

import io
import json
import re
import shutil
import stat
from dataclasses import replace

import numpy as np
import PIL.Image
import PIL.ImageOps
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console

from densekit.console import Screen
from densekit.data.pictures import read_picture
from densekit.errors import CheckpointError, DataError, ExportError, SettingsError
from densekit.evaluation.evaluate import evaluate
from densekit.export.card import model_card
from densekit.export.compare import compare
from densekit.export.export import export_run
from densekit.export.targets import TARGETS, Target
from densekit.export.to_onnx import write_onnx
from densekit.loading import fingerprint, load_classifier

QUIET = Screen(quiet=True)


@pytest.fixture(scope="module")
def run(colour_run, tmp_path_factory):
    """A copy of the run, tested, to export from."""
    folder = tmp_path_factory.mktemp("exporting") / "run"
    shutil.copytree(colour_run, folder)
    evaluate(folder, device="cpu", workers=0, screen=QUIET)
    return folder


@pytest.fixture(scope="module")
def onnx(run):
    return export_run(run, to="onnx", screen=QUIET)


def test_folder_is_the_whole_classifier(onnx, run):
    assert onnx.folder == run / "exports" / "onnx"
    assert {path.name for path in onnx.folder.iterdir()} == {
        "README.md", "comparison.json", "model.json", "model.onnx",
    }  # fmt: skip
    assert stat.S_IMODE(onnx.folder.stat().st_mode) == stat.S_IMODE(run.stat().st_mode)
    record = json.loads((onnx.folder / "model.json").read_text(encoding="utf-8"))
    assert record["export"] == {"target": "onnx", "file": "model.onnx"}
    original = json.loads((run / "model.json").read_text(encoding="utf-8"))
    assert {key: record[key] for key in original if key != "export"} == original


def test_comparison_is_written_beside_it(onnx):
    written = json.loads((onnx.folder / "comparison.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(onnx.comparison.to_dict()))
    assert written["split"] == "val"
    assert written["largest_probability_difference"] < 1e-5
    assert written["agreement"] == 1.0


def test_accuracy_after_export_is_measured_like_any_other(onnx, run, tmp_path):
    before = evaluate(run, device="cpu", workers=0, out=tmp_path / "before", screen=QUIET)
    after = evaluate(onnx.file, workers=0, out=tmp_path / "after", screen=QUIET)  # the data is that of the run above it
    assert after.metrics.accuracy == before.metrics.accuracy == 0.96
    torch.testing.assert_close(after.outcomes.logits, before.outcomes.logits, rtol=1e-4, atol=1e-4)


def test_an_export_computes_in_its_own_precision(onnx):
    assert load_classifier(onnx.folder, precision="auto").precision == "own"
    with pytest.raises(SettingsError, match="computes in its own precision: precision 'bf16' is for runs"):
        load_classifier(onnx.folder, precision="bf16")


@pytest.mark.parametrize("to", ["openvino", "torch"])
def test_other_targets_predict_alike(run, colours, to):
    exported = load_classifier(export_run(run, to=to, screen=QUIET).folder)
    expected, found = (
        each.predict(colours / "test" / "red", top=3) for each in (load_classifier(run, device="cpu"), exported)
    )
    assert [answer.label for answer in found] == [answer.label for answer in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert dict(ours.top) == pytest.approx(dict(theirs.top), abs=1e-5)


def test_file_that_takes_bytes_takes_pictures_of_any_size(run, colours, paint, tmp_path):
    from PIL import Image

    folder = paint(tmp_path / "sizes", "red", 3)
    for number, size in enumerate([(40, 30), (9, 50), (12, 12)]):
        Image.open(folder / f"{number}.png").resize(size).save(folder / f"{number}.png")
    exported = export_run(run, to="onnx", bake_preprocessing=True, screen=QUIET)
    assert exported.folder.name == "onnx-bytes"
    expected, found = (load_classifier(each, device="cpu").predict(folder, top=3) for each in (run, exported.folder))
    for ours, theirs in zip(found, expected, strict=True):
        assert dict(ours.top) == pytest.approx(dict(theirs.top), abs=0.02)
    assert evaluate(exported.folder, workers=0, screen=QUIET).metrics.accuracy == 0.96


def test_int8_is_calibrated_on_other_pictures_than_it_is_compared_on(run, colours, monkeypatch):
    seen = {}
    write = Target.write
    monkeypatch.setattr(
        Target, "write", lambda self, one, folder, options: seen.update(o=options) or write(self, one, folder, options)
    )
    exported = export_run(run, to="openvino", int8=True, data=colours / "train", screen=QUIET)
    assert exported.folder.name == "openvino-int8"
    assert (exported.comparison.pictures, len(seen["o"].calibration)) == (30, 30)
    assert exported.comparison.largest_probability_difference > 1e-6  # something was rounded
    text = (exported.folder / "model.xml").read_text(encoding="utf-8")
    assert text.count('type="FakeQuantize"') > 2
    assert 'element_type="i8"' in text
    assert evaluate(exported.folder, workers=0, screen=QUIET).metrics.accuracy == 0.96


@pytest.mark.parametrize(("agreement", "told"), [(0.93, True), (0.99, False)])
def test_8_bits_that_change_many_answers_are_told(run, tmp_path, monkeypatch, agreement, told):
    monkeypatch.setattr(
        "densekit.export.export.compare", lambda *args, **named: replace(compare(*args, **named), agreement=agreement)
    )
    screen = Screen(console=Console(record=True, width=300, file=io.StringIO()))
    export_run(run, to="openvino", int8=True, out=tmp_path / "out", screen=screen)
    text = screen.console.export_text()
    assert (
        f"warning: 7% of the answers changed: densekit evaluate {tmp_path / 'out'} measures the cost" in text
    ) == told


def test_pictures_are_opened_as_the_card_says(onnx, tmp_path):
    """Without densekit: transparent, 16 bits deep, and lying on the side."""
    card = (onnx.folder / "README.md").read_text(encoding="utf-8")
    (opening,) = re.findall(r"In Pillow, the first steps are\n\n```python\n(.*?)```", card, re.DOTALL)
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (9, 7, 4), np.uint8)
    palette, exif = Image.fromarray(pixels[..., :3]).quantize(8), Image.Exif()
    palette.info["transparency"] = 3
    exif[0x0112] = 6
    cases = {
        "rgba": (Image.fromarray(pixels), {}),
        "grey": (Image.fromarray(pixels[..., :2].copy(), "LA"), {}),
        "palette": (palette, {"transparency": 3}),
        "deep": (Image.fromarray(random.integers(0, 65536, (9, 7), np.uint16)), {}),
        "sideways": (Image.fromarray(pixels[..., :3]), {"exif": exif}),
    }
    for name, (picture, options) in cases.items():
        picture.save(tmp_path / f"{name}.png", **options)
        told = {"PIL": PIL, "np": np}
        exec(opening.replace('"picture.jpg"', repr(str(tmp_path / f"{name}.png"))), told)
        expected = read_picture(tmp_path / f"{name}.png").convert("RGB")
        np.testing.assert_array_equal(np.asarray(told["picture"]), np.asarray(expected), name)


@pytest.mark.parametrize(
    ("target", "file"), [("onnx", "model.onnx"), ("openvino", "model.bin"), ("timm", "config.json")]
)
def test_every_file_of_an_export_is_its_fingerprint(target, file, tmp_path):
    (tmp_path / "model.json").write_text(json.dumps({"format": 1, "architecture": {}, "export": {"target": target}}))
    (tmp_path / file).write_bytes(b"one")
    before = fingerprint(tmp_path)
    (tmp_path / file).write_bytes(b"other")
    assert fingerprint(tmp_path) != before


def test_card_has_the_test_figures_and_no_place_on_this_computer(onnx, colours):
    text = (onnx.folder / "README.md").read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    values = yaml.safe_load(header)
    assert values["pipeline_tag"] == "image-classification"
    result = values["model-index"][0]["results"][0]
    assert result["dataset"] == {"name": "colours0", "type": "colours0", "split": "test"}
    assert result["metrics"] == [{"type": "accuracy", "value": 0.96}]
    assert "Test accuracy 96.00% (95 % interval 80.46% to 99.29%) on 25 pictures" in body
    assert "`deep blue`, `grün`, `red`" in body
    assert "Its weakest class is `grün`: it finds 88.9%" in body
    assert 'onnxruntime.InferenceSession("model.onnx")' in body
    assert str(colours.parent) not in text


def test_metadata_tells_classes_and_preprocessing(onnx):
    import onnx as library

    model = library.load(onnx.file)
    metadata = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    record = json.loads((onnx.folder / "model.json").read_text(encoding="utf-8"))
    assert metadata == {name: record[name] for name in ("classes", "preprocessing", "temperature")}
    (given,) = model.graph.input
    assert (given.name, given.type.tensor_type.shape.dim[0].dim_param) == ("pictures", "batch")


def test_probabilities_without_densekit_are_those_of_predict(onnx, run, colours):
    """By what the card says."""
    import onnxruntime

    classifier = load_classifier(run, device="cpu")
    assert classifier.temperature != 1
    picture = colours / "test" / "red" / "100.png"
    pixels = classifier.preprocessing(read_picture(picture))[None].numpy()
    (logits,) = onnxruntime.InferenceSession(onnx.file).run(None, {"pictures": pixels})
    (card,) = re.findall(r"softmax of `logits / ([0-9.]+)`", (onnx.folder / "README.md").read_text(encoding="utf-8"))
    shares = np.exp(logits[0] / float(card)) / np.exp(logits[0] / float(card)).sum()
    (answer,) = classifier.predict(picture, top=3)
    assert dict(answer.top) == pytest.approx(dict(zip(classifier.classes, shares, strict=True)), abs=1e-5)


def wrong_network(classifier, folder, options):
    """Export something else than was trained."""
    with torch.no_grad():
        classifier.network.classifier.bias.add_(torch.tensor([3.0, 0, 0]))
    return write_onnx(classifier, folder, options)


def test_export_that_disagrees_is_thrown_away(run, monkeypatch, tmp_path):
    def write(self, classifier, folder, options):
        return wrong_network(load_classifier(run, device="cpu"), folder, options)

    monkeypatch.setattr(Target, "write", write)
    with pytest.raises(ExportError, match=r"does not answer as the trained network .* probabilities differ by at most"):
        export_run(run, to="onnx", out=tmp_path / "out", screen=QUIET)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_written_over(onnx, run, tmp_path):
    (tmp_path / "mine").write_text("x")
    with pytest.raises(SettingsError, match="exists already: choose another --out"):
        export_run(run, to="onnx", out=tmp_path, screen=QUIET)
    assert export_run(run, to="onnx", screen=QUIET).folder.name == "onnx-2"


def test_export_of_an_export(onnx):
    with pytest.raises(CheckpointError, match="is an export already"):
        export_run(onnx.folder, to="torch", screen=QUIET)


def test_classifier_that_travelled_needs_pictures(run, colours, tmp_path):
    for name in ("model.json", "model.safetensors"):
        shutil.copy(run / name, tmp_path)
    with pytest.raises(DataError, match="name pictures to compare on, --data FOLDER"):
        export_run(tmp_path, to="torch", screen=QUIET)
    exported = export_run(tmp_path, to="torch", data=colours / "test" / "red" / "..", screen=QUIET)
    assert exported.comparison.split == "all"


def test_every_target_can_be_opened():
    from densekit.runtimes.exported import RUNTIMES

    assert TARGETS.keys() <= RUNTIMES.keys()


@pytest.mark.parametrize("kind", ["empty", "link", "current"])
def test_an_empty_folder_that_is_there_is_filled(kind, run, colours, tmp_path, monkeypatch):
    folder = tmp_path / "mine"
    folder.mkdir()
    monkeypatch.chdir(folder)
    out = {"empty": folder, "link": tmp_path / "link", "current": "."}[kind]
    if kind == "link":
        out.symlink_to(folder)
    export_run(run, to="onnx", out=out, screen=QUIET)
    assert {path.name for path in folder.iterdir()} == {"README.md", "comparison.json", "model.json", "model.onnx"}
    assert load_classifier(folder).predict(colours / "test" / "red" / "100.png")[0].label == "red"


def test_a_place_that_cannot_be_written_is_told_in_one_line(run, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(SettingsError, match=r"cannot write into .*file .*: choose another --out"):
        export_run(run, to="onnx", out=tmp_path / "file" / "below", screen=QUIET)


def test_metadata_of_a_file_that_takes_bytes_says_so(run, tmp_path):
    import onnx as library

    file = export_run(run, to="onnx", bake_preprocessing=True, out=tmp_path / "out", screen=QUIET).file
    metadata = {entry.key: json.loads(entry.value) for entry in library.load(file).metadata_props}
    assert metadata["preprocessing"]["in_network"] is True


def test_card_of_8_bits_does_not_claim_the_figures_from_before(run, tmp_path):
    folder = export_run(run, to="openvino", int8=True, out=tmp_path / "out", screen=QUIET).folder
    _, header, body = (folder / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert "model-index" not in yaml.safe_load(header)
    assert "Before it was rounded to 8 bits (`densekit evaluate` tells it after that): test accuracy 96.00%" in body


def test_class_names_are_written_as_they_are(run):
    odd = replace(load_classifier(run), classes=("it's `x` | y", "two\nlines", "plain"))
    card = model_card(odd, None, use="")
    assert "In the order of the logits: `` it's `x` | y ``, `two\\nlines`, `plain`" in card
