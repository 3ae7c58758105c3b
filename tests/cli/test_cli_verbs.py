import csv
import io
import json
import re
import shutil

import pytest

from densekit.cli.main import app
from densekit.cli.predict import write_predictions
from densekit.loading import load_classifier
from densekit.models.catalogue import list_models
from densekit.prediction import Prediction
from densekit.training.settings import list_recipes, make_settings


@pytest.fixture
def mixed(colours, tmp_path):
    """A picture with a comma and a space in its name, one that is damaged, and one that is missing."""
    shutil.copy(colours / "test" / "red" / "100.png", tmp_path / "a, b grün.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    return [tmp_path / name for name in ("a, b grün.png", "bad.png", "missing.png")]


class TestPredict:
    def test_table(self, densekit, colour_run, mixed):
        answer = densekit("predict", colour_run, *mixed, "--top", 2)
        rows = answer.out.splitlines()
        assert re.fullmatch(rf"{re.escape(str(mixed[0]))}  red \d+\.\d%  [\w ]+ \d+\.\d%", rows[0])
        assert rows[1].split("  ")[-1] == "cannot be read: not a picture of a known format"
        assert rows[2].split("  ")[-1] == "cannot be read: no such file"
        assert len(rows) == 3

    def test_table_of_any_number_of_labels(self, densekit, label_run, halves):
        files = [halves.parent / f"{i}.png" for i in range(12)]
        rows = densekit("predict", label_run, *files, "--top", 3).out.splitlines()
        for row, answer in zip(rows, load_classifier(label_run, device="cpu").predict(files), strict=True):
            shares = [f"{label} {p:.1%}" for label, p in answer.top]
            count = len(answer.labels or ())
            expected = [*(shares[:count] or ["none"]), *(f"({share})" for share in shares[count:])]
            assert row.removeprefix(answer.path).lstrip().split("  ") == expected
        assert any("none" in row for row in rows)

    def test_csv(self, densekit, colour_run, mixed):
        answer = densekit("predict", colour_run, *mixed, "--top", 2, "--format", "csv")
        header, *rows = csv.reader(io.StringIO(answer.out))
        assert header == ["path", "rank", "label", "probability", "error", "answer"]
        best = load_classifier(colour_run, device="cpu").predict(mixed[0], top=2)[0].top
        ranked = [[str(mixed[0]), str(rank), label, f"{p:.6f}", ""] for rank, (label, p) in enumerate(best, start=1)]
        assert rows[:2] == [[*ranked[0], "1"], [*ranked[1], "0"]]
        assert rows[2] == [str(mixed[1]), "", "", "", "not a picture of a known format", ""]
        assert rows[3] == [str(mixed[2]), "", "", "", "no such file", ""]

    def test_csv_of_any_number_of_labels(self, densekit, label_run, halves):
        files = [halves.parent / f"{i}.png" for i in range(12)]
        rows = list(csv.DictReader(io.StringIO(densekit("predict", label_run, *files, "--format", "csv").out)))
        for answer in load_classifier(label_run, device="cpu").predict(files):
            found = [row["label"] for row in rows if row["path"] == answer.path and row["answer"] == "1"]
            assert tuple(found) == answer.labels
        assert len(rows) == 3 * len(files)

    def test_json(self, densekit, colour_run, mixed):
        answer = densekit("predict", colour_run, *mixed, "--format", "json")
        good, bad, missing = json.loads(answer.out)
        best = load_classifier(colour_run, device="cpu").predict(mixed[0])[0]
        assert good["path"] == str(mixed[0])
        assert [(row["label"], row["probability"]) for row in good["top"]] == list(best.top)
        assert (good["label"], good["probability"]) == best.top[0]
        assert bad == {"path": str(mixed[1]), "error": "not a picture of a known format"}
        assert missing == {"path": str(mixed[2]), "error": "no such file"}
        lines = densekit("predict", colour_run, *mixed, "--format", "jsonl").out.splitlines()
        assert [json.loads(line) for line in lines] == [good, bad, missing]

    @pytest.mark.parametrize("format", ["csv", "json", "jsonl"])
    def test_answers_are_written_while_others_are_read(self, format):
        out = io.StringIO()

        def answers():
            for number in range(3):
                assert f"{number - 1}.png" in out.getvalue() or number == 0
                yield Prediction(f"{number}.png", (("cat", 0.5),))

        write_predictions(answers(), format, out)
        text = out.getvalue()
        if format == "csv":
            rows = list(csv.DictReader(io.StringIO(text)))
        else:
            rows = json.loads(text) if format == "json" else list(map(json.loads, text.splitlines()))
        assert [row["path"] for row in rows] == ["0.png", "1.png", "2.png"]

    @pytest.mark.parametrize(("chosen", "status"), [((0, 1), 0), ((1, 2), 2), ((0,), 0)], ids=["some", "none", "all"])
    @pytest.mark.parametrize("format", ["table", "csv", "json", "jsonl"])
    def test_status_2_only_if_nothing_could_be_read(self, densekit, colour_run, mixed, chosen, status, format):
        answer = densekit("predict", colour_run, *(mixed[i] for i in chosen), "--format", format, "--quiet")
        assert answer.status == status
        assert ("could not be read" in answer.err) == (chosen != (0,))  # quiet or not

    def test_folders_and_patterns(self, densekit, colour_run, colours):
        test = colours / "test"
        answer = densekit("predict", colour_run, test / "red", f"{test}/gr*/*", "--top", 1, "--format", "csv")
        labels = [row["label"] for row in csv.DictReader(io.StringIO(answer.out))]
        assert labels == ["red"] * 8 + ["grün"] * 8 + ["red"]  # the last one is the mislabelled picture


class TestEvaluate:
    def test_prints_accuracy_with_interval_and_split(self, densekit, colour_run, tmp_path):
        answer = densekit("evaluate", colour_run, "--out", tmp_path)
        assert answer.status == 0
        written = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
        low, high = written["accuracy_interval_95"]
        assert f"test accuracy 96.00% (95 % interval {low:.2%} to {high:.2%})" in answer.out
        assert "25 pictures" in answer.out
        assert re.search(r"^deep blue +8 +100\.0% +100\.0% +100\.0%$", answer.out, re.MULTILINE)
        assert re.search(r"^grün +9 +100\.0% +88\.9% +94\.1%$", answer.out, re.MULTILINE)
        assert f"written to {tmp_path}: metrics.json, predictions.csv, confusion.csv, confusion.png" in answer.out

    def test_prints_the_precision_of_every_label(self, densekit, label_run, tmp_path):
        answer = densekit("evaluate", label_run, "--out", tmp_path)
        written = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
        for row in written["classes"]:
            shares = [row[name] for name in ("precision", "recall", "f1", "average_precision", "auroc")]
            cells = " +".join(f"{share:.1%}" for share in shares)
            assert re.search(rf"^{row['name']} +{row['pictures']} +{cells}$", answer.out, re.MULTILINE)
        out = " ".join(answer.out.split())
        assert f"test mean average precision {written['mean_average_precision']:.2%}, AUROC" in out
        assert f"every label right on {written['accuracy']:.2%} (95 % interval" in out
        assert out.endswith("metrics.json, predictions.csv, labels.png")

    def test_other_data_says_what_it_is(self, densekit, colour_run, colours, tmp_path):
        answer = densekit("evaluate", colour_run, colours / "train", "--out", tmp_path)
        assert "\naccuracy 100.00%" in answer.out
        assert "60 pictures" in answer.out

    def test_warnings_go_to_standard_error_even_if_quiet(self, densekit, colour_run, paint, tmp_path):
        paint(tmp_path / "x" / "red", "red", 2)
        (tmp_path / "x" / "red" / "bad.png").write_bytes(b"no picture")
        answer = densekit("evaluate", colour_run, tmp_path / "x", "--out", tmp_path, "--quiet")
        assert answer.err.startswith("warning: 1 picture cannot be read")
        assert "warning:" not in answer.out


class TestReport:
    def test_prints_the_page_and_nothing_else(self, densekit, colour_run, tmp_path):
        answer = densekit("report", colour_run, "--out", tmp_path, "--quiet")
        assert answer == (0, f"{tmp_path / 'report.html'}\n", "")
        assert {path.name for path in tmp_path.iterdir()} == {
            *("report.html", "metrics.json", "predictions.csv", "confusion.csv", "confusion.png")
        }


class TestTrain:
    SETTINGS = (
        *("--model", "simple_cnn", "--epochs", 1, "--batch-size", 20, "--val-fraction", 0),
        *("--workers", 0, "--no-tensorboard", "--device", "cpu"),
    )

    @pytest.mark.parametrize("quiet", [False, True], ids=["talks", "quiet"])
    def test_prints_the_run_folder_and_nothing_else(self, densekit, colours, tmp_path, monkeypatch, quiet):
        monkeypatch.chdir(tmp_path)
        answer = densekit("train", colours, *self.SETTINGS, *["--quiet"] * quiet)
        folder = tmp_path / answer.out.rstrip("\n")
        assert (answer.status, answer.out.count("\n")) == (0, 1)
        assert (folder / "model.safetensors").exists()
        assert ("epoch 1/1" in answer.err) != quiet
        if quiet:
            assert answer.err == ""

    def test_flags_of_every_kind_become_the_settings_given(self):
        flags = "--mean 0.1 0.2 0.3 --std 1 1 1 --size 28x32 --lr auto --workers 2 --no-fused --clip 1.5 "
        flags += "--model-options.block-config [2,2] --model-options.activation prelu"
        _, bound, _ = app.parse_args(["train", "photos", *flags.split()])
        given = bound.kwargs
        settings = make_settings(**given)
        assert settings == make_settings(
            mean=(0.1, 0.2, 0.3),
            std=(1, 1, 1),
            size=(28, 32),
            lr="auto",
            workers=2,
            fused=False,
            clip=1.5,
            model_options={"block_config": [2, 2], "activation": "prelu"},
        )
        assert settings.model_fields_set == set(given)


class TestListings:
    def test_models(self, densekit):
        answer = densekit("models", "densenet1[2]1")
        words = ["densenet121", "7,978,856", "parameters", "1000", "classes", "pretrained"]  # as published
        assert answer.out.split() == words
        assert "pretrained" not in densekit("models", "densenet264").out
        named = densekit("models", "densenet121", "--weights").out.splitlines()  # se_densenet121 has none
        assert named[1].split() == ["imagenet", "densenet121.ra_in1k", "densenet121.tv_in1k"]
        assert len(named) == 3

    def test_models_with_multiply_adds_and_classes(self, densekit):
        out = densekit("models", "vgg16", "--macs", "--num-classes", 7).out
        assert "7 classes" in out
        assert "0.313 G MACs at 32x32" in out  # 3x3 convolutions: 9 * sum of C_in * C_out * H * W

    @pytest.mark.parametrize("pattern", ["vgg", "VGG*", "resnet2?_cifar"])
    def test_models_by_pattern(self, densekit, pattern):
        answer = densekit("models", pattern)
        assert [line.split()[0] for line in answer.out.splitlines()] == list_models(pattern)

    def test_recipes(self, densekit):
        lines = densekit("recipes").out.splitlines()
        assert [line.split()[0] for line in lines] == list_recipes()
        assert all(len(line.split()) > 3 for line in lines)  # each says what it is for
