"""serve: a trained classifier on a port of this machine."""

import copy
import logging
import os
import socket
from asyncio import CancelledError
from contextlib import suppress
from typing import Any

from densekit.console import Screen
from densekit.engine.swap import fuse_where_faster
from densekit.errors import SettingsError
from densekit.evaluation.results import read_metrics
from densekit.loading import classifier_folder, load_classifier
from densekit.optional import require
from densekit.units import counted

_LAST_ANSWERS = 10  # seconds for those who are being answered, or are sending still, when it is to end


def serve(
    source: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: str = "auto",
    precision: str = "fp32",
    fused: bool = True,
    batch_size: int = 16,
    max_upload_mb: float = 32,
    screen: Screen | None = None,
) -> None:
    """Answer HTTP requests with a trained classifier until Ctrl-C; `densekit.serving.app.create_app` says which.

    There is no password and no encryption: what is to be reached from elsewhere belongs behind a proxy that has them.

    Args:
        source: run folder or exported folder.
        host: address to listen on; "0.0.0.0" is reached from other machines too.
        port: 0 takes any that is free.
        device: where to compute: "auto", "cpu", "cuda", ...
        precision: what to answer in, see `densekit.loading.load_classifier`.
        fused: whether the dense blocks run fused where that is faster.
        batch_size: pictures that go through the network at a time, at most: those that came in while it computed.
        max_upload_mb: megabytes of a request, at most.
        screen: where it says what it does; a quiet one lists no requests.

    Raises:
        CheckpointError: no classifier is there.
        SettingsError: the port cannot be listened on.
        MissingPartError: FastAPI or uvicorn is not installed.
    """
    for part in ("fastapi", "python_multipart", "uvicorn"):
        require(part, extra="serve")
    import uvicorn

    from densekit.serving.app import create_app

    screen = screen or Screen()
    with _listen(host, port) as listening:  # first: a port in use is told at once
        source = classifier_folder(source, screen)
        classifier = load_classifier(source, device=device, precision=precision)
        fuses = fused and fuse_where_faster(classifier.network)
        metrics = read_metrics(source, screen)
        app = create_app(classifier, metrics=metrics, batch_size=batch_size, max_upload_mb=max_upload_mb)
        names = ("label", "labels") if classifier.multilabel else ("class", "classes")
        classes = counted(len(classifier.classes), *names)
        network = classifier.model + (" (fused)" if fuses else "")
        precision = "" if classifier.precision == "own" else f" {classifier.precision}"
        where = f"{classifier.device}{precision}, answers at {_address(listening)} until Ctrl-C"
        screen.say(f"{network}, {classes}, {where}")
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=_logging(),
            access_log=not screen.quiet,
            timeout_graceful_shutdown=_LAST_ANSWERS,
        )
        try:
            with suppress(KeyboardInterrupt):  # which ends it, after the requests that it had taken
                uvicorn.Server(config).run(sockets=[listening])
        finally:
            app.state.predictor.close()


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise SettingsError(f"port {port}: use a number from 0 (any that is free) to 65535")
    try:
        family, *_ = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]  # some Pythons add the address
        raise SettingsError(f"cannot listen on {host}, port {port} ({reason}): try another --host or --port") from None
    except UnicodeError:
        raise SettingsError(f"cannot listen on {host}: it is not a host name") from None
    # asyncio sets it for sockets that it opens itself: without it, every answer waits 40 ms for the client's next sign
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def _address(listening: socket.socket) -> str:
    host, port = listening.getsockname()[:2]
    host = str({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host))  # of all addresses, one that is right here
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _logging() -> dict[str, Any]:
    """Return uvicorn's settings of logging, without what it says of itself, for standard error."""
    from uvicorn.config import LOGGING_CONFIG

    def is_fault(record: logging.LogRecord) -> bool:  # and not a request that was cut off at the end
        return not (record.exc_info and isinstance(record.exc_info[1], CancelledError))

    config = copy.deepcopy(LOGGING_CONFIG)
    config["filters"] = {"faults": {"()": lambda: is_fault}}
    config["handlers"]["default"]["filters"] = ["faults"]
    config["loggers"]["uvicorn.error"]["level"] = "WARNING"
    config["handlers"]["access"]["stream"] = "ext://sys.stderr"
    return config
