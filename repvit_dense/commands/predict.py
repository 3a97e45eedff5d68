"""`repvit-dense predict`: predict images; write pictures, a page and JSON."""

import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.artifact.manifest import is_artifact
from repvit_dense.commands import load
from repvit_dense.commands.base import ModelOptions, keep_memory, stands_for_model
from repvit_dense.data.reading import SUFFIXES, images_in
from repvit_dense.errors import InputError
from repvit_dense.files import write_text
from repvit_dense.options import option
from repvit_dense.page import write_page

if TYPE_CHECKING:
    from repvit_dense.artifact.predictor import ImageModel
    from repvit_dense.artifact.result import Result


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
    threads: int | None = option(None, type=int, metavar='N', help='CPU threads (default: all cores)')
    deploy: bool = option(False, help='run the fused model')


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The outcome of `predict`.

    Attributes:
        folder: holds a picture per image, `predictions.json`, `*.segments.png` and the page.
        page: `index.html` with all pictures.
        failed: images that could not be read.
    """

    folder: Path
    page: Path
    failed: list[Path]


def run(options: Options) -> Predictions:
    """Predict images; write pictures, a page and JSON.

    Raises:
        InputError: there is no image, or the model cannot be loaded; nothing was written.
    """
    paths = [options.images] if isinstance(options.images, str | Path) else options.images
    images, checkpoint = [str(path) for path in paths], None
    if not is_artifact(options.config) and not stands_for_model(options.config):
        if len(images) < 2:
            raise InputError(
                f'{options.config}: a config needs a checkpoint and images after it: CONFIG CHECKPOINT IMAGE..., '
                'WORK_DIR IMAGE... or ARTIFACT IMAGE...'
            )
        checkpoint, *images = images
    files = find_images(images)
    shared: dict[str, Any] = {field.name: getattr(options, field.name) for field in dataclasses.fields(ModelOptions)}
    more: dict[str, Any] = {'device': options.device, 'threads': options.threads, 'deploy': options.deploy}
    model = load.run(load.Options(**shared, **more, checkpoint=checkpoint))
    if is_artifact(options.config):
        return _predict_all(model, files, Path(options.out), options.score)
    with keep_memory():
        return _predict_all(model, files, Path(options.out), options.score)


def _predict_all(model: 'ImageModel', paths: list[Path], out: Path, score: float) -> Predictions:
    from tqdm import tqdm

    out.mkdir(parents=True, exist_ok=True)
    entries, pictures, failed = [], [], []
    results = tqdm(model.stream(paths), total=len(paths), desc='predicting', disable=None)
    for path, name, result in zip(paths, _picture_names(paths), results, strict=True):
        if isinstance(result, InputError):
            print(f'{result}; left out', file=sys.stderr)
            failed.append(path)
            continue
        pictures.append(result.save(out / f'{name}.jpg', score))
        entries.append(_describe(result, path, out / f'{name}.segments.png', score))
    write_text(out / 'predictions.json', json.dumps(entries, indent=1))
    page = write_page(out, model.title, pictures, f'Predictions of {model.title}')
    print(f'Page: {page}')
    return Predictions(out, page, failed)


def _describe(result: 'Result', path: Path, map_path: Path, score: float) -> dict:
    """Return the entry of an image in predictions.json; write the segment map if the model has one."""
    import cv2

    entry: dict = {'image': str(path)}
    segment_map = result.segment_map()
    if segment_map is None:
        entry['objects'] = result.objects(score)
    else:
        cv2.imwrite(str(map_path), segment_map)
        entry['segments'] = result.regions()
    return entry


def find_images(names: list[str]) -> list[Path]:
    """Return the image files of a list of files and folders; folders are searched recursively.

    Raises:
        InputError: a file or folder does not exist, or a folder holds no image.
    """
    paths = []
    for path in map(Path, names):
        if not path.exists():
            raise InputError(f'{path}: no such image or folder')
        inside = images_in(path) if path.is_dir() else [path]
        if not inside:
            raise InputError(f'{path}: no image in this folder ({", ".join(SUFFIXES)})')
        paths += inside
    return paths


def _picture_names(paths: list[Path]) -> list[str]:
    """Return a unique name per picture: the name of its image, numbered if several images share it."""
    counts: dict[str, int] = {}
    names = []
    for path in paths:
        number = counts[path.stem] = counts.get(path.stem, 0) + 1
        names.append(path.stem if number == 1 else f'{path.stem}-{number}')
    return names
