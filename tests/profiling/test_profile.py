"""densekit.profile and what it takes."""

import pytest

import densekit as dk
from densekit.console import Screen
from densekit.errors import CheckpointError, SettingsError, UnknownNameError
from densekit.hardware import _nvidia_loads
from densekit.models.catalogue import count_parameters
from densekit.profiling.profile import MARGIN
from densekit.profiling.subject import find_subject

QUIET = Screen(quiet=True)


@pytest.fixture(scope="module")
def profiles():
    """A small DenseNet, stock and fused, and a network with nothing to fuse, at two sizes."""
    names = ["densenet40_k12_cifar", "resnet14_cifar"]
    options = {"seconds": 0, "device": "cpu", "precision": "fp32", "screen": QUIET}
    return dk.profile(names, batch=4, sizes=[32, (32, 48)], fused=True, **options)


def test_a_fused_twin_stands_behind_each_densenet(profiles):
    labels = [found.subject.label for found in profiles]
    assert labels == ["densenet40_k12_cifar", "densenet40_k12_cifar fused", "resnet14_cifar"]
    stock, fused, _ = profiles
    assert stock.parameters == fused.parameters
    assert sum(fused.predictions[0].kept.values()) < 0.5 * sum(stock.predictions[0].kept.values())


def test_figures_fit_together(profiles):
    for found in profiles:
        low, high = found.training.spread
        assert 0 < low <= found.training.median <= high
        assert found.inference.median > 0
        square, wide = found.predictions
        assert (square.size, wide.size) == ((32, 32), (32, 48))
        kept = [sum(prediction.kept.values()) for prediction in found.predictions]
        assert kept[1] == pytest.approx(1.5 * kept[0], rel=0.05)


def test_a_network_by_itself_is_that_of_its_name_and_stays_as_it_is(profiles):
    network = dk.create_model("densenet40_k12_cifar", num_classes=10, fused=True).eval()
    options = {"seconds": 0, "device": "cpu", "precision": "fp32", "screen": QUIET}
    (found,) = dk.profile(network, batch=4, sizes=[32, (32, 48)], **options)
    stock = profiles[0]
    assert found.subject.label == "DenseNet"
    assert (found.parameters, found.macs) == (stock.parameters, stock.macs)
    assert found.predictions == stock.predictions
    assert found.measured is None
    assert "lambda" not in repr(found)
    assert not network.training
    assert network.features.denseblock1.ran is None


def test_the_largest_batch_leaves_the_margin(profiles):
    found = profiles[0]
    idle = found.measured.idle if found.measured else 0
    batch = found.largest_batch(2_000_000_000, found.predictions[0])
    assert found.predictions[0].peak(batch) * (1 + MARGIN) + idle <= 2_000_000_000
    assert found.predictions[0].peak(batch + 1) * (1 + MARGIN) + idle > 2_000_000_000


class TestSubjects:
    def test_catalogue(self):
        assert find_subject("resnet18").size == (224, 224)
        assert find_subject("resnet20_cifar").size == (32, 32)

    def test_run_folder(self, colour_run):
        subject = find_subject(str(colour_run))
        assert (subject.size, subject.channels) == ((12, 12), 3)
        assert count_parameters(subject.build()) == count_parameters(dk.load(colour_run).network)

    @pytest.mark.parametrize("name", ["torchvision:squeezenet1_1", "timm:resnet18"])
    def test_other_libraries(self, name):
        assert count_parameters(find_subject(name).build()) == {"s": 1_235_496, "r": 11_689_512}[name.split(":")[1][0]]

    @pytest.mark.parametrize("name", ["densnet121", "torchvision:densnet121", "timm:densnet121"])
    def test_a_name_that_is_none_gets_the_nearest(self, name):
        with pytest.raises(UnknownNameError, match=r"did you mean: (timm:)?densenet1"):
            find_subject(name)

    def test_a_folder_that_is_no_run(self, tmp_path):
        with pytest.raises(CheckpointError, match=r"cannot read .*model\.json"):
            find_subject(str(tmp_path))


def test_no_networks():
    with pytest.raises(SettingsError, match="no networks named"):
        dk.profile([])


def test_loads_of_gpus_by_the_drivers_tool(tmp_path, monkeypatch):
    """The tool itself is on machines with a GPU only; this is what it prints (one GPU does not tell its load)."""
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU-aa-1, 93'\necho 'GPU-bb-2, [N/A]'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert _nvidia_loads() == {"aa-1": 93}
    tool.unlink()
    monkeypatch.setenv("PATH", str(tmp_path))
    assert _nvidia_loads() == {}
