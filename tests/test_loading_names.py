"""What a run is named by."""

from functools import partial

import pytest

from densekit.classifier import Classifier
from densekit.errors import CheckpointError, SettingsError
from densekit.export.export import export_run
from densekit.loading import load_classifier
from densekit.report.write import write_report


@pytest.mark.parametrize("use", [partial(export_run, to="onnx"), write_report, load_classifier])
def test_a_classifier_in_memory_is_no_run(use, colour_run):
    classifier = load_classifier(colour_run, device="cpu")
    assert isinstance(classifier, Classifier)
    with pytest.raises(TypeError, match=r"by its folder, not by a Classifier: classifier\.save"):
        use(classifier)


def test_a_file_without_its_folder(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"network")
    with pytest.raises(CheckpointError, match=r"no model\.json beside it"):
        load_classifier(tmp_path / "model.onnx")


def test_a_report_goes_into_a_folder(colour_run, tmp_path):
    with pytest.raises(SettingsError, match=r"name a folder, into which report\.html goes"):
        write_report(colour_run, out=tmp_path / "mine.html")
