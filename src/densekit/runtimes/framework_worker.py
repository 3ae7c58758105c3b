"""What a framework's own Python runs; needs that framework and numpy, nothing else.

    python framework_worker.py keras|mxnet FILE

It writes an empty array to standard output when FILE is open. Then it answers every array on standard input, pictures
float32 (N, C, H, W), with logits float32 (N, K), until the input ends.
"""

import io
import os
import struct
import sys
from collections.abc import Callable
from typing import IO

import numpy as np

Compute = Callable[[np.ndarray], np.ndarray]


def send(stream: IO[bytes], array: np.ndarray) -> None:
    """Write an array: the length of its .npy file in bytes, then the file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    stream.write(struct.pack("<Q", buffer.tell()) + buffer.getvalue())
    stream.flush()


def receive(stream: IO[bytes]) -> np.ndarray:
    """Read what `send` wrote.

    Raises:
        EOFError: the other side has closed the stream.
    """
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    return np.load(io.BytesIO(stream.read(*struct.unpack("<Q", head))))


def load_keras(file: str) -> Compute:
    """Open a .keras file; its pictures are channels last."""
    import keras  # pyright: ignore[reportMissingImports]

    model = keras.saving.load_model(file, compile=False)
    return lambda pictures: model.predict_on_batch(pictures.transpose(0, 2, 3, 1))


def load_mxnet(file: str) -> Compute:
    """Open a NAME-symbol.json with the NAME-0000.params beside it."""
    import mxnet  # pyright: ignore[reportMissingImports]

    parameters = file.removesuffix("symbol.json") + "0000.params"
    network = mxnet.gluon.SymbolBlock.imports(file, ["data"], parameters)
    return lambda pictures: network(mxnet.nd.array(pictures)).asnumpy()


LOADERS: dict[str, Callable[[str], Compute]] = {"keras": load_keras, "mxnet": load_mxnet}


def main() -> None:
    """Serve the file that the command line names."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a framework prints is no answer
    _, framework, file = sys.argv
    compute = LOADERS[framework](file)
    send(answers, np.empty(0))
    while True:
        try:
            pictures = receive(sys.stdin.buffer)
        except EOFError:
            return
        send(answers, compute(pictures))


if __name__ == "__main__":
    main()
