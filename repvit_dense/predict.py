"""Run a trained model on images of one's own: pictures, a page to look at them, and what was found as data."""

import argparse
import contextlib
import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.data.images import SUFFIXES, images_in, run_lengths
from repvit_dense.errors import InputError
from repvit_dense.files import write_text
from repvit_dense.page import write_page

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from mmengine.config import Config
    from mmengine.structures import BaseDataElement
    from torch import nn


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
    model, predict = load(cfg, checkpoint, args.device, args.deploy)
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

    from repvit_dense.deploy.picture import draw
    from repvit_dense.deploy.predictor import Predictor, read

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


def load(cfg: 'Config', checkpoint: str, device: str | None = None, deploy: bool = False):
    """The trained model, and a function from an image to its prediction.

    Args:
        cfg: a whole config of mmdet or mmseg.
        checkpoint: path or URL.
        device: as torch names it; by default a GPU where there is one.
        deploy: fuse the model.

    Returns:
        model, with the classes of the training data in `dataset_meta`; and what `predictor` makes of it.
    """
    import torch

    from repvit_dense.checkpoint import load_checkpoint
    from repvit_dense.reparam import reparameterize_model
    from repvit_dense.safe_read import read

    content = read(checkpoint)
    model = build(cfg)
    load_checkpoint(model, content)
    model.dataset_meta = _meta(cfg, content)
    try:
        model = model.to(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
    except (AssertionError, RuntimeError) as error:
        raise InputError(f'--device {device}: {str(error).splitlines()[0]}') from error
    if deploy:
        reparameterize_model(model, inplace=True)
    return model, predictor(model, cfg)


def build(cfg: 'Config') -> 'nn.Module':
    """The model of a config in eval mode, with random weights."""
    import mmdet.models  # noqa: F401
    import mmseg.models  # noqa: F401  both register what they define
    from mmengine.registry import MODELS, init_default_scope

    init_default_scope(cfg.get('default_scope', 'mmdet'))
    model = copy.deepcopy(cfg.model)  # some heads change their config (DETR's class weights)
    model.backbone.pop('init_cfg', None)
    return MODELS.build(model).eval()


def predictor(model: 'nn.Module', cfg: 'Config') -> 'Callable[[np.ndarray], BaseDataElement]':
    """`predict(image)`: takes `(H, W, 3)` uint8 in BGR order, gives mmdet's or mmseg's data sample in its pixels.

    The config's test pipeline decides about sizes.
    """
    import torch
    from mmengine.dataset import Compose, pseudo_collate

    pipeline = Compose(image_pipeline(cfg))

    @torch.inference_mode()
    def predict(image: 'np.ndarray') -> 'BaseDataElement':
        packed = pipeline({'img': image, 'img_id': 0, 'img_path': '', 'ori_shape': image.shape[:2]})
        return model.test_step(pseudo_collate([packed]))[0].cpu()

    return predict


def _meta(cfg: 'Config', checkpoint: dict) -> dict:
    """Names and colours of the classes: those that were trained, else those of the config's test data."""
    from repvit_dense.config import dataset_meta, trained_classes

    own = dataset_meta(cfg.test_dataloader.dataset, cfg.default_scope)
    classes = trained_classes(checkpoint)
    if not classes or tuple(classes) == tuple(own['classes']):
        return own
    return {'classes': classes, 'palette': checkpoint['meta'].get('dataset_meta', {}).get('palette', 'random')}


def image_pipeline(cfg: 'Config') -> list[dict]:
    """The test pipeline for an image in memory: nothing is read from a file, annotations least of all."""
    steps = [step for step in cfg.test_dataloader.dataset.pipeline if 'Annotations' not in step.type]
    load = {
        **steps[0],
        'type': 'mmdet.LoadImageFromNDArray' if cfg.default_scope == 'mmdet' else 'LoadImageFromNDArray',
    }
    load.pop('backend_args', None)
    return [load, *steps[1:]]


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


def arrays(sample: 'BaseDataElement', num_classes: int) -> dict:
    """A data sample of mmdet or mmseg as `repvit_dense.deploy.predictor.Predictor` gives it: arrays by name."""
    import numpy as np

    found = {}
    instances, panoptic = sample.get('pred_instances'), sample.get('pred_panoptic_seg')
    if instances is not None:
        names = {'boxes': 'bboxes', 'scores': 'scores', 'labels': 'labels', 'masks': 'masks'}
        found |= {name: instances[key].numpy() for name, key in names.items() if key in instances}
    if panoptic is not None:
        from mmdet.evaluation import INSTANCE_OFFSET

        ids = panoptic.sem_seg[0].numpy()
        present, numbers = np.unique(ids, return_inverse=True)
        labels = present % INSTANCE_OFFSET
        ordinal = np.where(labels < num_classes, np.cumsum(labels < num_classes), 0)
        found['segments'] = ordinal[numbers].reshape(ids.shape)
        found['segment_info'] = [
            {'number': int(number), 'label': int(label)}
            for number, label in zip(ordinal, labels, strict=True)
            if number
        ]
    elif sample.get('pred_sem_seg') is not None:
        found['seg'] = next(iter(sample.pred_sem_seg.values()))[0].numpy()  # mmdet and mmseg name it differently
    return found


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
