"""`repvit-dense serve`: a web page and an HTTP API for a model."""

import dataclasses
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.artifact import pretrained
from repvit_dense.artifact.manifest import is_artifact
from repvit_dense.commands import load
from repvit_dense.commands.base import keep_memory
from repvit_dense.errors import InputError
from repvit_dense.options import option, whole_number
from repvit_dense.screen import say

if TYPE_CHECKING:
    from repvit_dense.artifact.predictor import ImageModel

MEGABYTE = 1_000_000
GREY = 128  # of the image that is predicted before the first request


@dataclasses.dataclass
class Options(load.Options):
    """Options of `serve`."""

    config: str | Path = option(
        positional=True,
        metavar='MODEL',
        help='work dir, checkpoint, ARTIFACT folder, packaged model (nuclei), published model, or CONFIG with a '
        'CHECKPOINT after it',
    )
    _: dataclasses.KW_ONLY
    host: str = option('127.0.0.1', metavar='ADDRESS', help='address to listen on; 0.0.0.0 lets other machines connect')
    port: int = option(8000, type=whole_number(0, 65_535), metavar='N', help='port to listen on; 0 for a free one')
    score: float = option(0.05, type=float, help='leave out objects below this score; the page has a slider above it')
    batch: int = option(
        1, type=whole_number(1, 1024), metavar='N', help='images of waiting requests that an ARTIFACT predicts at once'
    )
    queue: int = option(64, type=whole_number(1, 10_000), metavar='N', help='refuse requests (503) while N others wait')
    timeout: int = option(60, type=whole_number(1, 86_400), metavar='SECONDS', help='time limit of a request')
    max_megabytes: int = option(20, type=whole_number(1, 2000), metavar='N', help='refuse larger image files')
    max_pixels: int = option(
        25_000_000,
        type=whole_number(1, 2**30),
        metavar='N',
        help='refuse an image with more pixels before it is decoded',
    )


def run(options: Options) -> None:
    """Serve a web page and an HTTP API for a model.

    The page is for people, `POST /predict` for programs; `/openapi.json` describes it. Ctrl-C or SIGTERM ends the
    server after the requests that it has accepted.

    Raises:
        InputError: an option is wrong, the port is in use, or the model cannot be loaded or fails.
    """
    missing = [name for name in ('fastapi', 'uvicorn') if find_spec(name) is None]
    if missing:
        raise InputError(f'serve needs {", ".join(missing)}: pip install "repvit_dense[serve]"')
    if not isinstance(options.score, int | float) or not 0 <= options.score <= 1:
        raise InputError(f'--score {options.score}: must be a number between 0 and 1')
    options = dataclasses.replace(options, config=pretrained.resolve(options.config))
    from repvit_dense.serving import server
    from repvit_dense.serving.app import Limits

    listener = server.listen(options.host, options.port)  # before the model is loaded
    with listener, nullcontext() if is_artifact(options.config) else keep_memory(), server.exit_by_signal():
        model = _load(options)
        limits = Limits(options.max_megabytes * MEGABYTE, options.max_pixels, options.queue, options.timeout)
        if not server.is_loopback(listener):
            say(f'warning: --host {options.host}: everyone who reaches this machine can use the model; no password')
        print(f'Page: {server.url_of(listener)}', flush=True)
        say(f'{model.title}: {len(model.names)} classes; Ctrl-C ends the server')
        server.build_server(model, listener, limits, options.score).run(sockets=[listener])


def _load(options: Options) -> 'ImageModel':
    """Load the model, set its batch size and predict a grey image, which takes longer the first time."""
    import numpy as np

    from repvit_dense.artifact.predictor import ImageModel, Predictor

    fields = {field.name: getattr(options, field.name) for field in dataclasses.fields(load.Options)}
    model = load.run(load.Options(**fields))
    if not isinstance(model, ImageModel):
        raise InputError(f'{options.config}: a backbone alone predicts nothing; name a detector or a segmentor')
    if options.batch > 1:
        if not isinstance(model, Predictor) or isinstance(model.manifest.inputs['images'][0], int):
            raise InputError(
                f'--batch {options.batch}: goes with an artifact whose batch is open (export --dynamic batch)'
            )
        model.batch_size = options.batch
    model(np.full((64, 64, 3), GREY, np.uint8))
    return model
