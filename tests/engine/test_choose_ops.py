"""Which implementation runs where, and what happens without a compiler."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from densekit.engine.batch_norm import FoldedNorm
from densekit.engine.choose_ops import choose_ops, log_once
from densekit.engine.compile_steps import CannotCompile, _key, load_steps
from densekit.engine.ops_cpu import CompiledOps
from densekit.engine.swap import fuse, fuse_where_faster
from densekit.errors import SettingsError
from densekit.models.catalogue import create_model
from densekit.models.densenet import DenseNet


@pytest.fixture
def forget():
    """Let the choice be made, and the library be looked for, once more."""
    yield load_steps.cache_clear
    for cached in (choose_ops, load_steps):
        cached.cache_clear()


def compiler_is(monkeypatch, path, forget) -> None:
    for cached in (choose_ops, load_steps):
        cached.cache_clear()
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.delenv("CXX", raising=False)


@pytest.fixture
def write_compiler(monkeypatch, tmp_path, tmp_path_factory, forget):
    """Make a compiler that is quick, as it keeps what it once compiled; it logs, and does first what is ``before``."""
    kept = tmp_path_factory.getbasetemp() / "objects"
    kept.mkdir(exist_ok=True)

    def write_compiler(before="") -> Path:
        compiler, log = tmp_path / "c++", tmp_path / "log"
        compiler.write_text(f"""#!/bin/sh
            echo "$@" >> {log}
            {before}
            for out; do :; done
            kept={kept}/$(echo "${{*% *}}" | cksum | tr ' ' -)
            case "$*" in
            *" -c "*) [ -e $kept ] || {shutil.which("c++")} "$@" -O0 -o $kept && exec cp $kept "$out";;
            *) exec {shutil.which("c++")} "$@";;
            esac""")
        compiler.chmod(0o755)
        compiler_is(monkeypatch, f"{tmp_path}:{os.environ['PATH']}", forget)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return log

    return write_compiler


def replace(library, content) -> None:
    """Write another file in the place of a library that is loaded."""
    library.unlink()
    library.write_bytes(content)
    library.chmod(0o600)


def test_auto_compiles_the_steps_for_the_cpu():
    assert choose_ops("auto", "cpu").name == "cpu"
    assert choose_ops("torch", "cpu").name == "torch"
    assert choose_ops("auto", "meta").name == "torch"


def test_without_a_compiler_plain_pytorch_runs(monkeypatch, tmp_path, forget):
    compiler_is(monkeypatch, tmp_path, forget)
    choice = choose_ops("auto", "cpu")
    assert (choice.name, choice.reason) == (
        "torch", "the compiled steps cannot run: no C++ compiler found (c++, g++, clang++, or CXX)"
    )  # fmt: skip
    with pytest.raises(SettingsError, match=r"engine 'cpu' cannot run: no C\+\+ compiler found .*; try auto or torch"):
        choose_ops("cpu", "cpu")


def test_a_compiler_that_fails_is_told_with_its_error(monkeypatch, tmp_path, forget):
    compiler = tmp_path / "c++"
    compiler.write_text("#!/bin/sh\necho 'steps.cpp:1: error: too old' >&2; exit 1\n")
    compiler.chmod(0o755)
    compiler_is(monkeypatch, f"{tmp_path}:{os.environ['PATH']}", forget)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with pytest.raises(CannotCompile, match=r"cannot compile the steps: steps\.cpp:1: error: too old"):
        load_steps()
    assert not list((tmp_path / "cache").rglob("*.so"))


def test_an_engine_for_another_device_is_refused():
    with pytest.raises(SettingsError, match="engine 'cpu' cannot run on cuda: try auto or torch"):
        choose_ops("cpu", "cuda")


@pytest.mark.parametrize("writable", [True, False], ids=["kept", "cache_cannot_be_written"])
def test_the_library_is_kept_for_the_next_process(write_compiler, tmp_path, writable):
    write_compiler()
    cache = tmp_path / "cache"
    cache.mkdir() if writable else cache.write_text("a file in the way")
    script = (
        "from densekit.engine.compile_steps import _key, load_steps; print(load_steps().bnrelu_float32 is not None)"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    ran = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True)
    assert ran.stdout == "True\n", ran.stderr
    assert len(list(cache.rglob("*.so"))) == int(writable)


def test_a_library_that_cannot_be_loaded_is_told(monkeypatch, tmp_path, forget):
    compiler = tmp_path / "c++"
    compiler.write_text('#!/bin/sh\ncase "$*" in *-dM*) exit;; esac\nfor last; do :; done\necho useless > "$last"\n')
    compiler.chmod(0o755)
    compiler_is(monkeypatch, f"{tmp_path}:{os.environ['PATH']}", forget)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert choose_ops("auto", "cpu").name == "torch"
    with pytest.raises(CannotCompile, match="the compiled steps cannot be loaded: "):
        load_steps()


@pytest.mark.parametrize("kept", [0, 0.5, 1], ids=["empty", "cut", "zeros"])
def test_a_damaged_library_is_compiled_anew(write_compiler, tmp_path, kept):
    """The loader would be killed while it reads what is missing."""
    log = write_compiler()
    load_steps()
    (library,) = (tmp_path / "cache").rglob("*.so")
    whole = library.read_bytes()
    replace(library, whole[: int(kept * len(whole))] if kept < 1 else bytes(len(whole)))
    load_steps.cache_clear()
    assert load_steps().bnrelu_float32 is not None
    assert log.read_text().count("-shared") == 2
    assert library.read_bytes()[:4] == whole[:4]


def test_threads_that_call_at_the_same_time_compile_once(write_compiler):
    log = write_compiler()
    with ThreadPoolExecutor(4) as pool:
        libraries = [pool.submit(load_steps) for _ in range(4)]
    assert all(library.result().bnrelu_float32 is not None for library in libraries)
    assert log.read_text().count("-shared") == 1


def test_a_compiler_that_was_stopped_is_asked_again(write_compiler, tmp_path):
    """And what it could not compile with OpenMP is not kept without."""
    stop = (
        f'case "$*" in *layer.cpp*) [ -e {tmp_path}/stopped ] || {{ touch {tmp_path}/stopped; kill -KILL $$; }};; esac'
    )
    write_compiler(before=stop)
    with pytest.raises(CannotCompile, match="cannot compile the steps"):
        load_steps()
    assert not list((tmp_path / "cache").rglob("*.so"))
    assert load_steps().shares_work()


def test_a_failure_lasts_until_the_next_fuse(write_compiler, tmp_path, caplog):
    """A call does not wait for the compiler once more, nor is it told again; whoever fuses another network does."""
    log_once.cache_clear()
    stop = f'case "$*" in *.cpp*) [ -e {tmp_path}/works ] || kill -KILL $$;; esac'
    log = write_compiler(before=stop)
    one, other = (create_model("densenet_bc100_k12_cifar") for _ in range(2))
    fuse(one)
    tried, said = log.read_text(), list(caplog.messages)
    assert "the compiled steps cannot run: c++ cannot compile the steps: exit status -9" in said[-1]
    one(torch.rand(2, 3, 32, 32))
    assert one.features.denseblock1.ran == "torch"
    assert (log.read_text(), caplog.messages) == (tried, said)
    fuse(one)
    assert log.read_text() != tried
    assert caplog.messages[:-1] == said  # only that it compiles, which takes a while
    (tmp_path / "works").touch()
    assert fuse_where_faster(other)
    for model in (one, other):
        model(torch.rand(2, 3, 32, 32))
        assert model.features.denseblock1.ran == "cpu"


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="this system has no file modes")
def test_a_library_that_others_could_have_written_is_not_loaded(write_compiler, tmp_path):
    """Nor is it written over: whose it is is not known."""
    log = write_compiler()
    load_steps()
    (library,) = (tmp_path / "cache").rglob("*.so")
    modes = [path.stat().st_mode & 0o777 for path in (library.parent, library)]
    assert not any(mode & 0o022 for mode in modes)
    load_steps.cache_clear()
    load_steps()
    assert log.read_text().count("-shared") == 1
    replace(library, b"planted")
    library.chmod(0o666)
    load_steps.cache_clear()
    assert load_steps().bnrelu_float32 is not None
    assert log.read_text().count("-shared") == 2
    assert library.read_bytes() == b"planted"


def test_a_compiler_with_words_behind_it(monkeypatch, tmp_path, forget):
    compiler_is(monkeypatch, os.environ["PATH"], forget)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("CXX", "c++ --no-such-word")
    with pytest.raises(CannotCompile, match=r"c\+\+ cannot compile the steps: .*--no-such-word"):
        load_steps()


def test_a_compiler_that_is_not_found_is_told(write_compiler, monkeypatch, caplog):
    write_compiler()
    monkeypatch.setenv("CXX", "g++-99 -v")
    assert load_steps().bnrelu_float32 is not None
    assert caplog.messages[0] == "the compiler g++-99, which CXX names, is not found: c++ is taken"


def test_waiting_for_the_compiler_is_told_and_only_for_dense_blocks(write_compiler, caplog, forget):
    log = write_compiler()
    assert not fuse_where_faster(create_model("resnet14_cifar"))
    with pytest.raises(SettingsError, match="nothing to fuse in this DenseNet: grouped convolutions"):
        fuse(DenseNet((2,), 8, stem="cifar", groups=2))
    assert not log.exists()
    assert caplog.messages == []
    for _ in range(2):  # the second time it is there
        assert fuse_where_faster(create_model("densenet_bc100_k12_cifar"))
        assert caplog.messages == ["compiling the fused dense blocks for this processor, once"]
        choose_ops.cache_clear()
        load_steps.cache_clear()


def test_a_compiler_that_is_no_program(monkeypatch, tmp_path, forget):
    (tmp_path / "compiler").write_bytes(b"\x7fnothing")
    (tmp_path / "compiler").chmod(0o755)
    compiler_is(monkeypatch, os.environ["PATH"], forget)
    monkeypatch.setenv("CXX", str(tmp_path / "compiler"))
    assert choose_ops("auto", "cpu").name == "torch"
    with pytest.raises(CannotCompile, match="compiler cannot be run: "):
        load_steps()


def test_another_processor_has_a_library_of_its_own(monkeypatch, tmp_path):
    """As the compiler tells what it compiles for."""
    compiler, keys = tmp_path / "c++", set()
    compiler.write_text('#!/bin/sh\necho "#define $SET 1"\n')
    compiler.chmod(0o755)
    for instructions in ("__AVX2__", "__AVX512F__", "__AVX2__"):
        monkeypatch.setenv("SET", instructions)
        keys.add(_key([str(compiler)]))
    assert len(keys) == 2


def test_without_threads_it_is_only_taken_when_asked_for(write_compiler, monkeypatch):
    refuses = 'for word; do [ "$word" = -fopenmp ] && exit 1; done'
    write_compiler(before=refuses)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    choice = choose_ops("auto", "cpu")
    assert (choice.name, choice.reason[:55]) == (
        "torch", "the compiled steps cannot run: the compiler knows no Op"
    )  # fmt: skip
    assert choose_ops("cpu", "cpu").name == "cpu"


def test_tiles_are_left_alone_where_the_system_forbids_them(write_compiler, monkeypatch):
    """A processor with AMX, but a process that may not use it, and would be killed."""
    log = write_compiler()
    monkeypatch.setattr("torch.cpu._init_amx", lambda: False)
    ops = CompiledOps(load_steps())
    assert "MAY_USE_TILES" not in log.read_text()
    x, weight, one = torch.rand(2, 3, 3, 8).bfloat16(), torch.rand(8, 8, 3, 3).bfloat16(), torch.ones(8)
    norm = FoldedNorm(one * 0, one, one, one * 0)
    out = torch.empty_like(x)
    ops.bnrelu_conv3x3(x, norm, weight, out, with_moments=False)
    expected = torch.conv2d(x.permute(0, 3, 1, 2).double(), weight.double(), padding=1).permute(0, 2, 3, 1)
    torch.testing.assert_close(out, expected.bfloat16())
