import ast
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import densekit
from densekit import errors
from densekit.optional import require

SOURCE = Path(densekit.__file__).parent
MODULES = sorted(module.name for module in pkgutil.walk_packages([str(SOURCE)], "densekit."))
TWINS = {"densekit.export.to_keras", "densekit.export.to_mxnet"}  # files for other frameworks, which import these
APPLICATION = {f"densekit.serving.{name}" for name in ("app", "service", "upload_limit")}  # made of FastAPI's types
EXTRAS = ("onnx", "onnxscript", "onnxruntime", "openvino", "nncf", "keras", "tensorflow", "jax", "mxnet", "captum")
EXTRAS += ("optuna", "fastapi", "uvicorn", "datasets", "timm")
UNPICKLERS = {"pickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def run(code: str, *arguments: str) -> str:
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_source_file_is_a_module():
    files = {path for path in SOURCE.rglob("*.py") if path.name != "__init__.py"}
    assert {SOURCE.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in MODULES} >= files


def test_every_module_imports_without_the_extras():
    # None in sys.modules is how Python itself marks a module that must not be imported
    code = f"""
import importlib, sys
sys.modules.update(dict.fromkeys({EXTRAS!r}))
for name in sys.argv[1:]:
    importlib.import_module(name)
print(len([name for name in sys.argv[1:] if name in sys.modules]))
"""
    names = sorted(set(MODULES) - TWINS - APPLICATION)
    assert int(run(code, *names)) == len(names)


def test_a_server_without_its_packages_says_how_to_install_them():
    code = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRAS!r}))
import densekit
try:
    densekit.serve("run")
except densekit.errors.MissingPartError as error:
    print(error)
"""
    assert run(code) == 'this needs fastapi, which is not installed: pip install "densekit[serve]"\n'


def test_importing_densekit_imports_next_to_nothing():
    loaded = run("import sys, densekit; dir(densekit); print(*sys.modules)").split()
    assert not {"torch", "numpy", "pydantic", "rich", "PIL"} & set(loaded)


@pytest.mark.parametrize("name", densekit.__all__)
def test_public_name_is_there_and_described(name):
    value = getattr(densekit, name)
    if name != "__version__":
        assert value.__doc__
        assert densekit._HOMES[name].startswith(value.__module__)
    assert getattr(densekit, name) is value


def test_names_match():
    assert dir(densekit) == sorted(densekit.__all__)
    assert set(densekit.__all__) == {*densekit._HOMES, "__version__"}


def test_type_checkers_see_the_same_names():
    tree = ast.parse(Path(densekit.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == densekit._HOMES


def test_unknown_name():
    with pytest.raises(AttributeError, match="module 'densekit' has no attribute 'trian'"):
        _ = densekit.trian  # pyright: ignore[reportAttributeAccessIssue]


def test_every_error_is_a_densekit_error_and_a_builtin_one():
    for name, kind in vars(errors).items():
        if isinstance(kind, type) and name != "DensekitError":
            assert issubclass(kind, errors.DensekitError), name
            assert issubclass(kind, ValueError | LookupError | RuntimeError | ImportError), name


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("densnet121", "did you mean: densenet121, densenet161?"),
        ("DENSENET121", "did you mean: densenet121, densenet161?"),
        ("zzz", "there are: alexnet, densenet121, densenet161, vgg"),
    ],
    ids=["typo", "upper_case", "nothing_near"],
)
def test_unknown_names_get_the_nearest_ones(given, hint):
    error = errors.UnknownNameError("model", given, ["vgg", "densenet121", "alexnet", "densenet161"])
    assert str(error) == f"unknown model {given!r}; {hint}"


def test_missing_part_of_an_optional_package_is_named_itself(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import no_such_part")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_part") as error:
        require("half_installed", extra="export")
    assert not isinstance(error.value, errors.DensekitError)
    with pytest.raises(errors.MissingPartError, match=r'pip install "densekit\[export\]"'):
        require("no_such_package.module", extra="export")


def unsafe_loads(tree: ast.AST) -> list[str]:
    """Everything in a source that can run what a file says: unpickling, eval, unsafe YAML."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.partition(".")[0] in UNPICKLERS]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] in UNPICKLERS:
            found.append(node.module)
        elif isinstance(node, ast.Call):
            call, keywords = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
            safe = keywords.get("weights_only") == "True" or call not in {"torch.load", "hub.load_state_dict_from_url"}
            if not safe or "allow_pickle" in keywords or call in {"eval", "exec", "yaml.load", "yaml.unsafe_load"}:
                found.append(ast.unparse(node))
    return found


def test_no_source_unpickles():
    found = {str(path): unsafe_loads(ast.parse(path.read_text(encoding="utf-8"))) for path in SOURCE.rglob("*.py")}
    assert {path: calls for path, calls in found.items() if calls} == {}


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("import pickle", 1),
        ("from joblib import load", 1),
        ("torch.load(path)", 1),
        ("torch.load(path, weights_only=False)", 1),
        ("torch.load(path, weights_only=True)", 0),
        ("np.load(path, allow_pickle=True)", 1),
        ("yaml.safe_load(text); json.load(file)", 0),
    ],
)
def test_the_search_for_unpickling_finds_it(source, count):
    assert len(unsafe_loads(ast.parse(source))) == count
