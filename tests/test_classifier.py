import io
import math
import shutil
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from densekit.classifier import Classifier
from densekit.data.find_pictures import find_pictures
from densekit.data.pictures import read_picture
from densekit.data.preprocessing import Preprocessing
from densekit.errors import CheckpointError, DataError, SettingsError
from densekit.loading import load_classifier
from densekit.models.catalogue import create_model
from densekit.models.weights import save_model
from densekit.prediction import Prediction

CLASSES = ("cat", "dög", "great tit", "elk")


def one_by_one(classifier: Classifier, files: list[Path]) -> torch.Tensor:
    """Probabilities (N, K) from the definition: one picture at a time through network and softmax."""
    network, preprocessing = classifier.network.eval(), classifier.preprocessing
    with torch.no_grad():
        return torch.stack([network(preprocessing(read_picture(file))[None])[0].softmax(0) for file in files])


def test_saved_and_loaded_gives_the_same_bits(classifier, tmp_path):
    classifier.save(tmp_path / "new" / "folder")
    again = load_classifier(tmp_path / "new" / "folder", device="cpu")
    assert (again.classes, again.preprocessing) == (CLASSES, classifier.preprocessing)
    assert again.record == {"trained": {"epoch": 3}}
    pictures = torch.randn(5, 3, 8, 8)
    assert torch.equal(again.probabilities(pictures), classifier.probabilities(pictures))
    again.save(tmp_path / "third")
    for name in ("model.json", "model.safetensors"):
        assert (tmp_path / "third" / name).read_bytes() == (tmp_path / "new" / "folder" / name).read_bytes()


def test_loaded_with_fused_blocks_it_answers_the_same(tmp_path):
    network = create_model("densenet_bc100_k12_cifar", num_classes=4, block_config=(2, 2))
    Classifier(network, CLASSES, Preprocessing(size=(16, 16))).save(tmp_path)
    stock, fused = (load_classifier(tmp_path, device="cpu", fused=choice) for choice in (False, True))
    pictures = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(fused.probabilities(pictures), stock.probabilities(pictures))
    assert fused.network.features.denseblock1.ran == "cpu"
    assert not hasattr(stock.network.features.denseblock1, "ran")


def test_trained_classifier_keeps_its_answers(colour_run, colours):
    classifier = load_classifier(colour_run, device="cpu")
    answers = classifier.predict(colours / "test" / "red")
    assert [answer.label for answer in answers] == ["red"] * 8
    assert all(answer.probability is not None and answer.probability > 0.5 for answer in answers)


def test_run_folder_holds_no_pickle(colour_run):
    files = [path for path in colour_run.rglob("*") if path.is_file() and path.name != ".lock"]
    assert {"model.json", "model.safetensors", "settings.yaml", "last.safetensors"} <= {path.name for path in files}
    for path in files:
        assert path.suffix in {".json", ".safetensors", ".yaml", ".csv", ".png"}, path
        assert path.read_bytes()[:2] not in {b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"}, path


def test_model_files_alone_are_the_classifier(colour_run, colours, tmp_path):
    for name in ("model.json", "model.safetensors"):
        shutil.copy(colour_run / name, tmp_path)
    whole, travelled = (load_classifier(folder, device="cpu") for folder in (colour_run, tmp_path))
    assert travelled.predict(colours / "test") == whole.predict(colours / "test")


class TestProbabilities:
    def test_are_the_softmax_in_evaluation_mode(self, classifier):
        pictures = torch.randn(3, 3, 8, 8)
        network = classifier.network.train()
        network.features[0].eval()  # each module has a mode of its own
        before = [module.training for module in network.modules()]
        found = classifier.probabilities(pictures)
        vectors = classifier.embeddings(pictures)
        assert [module.training for module in network.modules()] == before
        with torch.no_grad():
            expected = torch.softmax(network.double().eval()(pictures.double()), 1)
        torch.testing.assert_close(found, expected.float())
        nn.Linear(vectors.shape[1], 2)(vectors).sum().backward()  # something else can be trained on them

    def test_leave_batch_norm_alone(self, classifier):
        before = {key: value.clone() for key, value in classifier.network.state_dict().items()}
        classifier.network.train()
        classifier.probabilities(torch.randn(3, 3, 8, 8))
        torch.testing.assert_close(dict(classifier.network.state_dict()), before, rtol=0, atol=0)


class TestPredict:
    @pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 100], ids=lambda n: f"batch_of_{n}")
    def test_equals_one_by_one_in_the_order_given(self, classifier, photos, batch_size):
        files = find_pictures([photos])[::-1]
        answers = classifier.predict(files, batch_size=batch_size, top=4)
        assert [answer.path for answer in answers] == [str(file) for file in files]
        for answer, expected in zip(answers, one_by_one(classifier, files), strict=True):
            values, places = expected.sort(descending=True)
            assert [label for label, _ in answer.top] == [CLASSES[place] for place in places]
            torch.testing.assert_close(torch.tensor([p for _, p in answer.top]), values)
            assert (answer.label, answer.probability) == answer.top[0]

    def test_pictures_in_memory_are_answered_as_their_files(self, classifier, photos):
        files = find_pictures([photos])
        opened = [Image.open(path) for path in files]
        arrays = [np.asarray(picture) for picture in opened]
        expected = [answer.top for answer in classifier.predict(files)]
        for images in (opened, arrays, iter(arrays)):
            answers = classifier.predict_images(images, batch_size=3)
            assert [answer.path for answer in answers] == [str(number) for number in range(len(files))]
            assert [answer.label for answer in answers] == [top[0][0] for top in expected]
            for answer, top in zip(answers, expected, strict=True):
                assert dict(answer.top) == pytest.approx(dict(top), abs=1e-6)
        assert classifier.predict_images([]) == []
        transparent = np.asarray(opened[0].convert("RGBA"))
        for one in (opened[0], arrays[0], np.stack(arrays[:1]), transparent):  # one picture, not its lines
            (answer,) = classifier.predict_images(one)
            assert dict(answer.top) == pytest.approx(dict(expected[0]), abs=1e-6)

    def test_a_transparent_picture_that_lies_sideways(self, classifier, tmp_path):
        picture = Image.new("RGBA", (9, 5), (200, 30, 30, 128))
        exif = Image.Exif()
        exif[0x0112] = 6
        picture.save(tmp_path / "a.png", exif=exif)
        (file,), (memory,) = classifier.predict(tmp_path), classifier.predict_images([Image.open(tmp_path / "a.png")])
        assert dict(memory.top) == pytest.approx(dict(file.top), abs=1e-6)

    def test_a_damaged_picture_in_memory_is_told_and_the_others_are_answered(self, classifier, photos):
        whole = (photos / "red" / "0.png").read_bytes()
        images = [Image.open(io.BytesIO(content)) for content in (whole, whole[:-30], whole)]
        first, damaged, last = classifier.predict_images(images)
        assert first.top == last.top != ()
        assert damaged.error.startswith("damaged or cut short (")
        assert damaged.path == "1"

    def test_values_that_are_no_numbers_are_no_answer(self, classifier, photos):
        broken = deepcopy(classifier)
        next(broken.network.parameters()).data.fill_(math.nan)
        with pytest.raises(CheckpointError, match="answers with values that are not finite: its weights are damaged"):
            broken.predict(photos)

    @pytest.mark.parametrize("classes", [CLASSES[:3], (*CLASSES, "fifth")], ids=["too_few", "too_many"])
    def test_as_many_names_as_the_network_has_answers(self, classifier, photos, classes):
        with pytest.raises(CheckpointError, match=rf"answers \(.*, 4\), but there are {len(classes)} classes"):
            replace(classifier, classes=classes).predict(photos)

    def test_an_empty_name_is_not_the_whole_folder(self, classifier):
        with pytest.raises(DataError, match="an empty name"):
            classifier.predict("")

    @pytest.mark.parametrize("wrong", ["a.png", b"x", np.zeros((4, 4)), np.zeros((4, 4, 2), np.uint8)], ids=str)
    def test_what_is_no_picture(self, classifier, wrong):
        with pytest.raises(TypeError, match="give PIL pictures, uint8 arrays"):
            classifier.predict_images([wrong])

    def test_grey_arrays_with_and_without_channels(self, classifier):
        grey = np.arange(63, dtype=np.uint8).reshape(9, 7)
        one, other, both = (
            classifier.predict_images(image) for image in (grey, grey[..., None], np.stack([grey, grey]))
        )
        assert [len(one), len(other), len(both)] == [1, 1, 2]
        assert one[0].top == other[0].top

    def test_pictures_in_memory_are_no_names_of_files(self, classifier):
        for pictures in (Image.new("RGB", (9, 9)), [Image.new("RGB", (9, 9))], None, b"bytes", io.BytesIO(b"bytes")):
            with pytest.raises(TypeError, match="not a file name; predict_images, embed_images take pictures"):
                classifier.predict(pictures)

    def test_addresses_are_not_downloaded(self, classifier):
        with pytest.raises(DataError, match="addresses are not downloaded: download the picture, and name the file"):
            classifier.predict("https://example.org/a.jpg")

    @pytest.mark.parametrize("channels", [1, 3, 4])
    def test_tensors_and_arrays_are_the_pictures_that_they_show(self, classifier, channels):
        array = np.random.default_rng(0).integers(0, 256, (9, 7, channels), dtype=np.uint8)
        picture = Image.fromarray(array[..., 0] if channels == 1 else array)
        tensor = torch.from_numpy(array).permute(2, 0, 1)
        expected = classifier.predict_images(picture)
        for same in (array, tensor, [tensor], array[None], tensor[None]):
            assert classifier.predict_images(same) == expected
        vectors = classifier.embed_images([picture, tensor]).vectors
        assert torch.equal(vectors[0], vectors[1])

    @pytest.mark.parametrize("shape", [(3, 9, 9), (1, 9, 9), (4, 4, 2)], ids=str)
    def test_arrays_that_may_have_their_channels_first(self, classifier, shape):
        with pytest.raises(TypeError, match="may have its channels first"):
            classifier.predict_images(np.zeros(shape, np.uint8))

    @pytest.mark.parametrize(("top", "named"), [(1, 1), (3, 3), (4, 4), (99, 4)])
    def test_top(self, classifier, photos, top, named):
        answer = classifier.predict(photos / "red" / "0.png", top=top)[0]
        assert len(answer.top) == named
        probabilities = [p for _, p in answer.top]
        assert probabilities == sorted(probabilities, reverse=True)
        assert (sum(probabilities) == pytest.approx(1)) == (named == 4)

    def test_unreadable_files_are_reported_in_place(self, classifier, photos):
        whole = (photos / "red" / "0.png").read_bytes()
        files = {"cut.png": whole[:200], "text.jpg": b"hello", "empty.png": b"", "good.png": whole}
        for name, content in files.items():
            (photos / name).write_bytes(content)
        sources = ["cut.png", "good.png", "empty.png", "nowhere.png", "text.jpg"]
        answers = classifier.predict([photos / name for name in sources], batch_size=2)
        assert [Path(answer.path).name for answer in answers] == sources
        reasons = [answer.error and answer.error.partition(" (")[0] for answer in answers]
        not_known = "not a picture of a known format"
        assert reasons == ["damaged or cut short", None, "the file is empty", "no such file", not_known]
        assert [answer.label for answer in answers if answer.error] == [None] * 4
        assert answers[1].top == classifier.predict(photos / "red" / "0.png")[0].top

    def test_other_sizes_and_modes_go_through_the_preprocessing(self, classifier, tmp_path):
        Image.new("L", (30, 5), 128).save(tmp_path / "grey.png")
        Image.new("RGB", (30, 5), (128, 128, 128)).save(tmp_path / "colour.png")
        grey, colour = classifier.predict([tmp_path / "grey.png", tmp_path / "colour.png"])
        assert grey.top == colour.top

    @pytest.mark.parametrize("wrong", [{"top": 0}, {"batch_size": 0}], ids=str)
    def test_impossible_settings(self, classifier, photos, wrong):
        with pytest.raises(SettingsError, match="both must be at least 1"):
            classifier.predict(photos, **wrong)

    def test_each_reads_no_further_than_it_must(self, classifier, photos):
        files = find_pictures([photos])
        taken = []
        answers = classifier.predict_each((taken.append(file) or file for file in files), batch_size=2)
        assert next(answers).path == str(files[0])
        assert len(taken) == 4  # a batch, and the one that is read meanwhile


class TestLoad:
    def test_bare_network(self, tmp_path):
        save_model(tmp_path, create_model("simple_cnn", num_classes=4, image_size=(8, 8)))
        with pytest.raises(CheckpointError, match="holds a bare network: a classifier also needs classes"):
            load_classifier(tmp_path)

    @pytest.mark.parametrize("missing", ["model.json", "model.safetensors"])
    def test_missing_file(self, classifier, tmp_path, missing):
        classifier.save(tmp_path)
        (tmp_path / missing).unlink()
        with pytest.raises(CheckpointError, match=f"cannot read .*{missing}: No such file"):
            load_classifier(tmp_path)

    def test_more_names_than_the_network_has_answers(self, classifier, tmp_path):
        replace(classifier, classes=(*CLASSES, "one more")).save(tmp_path)
        with pytest.raises(CheckpointError, match=r"model\.json names 5 classes, but the network has 4"):
            load_classifier(tmp_path)

    def test_unknown_device(self, classifier, tmp_path):
        classifier.save(tmp_path)
        with pytest.raises(SettingsError, match="device 'gpu' cannot be used"):
            load_classifier(tmp_path, device="gpu")
        assert load_classifier(tmp_path, device="cpu").device == torch.device("cpu")


def test_prediction_without_an_answer():
    assert (Prediction("a.png", error="damaged").label, Prediction("a.png").probability) == (None, None)
