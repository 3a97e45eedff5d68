"""The application: the page, /predict, /model, /health and /metrics."""

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.requests import ClientDisconnect

from repvit_dense.errors import InputError
from repvit_dense.page import STATIC
from repvit_dense.serving.batching import Job, ModelError, Worker
from repvit_dense.serving.metrics import Metrics

if TYPE_CHECKING:
    from repvit_dense.artifact.predictor import ImageModel

FILES = {
    '/': ('serve.html', 'text/html; charset=utf-8'),
    **{f'/{name}': (name, 'text/javascript; charset=utf-8') for name in ('serve.js', 'viewer.js')},
    '/style.css': ('style.css', 'text/css; charset=utf-8'),
}
POLL = 0.5  # seconds between looks whether a waiting client is still there
RETRY = 2  # seconds that a client is told to wait if the queue is full


@dataclass(frozen=True)
class Limits:
    """Limits of the server.

    Attributes:
        bytes: size of an image file.
        pixels: size of an image, read from its header before it is decoded.
        queue: requests that are received, wait or are predicted at a time.
        seconds: time of a request, from its first byte until its prediction is there.
    """

    bytes: int
    pixels: int
    queue: int
    seconds: float


class Mask(BaseModel):
    """A mask as COCO's compressed run lengths, as pycocotools decodes them."""

    size: tuple[int, int] = Field(description='height and width')
    counts: str


class Object(BaseModel):
    """An object of a detector."""

    label: str
    score: float
    box: tuple[float, float, float, float] = Field(description='x1 y1 x2 y2 in pixels of the image')
    mask: Mask | None = Field(None, description='instance segmentation only')


class Segment(BaseModel):
    """A class of semantic segmentation, or a segment of panoptic segmentation."""

    number: int
    label: str
    share: float = Field(description='of the pixels')
    mask: Mask


class Prediction(BaseModel):
    """The prediction for an image."""

    width: int
    height: int
    objects: list[Object]
    segments: list[Segment]


class Failure(BaseModel):
    """The reason why there is no prediction."""

    error: str


class Refusal(Exception):
    """A request that is answered with an error."""

    def __init__(self, status: int, text: str, **headers: str):
        super().__init__(text)
        self.status, self.headers = status, headers


ERRORS = {
    400: 'the image is damaged, has too many pixels, or cannot be predicted',
    408: 'the image did not arrive in time',
    413: 'the file is too large',
    415: 'the body is not an image',
    500: 'the model fails',
    503: 'too many requests wait; `Retry-After` says when to ask again',
    504: 'the prediction took too long',
}
BODY = {'schema': {'type': 'string', 'format': 'binary'}}
OPENAPI = {'requestBody': {'required': True, 'content': {'image/*': BODY, 'application/octet-stream': BODY}}}
Score = Annotated[float, Query(ge=0, le=1, description="objects below this or the server's --score are left out")]


def build_app(model: 'ImageModel', worker: Worker, metrics: Metrics, limits: Limits, score: float) -> FastAPI:
    """Build the application.

    Args:
        model: names the classes.
        worker: predicts.
        metrics: shown by /metrics.
        limits: of a request.
        score: objects below this score are left out, unless a request says otherwise.
    """
    app = FastAPI(title=f'repvit-dense: {model.title}', version='1', docs_url=None, redoc_url=None)
    _add_files(app)
    _add_predict(app, worker, metrics, limits, score)
    palette = None if model.palette is None else [[int(level) for level in colour] for colour in model.palette]
    about = {
        'title': model.title,
        'classes': model.names,
        'palette': palette,
        'score': score,
        'max_bytes': limits.bytes,
        'max_pixels': limits.pixels,
    }

    @app.get('/model', summary='Title, classes, colours and limits')
    async def describe_model() -> dict[str, Any]:
        return about

    @app.get('/health', summary='200 if the model answers, else 503')
    async def health() -> Response:
        seconds = worker.busy()
        status = 200 if seconds < limits.seconds else 503
        return _json({'status': 'ok' if status == 200 else f'the model has been busy for {seconds:.0f} s'}, status)

    @app.get('/metrics', summary='Numbers since the start, in the text format of Prometheus')
    async def show_metrics() -> Response:
        return Response(metrics.render(), media_type='text/plain; version=0.0.4; charset=utf-8')

    return app


def _add_files(app: FastAPI) -> None:
    """Add the page, its scripts and its style."""
    files = {path: ((STATIC / name).read_bytes(), kind) for path, (name, kind) in FILES.items()}

    async def file(request: Request) -> Response:
        content, kind = files[request.url.path]
        return Response(content, media_type=kind)

    for path in files:
        app.add_api_route(path, file, include_in_schema=False)


def _add_predict(app: FastAPI, worker: Worker, metrics: Metrics, limits: Limits, least: float) -> None:
    """Add /predict; objects below the score `least` are left out by default."""
    failures: dict[int | str, dict[str, Any]] = {
        status: {'model': Failure, 'description': text} for status, text in ERRORS.items()
    }

    @app.post(
        '/predict',
        summary='Predict an image: the bytes of its file are the body',
        response_model=Prediction,
        responses=failures,
        openapi_extra=OPENAPI,
    )
    async def predict(request: Request, score: Score = least) -> Response:
        if metrics.waiting >= limits.queue:
            return _json({'error': 'too many requests wait; ask again later'}, 503, retry_after=str(RETRY))
        metrics.waiting += 1
        try:
            content = await _read(request, limits)
            return Response(await _predict(request, worker, Job(content, score), limits), media_type='application/json')
        except Refusal as error:
            return _json({'error': str(error)}, error.status, **error.headers)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody reads it
        finally:
            metrics.waiting -= 1


def _json(content: dict[str, Any], status: int = 200, **headers: str) -> Response:
    named = {name.replace('_', '-'): value for name, value in headers.items()}
    return Response(json.dumps(content), status, named, 'application/json')


async def _read(request: Request, limits: Limits) -> bytes:
    """Return the body of a request; a page of another site cannot send the accepted types unasked, as forms do."""
    kind = request.headers.get('content-type', '').partition(';')[0].strip().lower()
    if not kind.startswith('image/') and kind != 'application/octet-stream':
        raise Refusal(
            415,
            f'Content-Type: {kind or "none"}: send the bytes of an image file as the body, with image/* or '
            "application/octet-stream: curl --data-binary @photo.jpg -H 'Content-Type: image/jpeg' URL/predict",
        )
    too_large = Refusal(413, f'the file has more than {limits.bytes:,} bytes; reduce it', connection='close')
    length = request.headers.get('content-length', '0')
    if len(length) > 15 or int(length) > limits.bytes:
        raise too_large

    async def receive() -> bytes:
        content = bytearray()
        async for chunk in request.stream():
            content += chunk
            if len(content) > limits.bytes:
                raise too_large
        return bytes(content)

    try:
        return await asyncio.wait_for(receive(), limits.seconds)
    except asyncio.TimeoutError:
        raise Refusal(408, f'the image did not arrive within {limits.seconds:g} s', connection='close') from None


async def _predict(request: Request, worker: Worker, job: Job, limits: Limits) -> bytes:
    """Return the prediction as JSON; a job whose client has gone or whose time is over is cancelled."""
    worker.submit(job)
    answer = asyncio.wrap_future(job.answer)
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limits.seconds
    try:
        while not (await asyncio.wait([answer], timeout=POLL))[0]:
            if loop.time() > deadline:
                raise Refusal(504, f'the prediction was not there after {limits.seconds:g} s', retry_after=str(RETRY))
            if await request.is_disconnected():
                raise ClientDisconnect
    finally:
        if job.answer.cancel():
            job.content = b''  # it stays in the queue until the model has time
        answer.cancel()
    try:
        return answer.result()
    except InputError as error:
        raise Refusal(400, str(error)) from error
    except ModelError as error:
        raise Refusal(500, str(error)) from error
