import csv
import json
import re
from contextlib import ExitStack
from pathlib import Path

import pytest
from safetensors import safe_open

from densekit.data.pictures import Skipped
from densekit.errors import CheckpointError, SettingsError, TrainingError
from densekit.evaluation.evaluate import evaluate
from densekit.export.export import export_run
from densekit.files import alone_in
from densekit.loading import load_classifier
from densekit.report.write import write_report
from densekit.training.history import COLUMNS
from densekit.training.run_folder import RunFolder, new_run_folder
from densekit.training.settings import make_settings
from densekit.training.train import train


@pytest.mark.parametrize("content", ["file_in_it", "hidden_file", "a_file_itself"])
def test_what_is_there_already_is_refused_and_untouched(content, train_tiny, tmp_path, forwards):
    out = tmp_path / "run"
    if content == "a_file_itself":
        file = out
    else:
        out.mkdir()
        file = out / (".keep" if content == "hidden_file" else "thesis.tex")
    file.write_text("mine")
    with pytest.raises(SettingsError, match=r"exists already: choose another --out$"):
        train_tiny()
    assert not forwards
    assert file.read_text() == "mine"
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [file]


def test_a_run_that_is_there_can_be_gone_on_with(train_tiny):
    train_tiny(epochs=1)
    with pytest.raises(SettingsError, match="exists already: choose another --out, or go on with --resume"):
        train_tiny(epochs=1)


def test_an_empty_folder_can_be_used(train_tiny, tmp_path):
    (tmp_path / "run").mkdir()
    assert train_tiny(epochs=1).folder == tmp_path / "run"


def test_nothing_is_left_of_what_never_began(train_tiny, make_folder, tmp_path):
    """Pictures that are all the same: no rate makes the loss fall."""
    root = make_folder({"a": 10, "b": 10})
    for path in root.rglob("*.png"):
        path.write_bytes((root / "a/0.png").read_bytes())
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(TrainingError, match="no learning rate makes the loss fall"):
        train_tiny(data=str(root), limit_per_class=None, lr="auto", tensorboard=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_that_was_there_stays_where_nothing_began(train_tiny, tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(TrainingError, match="try a lower --lr"):
        train_tiny(lr=1e30, tensorboard=True)
    assert list((tmp_path / "run").iterdir()) == []


def test_a_run_whose_checkpoint_is_gone_keeps_its_classifier(train_tiny, tmp_path, monkeypatch):
    run = train_tiny(epochs=1)
    monkeypatch.setattr("densekit.training.resume.load_checkpoint", lambda path, state: path.unlink() or path.stat())
    with pytest.raises(FileNotFoundError):
        train(out=run.folder, resume=True)
    assert (run.folder / "model.safetensors").exists()


def test_folders_are_named_after_data_and_model_and_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = make_settings(data="photos/my cats.csv", model="densenet121")
    names = [new_run_folder(None, settings).path for _ in range(3)]
    assert names == [Path("runs") / f"my_cats-densenet121{end}" for end in ("", "-2", "-3")]
    assert all(name.is_dir() for name in names)


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match=r"cannot make the run folder .*: Not a directory"):
        new_run_folder(tmp_path / "file" / "run", make_settings())


@pytest.mark.parametrize(("still_there", "told"), [(True, "another process is using"), (False, "exists already")])
def test_who_comes_second_deletes_nothing(still_there, told, train_tiny, tmp_path, monkeypatch):
    """Two that begin at the same time can both find their folder free."""

    def made_by_another(*args):
        folder = new_run_folder(*args)
        if still_there:
            winner.enter_context(alone_in(folder.path))
        folder.settings.write_text("the other's")
        return folder

    monkeypatch.setattr("densekit.training.train.new_run_folder", made_by_another)
    with ExitStack() as winner, pytest.raises(SettingsError, match=told):
        train_tiny()
    assert (tmp_path / "run" / "settings.yaml").read_text() == "the other's"


def test_a_run_leaves_the_files_it_promises_and_no_pickle(train_tiny):
    """Pickles run code when they are read; a run folder may be passed on to anybody."""
    run = train_tiny(epochs=1, tensorboard=True, ema=0.9, optimizer="adam")
    kinds = {path.relative_to(run.folder).as_posix(): path for path in run.folder.rglob("*") if path.is_file()}
    events = [name for name in kinds if re.fullmatch(r"tensorboard/events\.out\.tfevents\..*", name)]
    assert len(events) == 1
    assert set(kinds) - set(events) == {
        "settings.yaml",
        "model.json",
        "model.safetensors",
        "history.csv",
        "curves.png",
        "checkpoints/last.safetensors",
        ".lock",
    }
    for name, path in kinds.items():
        start = path.read_bytes()[:8]
        assert not start.startswith((b"\x80", b"PK")), f"{name} begins like a pickle or PyTorch's zip of one"
        match path.suffix:
            case ".safetensors":
                with safe_open(path, framework="np") as file:
                    assert list(file.keys())
            case ".png":
                assert start == b"\x89PNG\r\n\x1a\n"
            case ".json":
                json.loads(path.read_text(encoding="utf-8"))
            case ".csv" | ".yaml":
                path.read_text(encoding="utf-8")
            case _:
                assert name in events or not start


def test_history_has_a_line_for_each_epoch(train_tiny):
    run = train_tiny(epochs=2)
    with (run.folder / "history.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [{k: float(v) for k, v in row.items()} for row in rows] == run.history
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 <= float(row["val_accuracy"]) <= 1 for row in rows)


def test_nothing_skipped_writes_no_list(tmp_path):
    RunFolder(tmp_path).write_skipped([])
    assert not list(tmp_path.iterdir())


def test_what_was_written_is_read_back(tmp_path):
    run = RunFolder(tmp_path)
    assert (run.read_history(), run.read_skipped()) == ([], [])
    rows = [{name: 0.5 * i for i, name in enumerate(COLUMNS)}, {**dict.fromkeys(COLUMNS, 1.0), "val_loss": None}]
    skipped = [Skipped(tmp_path / 'a, "b".png', "damaged, or cut short"), Skipped(Path("é.jpg"), "empty")]
    run.write_history(rows)
    run.write_skipped(skipped)
    assert (run.read_history(), run.read_skipped()) == (rows, skipped)


@pytest.mark.parametrize(
    ("name", "text", "read"),
    [
        ("history.csv", ",".join(COLUMNS) + "\n1,2\n", RunFolder.read_history),
        ("skipped.csv", "a,b\n1,2\n", RunFolder.read_skipped),
        ("skipped.csv", "path,reason\nx.png\n", RunFolder.read_skipped),
        ("skipped.csv", b"path,reason\n\xff\xfe,x\n", RunFolder.read_skipped),
    ],
    ids=["cut_history", "other_columns", "cut_line", "no_text"],
)
def test_files_that_are_damaged_are_told(name, text, read, tmp_path):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CheckpointError, match=f"{name} does not hold"):
        read(RunFolder(tmp_path))


def test_a_run_is_a_path_to_its_folder(train_tiny, screen):
    run = train_tiny(epochs=1)
    assert load_classifier(run).classes == run.classifier().classes
    found = evaluate(run, split="val", device="cpu", screen=screen)
    assert found.folder == run.folder / "evaluation-val"
    assert write_report(run, split="val", device="cpu", screen=screen).is_file()
    export = export_run(run, to="torch", screen=screen)
    assert load_classifier(export).classes == run.classifier().classes
    assert repr(run).startswith(f"Run({run.folder}: densenet")
    assert repr(run).endswith(f"epoch 1 of 1 kept, validation accuracy {run.history[0]['val_accuracy']:.2%})")
    assert repr(found).endswith(f": accuracy {found.metrics.accuracy:.2%} on 10 val pictures, in {found.folder})")
