"""What test_frameworks.py runs in a framework's own Python: the logits of every network in a folder.

    python compute_twins.py keras|mxnet FOLDER

FOLDER holds the twin and framework_worker.py, copied there, and a folder for each network.
"""

import importlib
import sys
from pathlib import Path

import numpy as np

FILES = {"keras": "model.keras", "mxnet": "model-symbol.json"}


def main() -> None:
    framework, root = sys.argv[1], Path(sys.argv[2])
    sys.path.insert(0, str(root))
    twin = importlib.import_module(f"to_{framework}")
    worker = importlib.import_module("framework_worker")
    for case in sorted(path.parent for path in root.glob("*/options.json")):
        file = case / FILES[framework]
        sys.argv = [twin.__file__, str(case), str(file)]
        twin.main()
        compute = worker.LOADERS[framework](str(file))
        for given in sorted(case.glob("*.in.npz")):
            np.save(case / given.name.replace("in.npz", "out.npy"), compute(np.load(given)["pictures"]))
    assert not {"torch", "densekit"} & sys.modules.keys()


if __name__ == "__main__":
    main()
