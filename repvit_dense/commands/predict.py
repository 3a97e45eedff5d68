"""`repvit-dense predict`: predict images and videos; write pictures, a page and JSON."""

import dataclasses
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.artifact.manifest import is_artifact
from repvit_dense.commands import load
from repvit_dense.commands.base import keep_memory
from repvit_dense.commands.names import check_names, stands_for_model
from repvit_dense.errors import InputError
from repvit_dense.image_header import MAX_PIXELS
from repvit_dense.options import option, whole_number
from repvit_dense.screen import say

if TYPE_CHECKING:
    from repvit_dense.artifact.images import ImageInput
    from repvit_dense.artifact.predictor import ImageModel
    from repvit_dense.artifact.result import Result
    from repvit_dense.artifact.saving import Output
    from repvit_dense.artifact.sources import Source

ECHO = 0.3  # seconds in which a second signal counts as the first: `timeout` sends one to the process and to its group


@dataclasses.dataclass
class Options(load.ResultOptions):
    """Options of `predict`."""

    config: str | Path = option(
        positional=True,
        metavar='MODEL',
        help='work dir, checkpoint, ARTIFACT folder, packaged model (nuclei), or CONFIG; the checkpoint of a CONFIG is '
        'the next argument',
    )
    images: Sequence[str | Path] | str | Path = option(
        [],
        positional=True,
        nargs='+',
        metavar='IMAGE',
        help="images, folders of them, patterns such as 'photos/*.jpg', videos, addresses (http, rtsp), webcam, or 0",
    )
    _: dataclasses.KW_ONLY
    out: Path = option(Path('predictions'), type=Path, metavar='DIR', help='folder for everything that is written')
    score: float | None = option(0.3, type=float, help='leave out objects below this score')
    save: list[str] = option(
        [],
        nargs='+',
        choices=('json', 'coco', 'masks', 'crops', 'video'),
        metavar='KIND',
        help='write more: coco, masks, crops (each object) or video (annotated); json is always written',
    )
    annotations: Path | None = option(
        None, type=Path, metavar='FILE', help='annotation file with the ids of images and categories for --save coco'
    )
    no_pictures: bool = option(False, help='write no pictures and no page')
    show: bool = option(False, help='show each picture in a window; q ends the run')
    max_pixels: int = option(
        MAX_PIXELS,
        type=whole_number(1, 2**30),
        metavar='N',
        help='refuse an image with more pixels before it is decoded',
    )


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The outcome of `predict`.

    Attributes:
        folder: holds a picture per image, `predictions.json`, `predictions.jsonl`, `*.segments.png` and the page.
        page: `index.html` with all pictures of this run; None if it made none.
        failed: images that could not be read, predicted or drawn, videos that broke off, and subfolders that could not
            be read.
        videos: annotated videos.
    """

    folder: Path
    page: Path | None
    failed: list[Path]
    videos: list[Path] = dataclasses.field(default_factory=list)


def run(options: Options) -> Predictions:
    """Predict images and videos; write pictures, a page and JSON.

    Every result is written as soon as it is there. After SIGINT (Ctrl-C) or SIGTERM the current image is finished, and
    the page and JSON of all results so far are written.

    Raises:
        InputError: there is no image, an option is wrong, or the model cannot be loaded: nothing was written. Or the
            model fails with every image, or `out` cannot be written any more: earlier results are kept.
    """
    from repvit_dense.artifact import sources

    check_names(options)
    checkpoint, images = _split(options)
    _check(options)
    found = sources.find(images)
    if 'video' in options.save and not any(source.is_video for source in found):
        raise InputError('--save video: there is no video among the images to predict')
    shared = {field.name: getattr(options, field.name) for field in dataclasses.fields(load.ResultOptions)}
    model = load.run(load.Options(**shared, checkpoint=checkpoint))
    _check_task(model.task, options.save)
    with nullcontext() if is_artifact(options.config) else keep_memory():
        return _predict_all(model, found, options)


def _split(options: Options) -> tuple[str | None, list[str]]:
    """Return the checkpoint, if one follows a config, and the names of images."""
    from repvit_dense.catalogue import PUBLISHED

    paths = [options.images] if isinstance(options.images, str | os.PathLike) else options.images
    images = [str(path) for path in paths]
    name = str(options.config)
    if is_artifact(name) or stands_for_model(name) or name in PUBLISHED or f'{name}.pth' in PUBLISHED:
        return None, images
    if len(images) < 2:
        raise InputError(
            f'{options.config}: a config needs a checkpoint and images after it: CONFIG CHECKPOINT IMAGE..., '
            'WORK_DIR IMAGE... or ARTIFACT IMAGE...'
        )
    return images[0], images[1:]


def _check(options: Options) -> None:
    """Refuse options that are wrong whatever the images and the model are."""
    load.check_limits(options)
    if options.annotations and 'coco' not in options.save:
        raise InputError('--annotations: has the ids for --save coco, which is not wanted')
    if options.annotations and not options.annotations.is_file():
        raise InputError(f'--annotations {options.annotations}: no such file')
    if options.show:
        from repvit_dense.artifact.window import check_window

        check_window()


def _check_task(task: str, kinds: Sequence[str]) -> None:
    """Refuse files that a model of this task does not lead to."""
    if 'masks' in kinds and task == 'detection':
        raise InputError('--save masks: this model detects boxes, it has no masks')
    if 'crops' in kinds and task in ('semantic', 'panoptic'):
        raise InputError(f'--save crops: this model is {task}, it has no boxes')


def _predict_all(model: 'ImageModel', found: list['Source'], options: Options) -> Predictions:
    from repvit_dense.artifact import coco
    from repvit_dense.artifact.saving import LINES, Output, Wanted

    folder, output = Path(options.out), None
    wanted = Wanted(frozenset(options.save), not options.no_pictures, options.score or 0)
    try:
        results = None
        if 'coco' in options.save:
            names = [source.name for source in found]
            ids = coco.choose_ids(names, model.names, options.annotations, model.annotations)
            folder.mkdir(parents=True, exist_ok=True)
            results = coco.CocoResults(folder, model.names, model.task, ids)
        folder.mkdir(parents=True, exist_ok=True)
        output = Output(folder, found, wanted, results)
        run = _Run(model, found, options, output)
        with _noting_signals() as signals:
            try:
                run.predict(signals)
            except InputError:
                if output.count:
                    output.finish(model.title, model.names, model.palette)
                raise
            page = output.finish(model.title, model.names, model.palette)
    except OSError as error:
        path = error.filename2 or error.filename or folder
        saved = f'; {output.count} of {run.total_text} images are in {LINES}' if output and output.count else ''
        raise InputError(f'{path}: cannot be written ({error.strerror}){saved}') from error
    finally:
        if output:
            output.close()
    run.report(page, signals)
    if signals:
        if signals[0] == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + signals[0])
    return Predictions(folder, page, run.failed, output.videos)


class _Run:
    """Predict all sources, one image or frame at a time."""

    def __init__(self, model: 'ImageModel', sources: list['Source'], options: Options, output: 'Output'):
        self.model, self.sources, self.options, self.output = model, sources, options, output
        self.failed: list[Path] = []
        self.total = _count(sources)
        self.total_text = 'unknown' if self.total is None else str(self.total)
        self.done, self.seconds = 0, 0.0

    def predict(self, signals: list[int]) -> None:
        """Predict and write until the end, a signal, or a key in the window."""
        from repvit_dense.artifact import sources

        waiting: deque[Source] = deque()  # sources of the images that are read and not predicted yet

        def inputs() -> Iterator['ImageInput | InputError']:
            for source, image in sources.images(self.sources, self.options.max_pixels):
                waiting.append(source)
                yield image

        start = time.perf_counter()
        results = self.model.stream(inputs(), self.options.max_pixels)
        with suppress(ImportError):  # an artifact runs without tqdm, too
            from tqdm import tqdm

            results = tqdm(results, total=self.total, desc='predicting', unit='image', disable=None)
        for result in results:
            self.done += 1
            goes_on = self._write(waiting.popleft(), result, signals)
            if signals or not goes_on:
                break
        self.seconds = time.perf_counter() - start

    def _write(self, source: 'Source', result: 'Result | InputError', signals: list[int]) -> bool:
        """Draw and write a result, or report its error; return whether to go on."""
        try:
            if isinstance(result, InputError):
                raise result
            draws = self.output.draws(source)
            with self.model.clock('drawing'):
                picture = result.plot(self.output.wanted.score) if draws or self.options.show else None
                self.output.add(source, result, picture if draws else None)
        except OSError:
            raise
        except Exception as error:
            path = Path(source.name)
            reason = error if error is result else f'{path}: cannot be drawn ({type(error).__name__}: {error})'
            if path not in self.failed:  # one message for all frames of a video
                say(f'{reason}; {"its results so far are kept" if source.is_video else "left out"}')
                self.failed.append(path)
            return True
        if self.options.show and picture is not None:
            from repvit_dense.artifact.window import show

            return show(self.model.title, picture, not source.is_video, lambda: bool(signals))
        return True

    def report(self, page: Path | None, signals: list[int]) -> None:
        """Say how it went; print the page, or the list of results if there is none."""
        from repvit_dense.artifact.saving import LIST

        if self.failed:
            say(f'{len(self.failed)} of {len(self.sources)} images failed, see above')
        if signals:
            say(f'stopped after {self.done} of {self.total_text} images')
        if self.output.count:
            say(self.model.clock.describe(self.output.count, self.seconds))
        for video in self.output.videos:
            print(f'Video: {video}')
        print(f'Page: {page}' if page else f'Results: {self.output.folder / LIST}')


def _count(sources: list['Source']) -> int | None:
    """Return the number of images and frames; None if a stream does not tell."""
    from repvit_dense.artifact.video import Video

    counts = [source.content.count if isinstance(source.content, Video) else 1 for source in sources]
    return None if None in counts else sum(count or 0 for count in counts)


@contextmanager
def _noting_signals() -> Iterator[list[int]]:
    """Yield a list that receives SIGINT and SIGTERM; a second signal of a kind, later than `ECHO`, ends the process."""
    noted: list[int] = []
    times: dict[int, float] = {}
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield noted
        return

    def note(number: int, _: Any) -> None:
        if time.monotonic() - times.setdefault(number, time.monotonic()) > ECHO:
            sys.exit(128 + number)
        noted.append(number)

    previous = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
