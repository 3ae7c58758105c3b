"""Pictures that a run learned from, where it is tested on them all the same."""

import shutil

import pytest

from densekit.errors import DataError, SettingsError
from densekit.evaluation.evaluate import evaluate
from densekit.training.train import train


def test_pictures_that_were_learned_from_under_another_name(trained_on, colours, tmp_path, screen):
    root = shutil.copytree(colours, tmp_path / "colours")
    shutil.copy(root / "train" / "red" / "3.png", root / "test" / "red" / "copy.png")
    run, told = trained_on(data=str(root)), "among the training pictures too, byte for byte"
    evaluate(run, screen=screen)
    text = screen.console.export_text()
    assert f"1 picture is {told}" in text
    assert f"first {root / 'test/red/copy.png'} = {root / 'train/red/3.png'}" in text
    evaluate(run, split="train", screen=screen)
    evaluate(trained_on(data=str(colours)), screen=screen)
    assert told not in screen.console.export_text()


def test_a_copy_of_the_training_pictures_is_told(colour_run, colours, tmp_path, screen):
    copy = shutil.copytree(colours / "train", tmp_path / "renamed")
    for path in copy.rglob("*.png"):
        path.rename(path.with_stem(f"x{path.stem}"))
    evaluate(colour_run, copy, out=tmp_path / "out", screen=screen)
    assert "54 pictures are among the training pictures too, byte for byte" in screen.console.export_text()


def test_a_run_whose_data_has_moved(colours, tmp_path, screen):
    """Named for what it is, and evaluated as before once the run has been told."""
    root, moved, run = shutil.copytree(colours, tmp_path / "before"), tmp_path / "moved", tmp_path / "run"
    train(root, out=run, model="simple_cnn", epochs=1, device="cpu", workers=0, tensorboard=False, screen=screen)
    before = evaluate(run).metrics
    root.rename(moved)
    with pytest.raises(
        DataError, match=f"before is gone: .*densekit train NEW_PLACE --out {run} --resume tells the run"
    ):
        evaluate(run)
    evaluate(run, moved, screen=screen)
    told = screen.console.export_text()
    assert "54 pictures in it have the name of one that the run learned from" in told
    assert f"densekit train {moved} --out {run} --resume tells the run" in told
    train(moved, out=run, resume=True, screen=screen)
    assert "is finished already" in screen.console.export_text()
    assert evaluate(run).metrics == before
    with pytest.raises(SettingsError, match="resume goes on with data="):  # it is where it is
        train(colours, out=run, resume=True, screen=screen)
