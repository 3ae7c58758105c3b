"""The web application around a service: paths, limits, errors and the page."""

import math
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException

from densekit.classifier import Classifier
from densekit.errors import DensekitError, MissingPartError, SettingsError
from densekit.serving.service import Answer, Failure, Service
from densekit.serving.upload_limit import UploadLimit
from densekit.version import __version__

_PAGE = Path(__file__).parent / "page"


def create_app(
    classifier: Classifier,
    *,
    metrics: dict[str, Any] | None = None,
    batch_size: int = 16,
    max_upload_mb: float = 32,
) -> FastAPI:
    """Make a classifier a web application, for any ASGI server: JSON for programs, and a page for people.

    ``POST /predict`` names what is on pictures, ``POST /explain`` draws the evidence on one, ``GET /model`` tells what
    answers, ``GET /health`` that it does, ``GET /openapi.json`` describes all of them. An error is
    ``{"error": "one line"}``.

    Args:
        classifier: a run's or an export's, or one made of your own network, class names and preprocessing.
        metrics: its test figures, as in metrics.json.
        batch_size: pictures that go through the network at a time, at most.
        max_upload_mb: megabytes of a request, at most.

    Raises:
        SettingsError: no batch and no upload can be so small.
    """
    if batch_size < 1 or not 0 < max_upload_mb < math.inf:
        raise SettingsError(
            f"batch_size={batch_size}, max_upload_mb={max_upload_mb:g}: both must be above 0 and finite"
        )
    service = Service(classifier, metrics, batch_size)
    app = FastAPI(title="densekit", version=__version__, docs_url=None, redoc_url=None)  # whose pages load scripts
    app.state.predictor = service.predictor
    app.add_middleware(UploadLimit, most=round(max_upload_mb * 1e6))
    for error in (DensekitError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(error, _tell)
    failures: dict[int | str, dict[str, Any]] = {status: {"model": Failure} for status in (400, 413, 422, 500)}
    answers = failures | {200: {"model": list[Answer]}, 422: {"model": list[Answer] | Failure}}
    drawn = failures | {200: {"content": {"image/png": {}}}, 501: {"model": Failure}}
    app.post("/predict", responses=answers)(service.predict)
    app.post("/explain", responses=drawn, response_class=Response)(service.explain)
    app.get("/model")(service.model)
    app.get("/health")(service.health)
    app.get("/", include_in_schema=False)(_show_page)
    app.head("/health", include_in_schema=False)(service.health)  # as some monitors ask
    app.head("/", include_in_schema=False)(_show_page)
    app.mount("/page", StaticFiles(directory=_PAGE))
    return app


def _show_page() -> FileResponse:
    return FileResponse(_PAGE / "index.html")


def _tell(request: Request, error: Exception) -> JSONResponse:
    """Answer with what went wrong on one line."""
    if isinstance(error, HTTPException):
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)
    if isinstance(error, RequestValidationError):
        told = "; ".join(f"{entry['loc'][1]}: {entry['msg']}" for entry in error.errors())
        return JSONResponse({"error": told.replace("Value error, Expected UploadFile", "no file")}, 422)
    if isinstance(error, DensekitError):
        return JSONResponse({"error": str(error)}, 501 if isinstance(error, MissingPartError) else 422)
    return JSONResponse({"error": "internal error: the log of the server says which"}, 500)
