import re

import pytest

TINY = (
    *("--limit-per-class", 3, "--epochs", 1, "--batch-size", 14, "--model", "simple_cnn", "--val-fraction", 0.34),
    *("--workers", 0, "--no-tensorboard", "--device", "cpu", "--quiet"),
)


@pytest.mark.parametrize("words", [["digits"], [], ["optimizer", "digits"]], ids=["data", "neither", "both"])
def test_study_and_data_are_told_apart(words, densekit, tmp_path):
    vary = [] if len(words) == 2 else ["--vary", "optimizer=sgd,adam,adamw"]
    answer = densekit("study", *words, *vary, "--seeds", 1, "--out", tmp_path / "s", *TINY)
    assert answer.status == 0, answer.err
    lines = answer.out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["optimizer=sgd", "optimizer=adam", "optimizer=adamw"]
    assert "test accuracy" not in lines[0]
    assert lines[-1] == f"written to {tmp_path / 's'}: study.yaml, results.csv, study.png, runs"


def test_search_prints_the_best_trials(densekit, tmp_path):
    answer = densekit("study", "search", "digits", "--trials", 2, "--out", tmp_path / "s", *TINY)
    assert answer.status == 0, answer.err
    lines = answer.out.splitlines()
    assert lines[0].split() == ["trial", "val", "accuracy", "label_smoothing", "lr_sgd", "weight_decay_sgd"]
    assert lines[3].startswith("2 trials ran to their end, 0 were pruned")


def test_cross_validation_prints_all_folds(densekit, tmp_path):
    answer = densekit("cross-validate", "digits", "--folds", 2, "--out", tmp_path / "cv", *TINY)
    assert answer.status == 0, answer.err
    lines = answer.out.splitlines()
    assert [line.split()[0] for line in lines[1:11]] == [str(digit) for digit in range(10)]
    assert lines[-3].startswith("test accuracy ")
    assert lines[-3].endswith(" 30 pictures")
    assert re.fullmatch(r"2 folds: accuracy [0-9.]+%, [0-9.]+%; mean [0-9.]+% ± [0-9.]+ \(standard.*", lines[-2])
    assert lines[-1].startswith(f"written to {tmp_path / 'cv'}: metrics.json, predictions.csv")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        pytest.param(("digits",), "a study needs something to vary", id="nothing_to_vary"),
        pytest.param(("depht", "digits"), "unknown study 'depht'; did you mean: depth", id="typo"),
        pytest.param(("no-such-folder", "--vary", "lr=1,2"), "no-such-folder", id="no_data"),
        pytest.param(("--vary", "lr"), "vary 'lr': expected NAME=A,B,C", id="vary_what"),
        pytest.param(("search", "--resume"), "resume needs the folder of the search", id="resume_what"),
    ],
)
def test_refused_in_one_line(words, message, refused):
    assert message in refused("study", *words)
