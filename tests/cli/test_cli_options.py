"""Every option reaches the function that does the work."""

import inspect
from importlib import import_module
from pathlib import Path

import pytest

from densekit.errors import SettingsError

VERBS = {
    "evaluate": (
        "densekit.cli.evaluate:evaluate",
        "densekit.evaluation.evaluate:evaluate",
        {
            "split": "val",
            "out": Path("o"),
            "data_root": "d",
            "batch_size": 7,
            "device": "cpu",
            "precision": "bf16",
            "workers": 3,
            "strict": True,
        },
    ),
    "report": (
        "densekit.cli.report:report",
        "densekit.report.write:write_report",
        {
            "split": "val",
            "out": Path("o"),
            "data_root": "d",
            "batch_size": 7,
            "device": "cpu",
            "precision": "bf16",
            "workers": 3,
            "strict": True,
        },
    ),
    "export": (
        "densekit.cli.export:export",
        "densekit.export.export:export_run",
        {"to": "onnx", "out": Path("o"), "int8": True, "bake_preprocessing": True, "data": "x", "data_root": "d"},
    ),
    "serve": (
        "densekit.cli.serve:serve",
        "densekit.serving.serve:serve",
        {
            "host": "::1",
            "port": 81,
            "device": "cpu",
            "precision": "bf16",
            "fused": False,
            "batch_size": 7,
            "max_upload_mb": 0.5,
        },
    ),
    "push": ("densekit.cli.push:push", "densekit.export.push:push", {"private": True}),
    "study": (
        "densekit.cli.study:study",
        "densekit.studies.study:study",
        {"seeds": 2, "test": True, "recipe": "digits", "out": Path("o"), "resume": True, "vary": "lr=1,2"},
    ),
    "study search": (
        "densekit.cli.study:search",
        "densekit.studies.search:search",
        {
            "space": "densenet",
            "trials": 5,
            "storage": "sqlite://",
            "name": "n",
            "heartbeat": 9,
            "test": True,
            "recipe": "digits",
            "out": Path("o"),
            "resume": True,
        },
    ),
}
WORDS = {"push": ["RUN", "a/b"], "study": [], "study search": [], "export": ["RUN"], "serve": ["RUN"]}


def find(place: str):
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def typed(options: dict) -> list[object]:
    """Options as they are typed."""
    words = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        values = value if isinstance(value, list) else [value]
        words += [f"--{flag}"] if value is True else [f"--no-{flag}"] if value is False else [f"--{flag}", *values]
    return words


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_arrives(verb, densekit, monkeypatch):
    command, work, options = VERBS[verb]
    own = {p.name for p in inspect.signature(find(command)).parameters.values() if p.kind == p.KEYWORD_ONLY}
    assert own - {"quiet"} == options.keys()  # none is forgotten here either
    seen = {}

    def note(*_, **given):
        seen.update(given)
        raise SettingsError("seen")

    module, _, name = work.partition(":")
    monkeypatch.setattr(f"{module}.{name}", note)
    answer = densekit(*verb.split(), *WORDS.get(verb, ["RUN", "DATA"]), *typed(options))
    assert answer.err == "densekit: seen\n"
    expected = {name: value for name, value in options.items() if name != "vary"}
    assert {name: seen.get(name) for name in expected} == expected
    if "vary" in options:
        assert seen["choices"] == {"lr": [1, 2]}


@pytest.mark.parametrize(
    ("verb", "work", "options"),
    [
        ("predict", "densekit.classifier.Classifier.predict_each", {"top": 2, "batch_size": 3}),
        ("embed", "densekit.classifier.Classifier.embed", {"batch_size": 3}),
        (
            "explain",
            "densekit.explain.explain_pictures.explain_pictures",
            {"method": "gradcam", "top": 2, "classes": ["red", "blue"], "out": Path("o"), "batch_size": 3},
        ),
    ],
)
def test_every_option_about_pictures_arrives(verb, work, options, densekit, colour_run, colours, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    loaded, seen = {}, {}
    load = find("densekit.loading:load_classifier")

    def note_load(run, **given):
        loaded.update(given)
        return load(run, **given)

    def note(*_, **given):
        seen.update(given)
        raise SettingsError("seen")

    monkeypatch.setattr("densekit.loading.load_classifier", note_load)
    monkeypatch.setattr(work, note)
    about_run = {"device": "cpu", **({"precision": "bf16"} if verb != "explain" else {})}
    out = ["--out", "o.npz"] if verb == "embed" else []
    answer = densekit(verb, colour_run, colours / "test", *typed({**options, **about_run}), *out)
    assert answer.err.endswith("densekit: seen\n")
    assert loaded.pop("screen") is not None
    assert not loaded.pop("fused", False)  # for so few pictures
    assert loaded == about_run
    assert {name: seen[name] for name in options} == options
