"""Bad input: exit status 2 and one line that says what was wrong and what would work."""

import pytest


@pytest.mark.parametrize(
    ("line", "says"),
    [
        pytest.param("trian photos", 'Unknown command "trian". Did you mean "train"?', id="unknown_verb"),
        pytest.param("evaluate", "parameter RUN requires an argument", id="no_run"),
        pytest.param("evaluate RUN --splti val", "Unknown option: --splti. Did you mean --split?", id="unknown_flag"),
        pytest.param("evaluate RUN --split tset", 'Choose from: "test", "val", "train"', id="bad_choice"),
        pytest.param("evaluate RUN --batch-size x", 'unable to convert "x" into int', id="bad_number"),
        pytest.param("evaluate RUN --batch-size 0", "use a batch size of at least 1", id="no_batch"),
        pytest.param("evaluate RUN --workers -1", "workers=-1: use 0 or more, or auto", id="no_workers"),
        pytest.param("report RUN --workers -1", "workers=-1: use 0 or more, or auto", id="no_workers_for_a_report"),
        pytest.param("evaluate RUN --device gpu", "device 'gpu' cannot be used", id="no_device"),
        pytest.param("evaluate RUN nowhere", "nowhere: no such folder or table, and no data set's name", id="no_data"),
        pytest.param("evaluate RUN digits", "the classifier has no class '0'", id="other_classes"),
        pytest.param("evaluate RUN --out FILE", "FILE", id="out_is_a_file"),
        pytest.param("evaluate RUN --out FILE/below", "FILE", id="out_below_a_file"),
        pytest.param("evaluate nowhere", "cannot read nowhere/model.json: No such file", id="no_run_folder"),
        pytest.param("evaluate PHOTOS", "model.json: No such file", id="folder_that_is_no_run"),
        pytest.param("evaluate FILE", "there is no model.json beside it", id="file_that_is_no_run"),
        pytest.param("report nowhere", "cannot read nowhere/model.json: No such file", id="report_of_nothing"),
        pytest.param("report RUN --split tset", 'Choose from: "test", "val", "train"', id="report_bad_split"),
        pytest.param("predict RUN", "no pictures named: densekit predict RUN IMAGE...", id="nothing_to_predict"),
        pytest.param("predict nowhere FILE", "cannot read nowhere/model.json", id="predict_without_a_run"),
        pytest.param("predict RUN *.gif", "*.gif: no pictures found", id="pattern_without_match"),
        pytest.param("predict RUN FILE --top 0", "top=0, batch_size=32: both must be at least 1", id="top_0"),
        pytest.param("predict RUN FILE --format xml", 'Choose from: "table", "csv", "json"', id="bad_format"),
        pytest.param("models densnet", "unknown model 'densnet'; did you mean: densenet", id="no_such_model"),
        pytest.param("train nowhere", "nowhere: no such folder or table", id="train_on_nothing"),
        pytest.param("train PHOTOS --model desnet121", "did you mean: densenet121", id="train_unknown_model"),
        pytest.param("train PHOTOS --recipe digit", "unknown recipe 'digit'; did you mean: digits", id="bad_recipe"),
        pytest.param("train PHOTOS --epochs 0", "input should be greater than 0", id="number_out_of_range"),
        pytest.param("train PHOTOS --epochs many", 'for --epochs: unable to convert "many" into int', id="no_number"),
        pytest.param("train PHOTOS --schedule x", 'for --schedule. Choose from: "constant", "step"', id="bad_name"),
        pytest.param("train PHOTOS --milestones 0.5 2", "milestones=2.0: input should be less", id="one_of_many"),
        pytest.param("train PHOTOS --workers -2", "workers=-2: input should be greater than or equal to 0", id="union"),
        pytest.param("train PHOTOS --size 32 32", "too many arguments, 32: put a value with spaces in", id="two_sizes"),
        pytest.param("train PHOTOS --size 32,32", "size='32,32': give pixels, or HEIGHTxWIDTH", id="no_size"),
        pytest.param("train PHOTOS --mean 1", "mean and std: give both or neither", id="half_of_two"),
        pytest.param("train PHOTOS --epoch 3", "Unknown option: --epoch. Did you mean --epochs?", id="train_bad_flag"),
        pytest.param("train PHOTOS --model-options.spatial-dims 3", "spatial_dims make no classifier", id="3_d"),
        pytest.param("train PHOTOS --model-options.features-only true", "make no classifier", id="a_backbone"),
        pytest.param("train PHOTOS --out RUN", "exists already: choose another --out", id="run_exists"),
        pytest.param(
            "train PHOTOS --weights imagnet", "unknown weights 'imagnet'; did you mean: imagenet", id="weights"
        ),
        pytest.param(
            "train PHOTOS --weights FILE", "FILE is neither a safetensors nor a torch.save file", id="no_weights"
        ),
        pytest.param("train PHOTOS --freeze-epochs 1", "freeze_epochs is for trained weights", id="nothing_to_freeze"),
        pytest.param("train --resume", "resume needs the run folder: --out RUN --resume", id="resume_what"),
        pytest.param("train --resume --out PHOTOS", "is not a run folder", id="resume_no_run"),
    ],
)
def test_one_line_and_status_2(refused, line, says, colour_run, colours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("x")
    places = {"RUN": colour_run, "PHOTOS": colours}
    found = refused(*(places.get(word, word) for word in line.split()))
    assert says in found
    assert "Traceback" not in found
    assert "pydantic" not in found
    assert [path.name for path in tmp_path.iterdir()] == ["FILE"]  # nothing half done is left lying about
