"""densekit export and densekit push, as typed."""

import re

import pytest


def test_export_names_its_folder_and_tells_how_it_compares(densekit, colour_run, tmp_path):
    answer = densekit("export", colour_run, "--to", "torch", "--out", tmp_path / "shipped")
    assert (answer.status, answer.out) == (0, f"{tmp_path / 'shipped'}\n")
    assert re.search(
        r"torch: on 6 val pictures the probabilities differ by at most \S+ \(mean \S+\), same answer on", answer.err
    )
    answer = densekit("predict", tmp_path / "shipped" / "model.pt2", "--top", 1, tmp_path / "missing.png")
    assert answer.status == 2
    assert "missing.png  cannot be read: no such file" in answer.out


@pytest.mark.parametrize(
    ("line", "says"),
    [
        pytest.param("export RUN", "requires an argument", id="no_target"),
        pytest.param("export RUN --to onx", "unknown export target 'onx'; did you mean: onnx?", id="typo"),
        pytest.param(
            "export RUN --to torch --int8", "torch has no --int8; targets that have it: openvino", id="no_int8"
        ),
        pytest.param("export nowhere --to onnx", "cannot read nowhere/model.json", id="no_run"),
        pytest.param("export RUN --to onnx --out PHOTOS", "exists already: choose another --out", id="taken"),
        pytest.param("export RUN --to onnx --data nowhere", "nowhere: no such folder or table", id="no_data"),
        pytest.param("push nowhere owner/name", "cannot read nowhere/model.json", id="push_nothing"),
    ],
)
def test_one_line_and_status_2(refused, line, says, colour_run, colours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    places = {"RUN": colour_run, "PHOTOS": colours}
    assert says in refused(*(places.get(word, word) for word in line.split()))
    assert list(tmp_path.iterdir()) == []
