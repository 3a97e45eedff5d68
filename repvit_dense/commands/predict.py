"""`repvit-dense predict`: predict images; write pictures, a page and JSON."""

import dataclasses
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.artifact.manifest import is_artifact
from repvit_dense.commands import load
from repvit_dense.commands.base import ModelOptions, keep_memory, stands_for_model
from repvit_dense.data.reading import SUFFIXES, is_image_name
from repvit_dense.errors import InputError, printable
from repvit_dense.files import check_writable, is_folder, walk, write_text
from repvit_dense.image_header import MAX_PIXELS
from repvit_dense.options import option, whole_number
from repvit_dense.page import PAGE, Entries, write_page

if TYPE_CHECKING:
    from repvit_dense.artifact.predictor import ImageModel
    from repvit_dense.artifact.result import Result

ECHO = 0.3  # seconds in which a second signal counts as the first: `timeout` sends one to the process and to its group


@dataclasses.dataclass
class Options(ModelOptions):
    """Options of `predict`."""

    config: str | Path = option(
        positional=True,
        metavar='MODEL',
        help='work dir, checkpoint, ARTIFACT folder, or CONFIG; the checkpoint of a CONFIG is the next argument',
    )
    images: Sequence[str | Path] | str | Path = option(
        [], positional=True, nargs='+', metavar='IMAGE', help='image files, or folders of them'
    )
    _: dataclasses.KW_ONLY
    out: Path = option(Path('predictions'), type=Path, metavar='DIR', help='folder for everything that is written')
    score: float = option(0.3, type=float, help='leave out objects below this score')
    device: str | None = option(None, help='cpu, cuda, cuda:1, ... (default: a GPU if there is one)')
    threads: int | None = option(None, type=whole_number(1, 1024), metavar='N', help='CPU threads (default: all cores)')
    deploy: bool = option(False, help='run the fused model')
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
        page: `index.html` with all pictures of this run.
        failed: images that could not be read, predicted or drawn, and subfolders that could not be read.
    """

    folder: Path
    page: Path
    failed: list[Path]


def run(options: Options) -> Predictions:
    """Predict images; write pictures, a page and JSON.

    Every result is written as soon as it is there. After SIGINT (Ctrl-C) or SIGTERM the current image is finished, and
    the page and JSON of all results so far are written.

    Raises:
        InputError: there is no image, an option is wrong, or the model cannot be loaded: nothing was written. Or the
            model fails with every image, or `out` cannot be written any more: earlier results are kept.
    """
    paths = [options.images] if isinstance(options.images, str | os.PathLike) else options.images
    images, checkpoint = [str(path) for path in paths], None
    if not is_artifact(options.config) and not stands_for_model(options.config):
        if len(images) < 2:
            raise InputError(
                f'{options.config}: a config needs a checkpoint and images after it: CONFIG CHECKPOINT IMAGE..., '
                'WORK_DIR IMAGE... or ARTIFACT IMAGE...'
            )
        checkpoint, *images = images
    if not isinstance(options.score, int | float) or not 0 <= options.score <= 1:
        raise InputError(f'--score {options.score}: must be a number between 0 and 1')
    files = find_images(images)
    check_writable(options.out)
    shared: dict[str, Any] = {field.name: getattr(options, field.name) for field in dataclasses.fields(ModelOptions)}
    more: dict[str, Any] = {'device': options.device, 'threads': options.threads, 'deploy': options.deploy}
    model = load.run(load.Options(**shared, **more, checkpoint=checkpoint))
    with nullcontext() if is_artifact(options.config) else keep_memory():
        return _predict_all(model, files, options)


def find_images(names: list[str]) -> list[Path]:
    """Return the image files of a list of files and folders, each once; folders are searched recursively.

    Pictures of earlier predictions are left out in folders. A subfolder that cannot be read takes the place of an
    image, which fails.

    Raises:
        InputError: a file or folder does not exist, or a folder holds no image.
    """
    from repvit_dense.artifact.pictures import is_picture

    if not names:
        raise InputError('there is no image to predict; name images or folders of them')
    found: dict[str, Path] = {}
    count = 0
    for path in map(Path, names):
        if not os.path.lexists(path):
            raise InputError(f'{path}: no such image or folder')
        inside = [path]
        if is_folder(path):
            images = [file for file in walk(path, keep_unreadable=True) if is_image_name(file) or is_folder(file)]
            inside = sorted(image for image in images if not is_picture(image))
            if len(inside) < len(images):
                _say(f'{path}: {len(images) - len(inside)} pictures of earlier predictions in this folder are left out')
            if not inside:
                raise InputError(f'{path}: no image in this folder ({", ".join(SUFFIXES)})')
        count += len(inside)
        for image in inside:
            found.setdefault(os.path.join(os.path.realpath(image.parent), image.name), image)  # noqa: PTH118
    if len(found) < count:
        _say(f'{count - len(found)} images are named more than once; each is predicted once')
    return list(found.values())


def _say(text: str) -> None:
    print(printable(text), file=sys.stderr)


def _predict_all(model: 'ImageModel', paths: list[Path], options: Options) -> Predictions:
    from repvit_dense.artifact.pictures import output_names

    output = _Output(Path(options.out), model)
    try:
        output.folder.mkdir(parents=True, exist_ok=True)
        names = output_names(paths, output.folder)
        with _noting_signals() as signals:
            try:
                _predict_each(model, paths, names, options, output, signals)
            except InputError:
                if output.captions:
                    output.finish()
                raise
            output.finish()
    except OSError as error:
        path = error.filename2 or error.filename or output.folder
        raise InputError(
            f'{path}: cannot be written ({error.strerror}); '
            f'{len(output.captions)} of {len(paths)} images are in predictions.jsonl'
        ) from error
    if output.failed:
        _say(f'{len(output.failed)} of {len(paths)} images failed, see above')
    if signals:
        _say(f'stopped after {len(output.captions) + len(output.failed)} of {len(paths)} images')
        if signals[0] == signal.SIGINT:
            raise KeyboardInterrupt
        sys.exit(128 + signals[0])
    return Predictions(output.folder, output.folder / PAGE, output.failed)


def _predict_each(
    model: 'ImageModel',
    paths: list[Path],
    names: list[str],
    options: Options,
    output: '_Output',
    signals: list[int],
) -> None:
    """Predict and write until the end or a signal."""
    from tqdm import tqdm

    results = tqdm(model.stream(paths, options.max_pixels), total=len(paths), desc='predicting', disable=None)
    for path, name, result in zip(paths, names, results, strict=True):
        try:
            if isinstance(result, InputError):
                raise result
            output.add(name, path, result, options.score)
        except OSError:
            raise
        except Exception as error:
            reason = error if error is result else f'{path}: cannot be drawn ({type(error).__name__}: {error})'
            tqdm.write(printable(f'{reason}; left out'), file=sys.stderr)
            output.failed.append(path)
        if signals:
            return


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


class _Output:
    """The folder of a run; the lists of an earlier run are removed when the first result is written."""

    def __init__(self, folder: Path, model: 'ImageModel'):
        self.folder, self.model = folder, model
        self.captions: dict[Path, str] = {}  # by picture
        self.failed: list[Path] = []
        self._lines, self._list = folder / 'predictions.jsonl', folder / 'predictions.json'

    def add(self, name: str, path: Path, result: 'Result', score: float) -> None:
        """Write a result: its picture, its segment map and a line of `predictions.jsonl`."""
        from repvit_dense.artifact.pictures import PICTURE, SEGMENTS, write_picture

        entry: dict = {'image': str(path), 'picture': name + PICTURE}
        picture, segment_map = result.plot(score), result.segment_map()
        if segment_map is None:
            entry['objects'] = result.objects(score)
        else:
            entry['segment_map'] = name + SEGMENTS
            entry['segments'] = result.regions()
        line = json.dumps(entry, allow_nan=False)
        if segment_map is not None:
            write_picture(self.folder / entry['segment_map'], segment_map)
        file = write_picture(self.folder / entry['picture'], picture)
        if not self.captions:
            self._remove_lists()
        with self._lines.open('a') as lines:
            lines.write(f'{line}\n')
        self.captions[file] = str(path)

    def finish(self) -> None:
        """Write `predictions.json` and the page, and print the path of the page."""
        if not self.captions:
            self._remove_lists()
        lines, model = self._lines.read_text().splitlines(), self.model
        write_text(self._list, '[{}]\n'.format(',\n'.join(lines)))
        entries = Entries(lines, model.names, model.palette, [Path(image) for image in self.captions.values()])
        title = f'Predictions of {model.title}'
        print(f'Page: {write_page(self.folder, model.title, self.captions, title, entries=entries)}')

    def _remove_lists(self) -> None:
        for path in (self._list, self.folder / PAGE):
            path.unlink(missing_ok=True)
        self._lines.write_text('')
