"""Run a trained model on images of one's own: pictures, a page to look at them, and what was found as data."""

import argparse
import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.data.reading import SUFFIXES, images_in, run_lengths
from repvit_dense.errors import InputError
from repvit_dense.files import write_text
from repvit_dense.model import arrays, load_model
from repvit_dense.page import write_page

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from mmengine.config import Config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('images', nargs='+', metavar='IMAGE', help='image files, or folders of them')
    parser.add_argument('--out', type=Path, default=Path('predictions'), metavar='DIR', help='default: %(default)s')
    parser.add_argument('--score', type=float, default=0.3, help='leave out what scores less (default: %(default)s)')
    parser.add_argument('--threads', type=int, metavar='N', help='how many CPU threads to use (default: all cores)')
    parser.add_argument('--device', default=None, help='cpu, cuda, cuda:1, ... (default: a GPU where there is one)')
    parser.add_argument('--deploy', action='store_true', help='run the fused form')


def run(args: argparse.Namespace, cfg: 'Config', checkpoint: str) -> int:
    """Predict every image; write pictures, `predictions.json`, segment maps and a page to `args.out`.

    Returns:
        0, or 2 where an image could not be read: it is named, and the others are still done.

    Raises:
        InputError: no image, or a checkpoint or device that cannot be used; nothing was written.
    """
    paths = find_images(args.images)
    if args.threads:
        import torch

        torch.set_num_threads(args.threads)
    model, predict = load_model(cfg, checkpoint, args.device, args.deploy)
    classes = model.dataset_meta['classes']
    draw = _painter(cfg, model.dataset_meta, args.score)

    def process(path: Path, picture: Path) -> dict:
        image = _read(path)
        sample = predict(image)
        draw(image, sample, picture)
        return arrays(sample, len(classes))

    return _process_all(args, paths, process, classes, Path(cfg.filename).stem, checkpoint)


def run_artifact(args: argparse.Namespace, folder: str) -> int:
    """As `run`, with an artifact in the place of config and checkpoint: neither torch nor OpenMMLab is imported for it.

    Raises:
        InputError: no image, or an artifact that cannot be used; nothing was written.
    """
    import cv2

    from repvit_dense.artifact.draw import draw
    from repvit_dense.artifact.predictor import Predictor, read

    paths = find_images(args.images)
    predict = Predictor(folder, args.threads)
    what = predict.manifest

    def process(path: Path, picture: Path) -> dict:
        image = read(path)
        found = predict(image)
        cv2.imwrite(str(picture), draw(image, found, what.classes, what.palette, args.score))
        return found

    return _process_all(args, paths, process, what.classes, what.config or Path(folder).name, folder)


def _process_all(
    args: argparse.Namespace, paths: list[Path], process: 'Callable', classes: list[str], title: str, model: str
) -> int:
    """Hand every image to `process(path, picture)`, which draws and returns what was found; write the rest."""
    import sys

    import cv2
    from tqdm import tqdm

    args.out.mkdir(parents=True, exist_ok=True)
    results, pictures, failed = [], [], 0
    for path, name in tqdm(list(zip(paths, _names(paths), strict=True)), desc='predicting', disable=None):
        picture = args.out / f'{name}.jpg'
        try:
            found = process(path, picture)
        except InputError as error:
            print(f'{error}; left out', file=sys.stderr)
            failed += 1
            continue
        pictures.append(picture)
        results.append({'image': str(path)} | describe(found, classes, args.score))
        segmented = segment(found, classes)
        if segmented:
            labels, results[-1]['segments'] = segmented
            cv2.imwrite(str(args.out / f'{name}.segments.png'), labels)
    write_text(args.out / 'predictions.json', json.dumps(results, indent=1))
    page = write_page(args.out, title, pictures, f'Predictions of {model}')
    print(f'Page: {page}')
    return 2 if failed else 0


def find_images(given: list[str]) -> list[Path]:
    """Files as they are, folders searched for images. Raises InputError where there is nothing."""
    paths = []
    for path in map(Path, given):
        if not path.exists():
            raise InputError(f'{path}: no such image or folder')
        inside = images_in(path) if path.is_dir() else [path]
        if not inside:
            raise InputError(f'{path}: no image in this folder ({", ".join(SUFFIXES)})')
        paths += inside
    return paths


def _names(paths: list[Path]) -> list[str]:
    """A name for each picture: that of its image, numbered where several images share it."""
    seen, names = {}, []
    for path in paths:
        number = seen[path.stem] = seen.get(path.stem, 0) + 1
        names.append(path.stem if number == 1 else f'{path.stem}-{number}')
    return names


def _read(path: Path) -> 'np.ndarray':
    """`(H, W, 3)` uint8, BGR. Raises InputError where the file is no image."""
    import mmcv

    image = None
    with contextlib.suppress(Exception):  # decoders raise all sorts of errors on a damaged file
        image = mmcv.imread(path)
    if image is None:
        raise InputError(f'{path}: not an image that can be read')
    return image


def _painter(cfg: 'Config', meta: dict, score: float):
    """`draw(image, sample, path)` with the visualizer of the config's library."""
    import mmseg.visualization  # noqa: F401  registers it
    from mmengine.registry import VISUALIZERS

    visualizer = VISUALIZERS.build({**cfg.visualizer, 'vis_backends': None, 'name': 'predict'})
    if cfg.default_scope == 'mmseg':
        visualizer.set_dataset_meta(meta.get('classes'), meta.get('palette'))
    else:
        visualizer.dataset_meta = meta
    options = {'with_labels': True} if cfg.default_scope == 'mmseg' else {'pred_score_thr': score}

    def draw(image, sample, path):
        rgb = image[..., ::-1].copy()
        visualizer.add_datasample(path.stem, rgb, sample, draw_gt=False, out_file=str(path), **options)

    return draw


def describe(found: dict, classes: list[str], score: float) -> dict:
    """The objects found, as JSON takes it: boxes `x1 y1 x2 y2` in pixels, and masks as COCO run lengths.

    Args:
        found: see `arrays`.
        classes: names of the labels.
        score: what scores less is left out.
    """
    if 'boxes' not in found:
        return {}
    kept = found['scores'] >= score
    objects = [
        {
            'label': classes[int(label)],
            'score': round(float(confidence), 4),
            'box': [round(float(side), 2) for side in box],
        }
        for label, confidence, box in zip(
            found['labels'][kept], found['scores'][kept], found['boxes'][kept], strict=True
        )
    ]
    for entry, mask in zip(objects, found['masks'][kept] if 'masks' in found else (), strict=False):
        entry['mask'] = run_lengths(mask)
    return {'objects': objects}


def segment(found: dict, classes: list[str]) -> 'tuple[np.ndarray, list[dict]] | None':
    """The image cut into segments, where the model does that.

    Args:
        found: see `arrays`.
        classes: names of the labels.

    Returns:
        `(H, W)` uint16 segment numbers; and per segment its number, label and share of the pixels, largest first.
        Semantic: the number is the class index. Panoptic: 1, 2, ..., one per object and per kind of background; 0
        belongs to none. None for a detector.
    """
    import numpy as np

    if 'segments' in found:
        numbers, labels = found['segments'], {part['number']: part['label'] for part in found['segment_info']}
    elif 'seg' in found:
        numbers, labels = found['seg'], {index: index for index in range(len(classes))}
    else:
        return None
    segments = [
        {'number': int(number), 'label': classes[labels[int(number)]], 'share': round(int(count) / numbers.size, 4)}
        for number, count in zip(*np.unique(numbers, return_counts=True), strict=True)
        if int(number) in labels
    ]
    segments.sort(key=lambda entry: -entry['share'])
    return numbers.astype(np.uint16), segments
