from pathlib import Path

import pytest
import torch

from densekit.errors import SettingsError, TrainingError
from densekit.hardware import choose_device, choose_precision
from densekit.training.step import train_step

CPU = torch.device("cpu")


def test_named_device_is_taken():
    assert choose_device("cpu") == CPU


def test_auto_takes_a_gpu_if_there_is_one():
    expected = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    assert choose_device("auto").type == expected


def test_each_of_several_processes_takes_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setenv("LOCAL_RANK", "97")
    with pytest.raises(SettingsError, match="device 'cuda:97' cannot be used"):
        choose_device("cuda")


@pytest.mark.parametrize("name", ["gpu", "cuda:99", "", "cpu cpu"], ids=["no_such_kind", "no_such_gpu", "empty", "two"])
def test_device_that_is_not_there_is_told_in_one_line(name, train_tiny, tmp_path):
    with pytest.raises(SettingsError, match=f"device '{name}' cannot be used .*: try auto or cpu") as caught:
        train_tiny(device=name)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_precision_on_a_cpu(train_tiny, tmp_path):
    about = Path("/proc/cpuinfo")
    flags = about.read_text().split() if about.exists() else []
    assert choose_precision("auto", CPU) == ("bf16" if {"amx_bf16", "avx512_bf16"} & set(flags) else "fp32")
    assert choose_precision("bf16", CPU) == "bf16"
    with pytest.raises(SettingsError, match="precision 'bfloat16': use one of auto, fp32, bf16, fp16"):
        choose_precision("bfloat16", CPU)
    assert choose_precision("fp32", CPU) == "fp32"
    with pytest.raises(SettingsError, match="precision fp16 needs a GPU: use bf16 or fp32 on a CPU"):
        train_tiny(precision="fp16")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_network_computes_in_the_precision_and_keeps_its_weights_in_fp32(precision, dtype, make_job, forwards):
    job = make_job(precision=precision, lr=0.1)
    job.state.optimizer.param_groups[0]["lr"] = 0.1
    totals = train_step(job, next(iter(job.loader)))
    assert forwards[-1][2].dtype == dtype
    assert {p.dtype for p in job.state.network.parameters()} == {torch.float32}
    assert totals.isfinite().all()


def test_bf16_learns_what_fp32_learns(make_job):
    totals = []
    for precision in ("fp32", "bf16"):
        job = make_job(precision, precision=precision, lr=0.1)
        totals.append(train_step(job, next(iter(job.loader))))
    torch.testing.assert_close(totals[1][0], totals[0][0], rtol=0.02, atol=0)


@pytest.mark.parametrize("fails", [False, True], ids=["finished", "failed"])
def test_random_numbers_and_determinism_of_the_caller_are_given_back(fails, train_tiny):
    torch.manual_seed(4)
    before = torch.get_rng_state()
    inside = []

    def note(module, _):
        inside.append(torch.are_deterministic_algorithms_enabled())

    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
    if fails:
        with pytest.raises(TrainingError):
            train_tiny(deterministic=True, lr=1e30)
    else:
        train_tiny(deterministic=True, epochs=1)
    handle.remove()
    assert set(inside) == {True}
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("channels_last", [True, False])
def test_memory_layout(channels_last, make_job, forwards):
    job = make_job(channels_last=channels_last, channels=3, lr=0.1)
    train_step(job, next(iter(job.loader)))
    pictures = forwards[-1][1]
    assert pictures.shape[1] == 3
    assert pictures.is_contiguous(memory_format=torch.channels_last) == channels_last
