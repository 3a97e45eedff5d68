"""Run a trained model on images of one's own: pictures, a page to look at them, and what was found as data."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.data.images import SUFFIXES, images_in, run_lengths
from repvit_dense.errors import InputError

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
    parser.add_argument('--device', default=None, help='cpu, cuda, cuda:1, ... (default: a GPU where there is one)')
    parser.add_argument('--deploy', action='store_true', help='run the fused form')


def run(args: argparse.Namespace, cfg: 'Config', checkpoint: str) -> int:
    """Predict every image; write pictures, `predictions.json`, segment maps and a page to `args.out`.

    Returns:
        0, or 2 where an image could not be read: it is named, and the others are still done.

    Raises:
        InputError: no image, or a checkpoint or device that cannot be used; nothing was written.
    """
    import sys

    import cv2
    from tqdm import tqdm

    paths = find_images(args.images)
    model, predict = load(cfg, checkpoint, args.device, args.deploy)
    args.out.mkdir(parents=True, exist_ok=True)
    draw = _painter(cfg, model.dataset_meta, args.score)
    results, pictures, failed = [], [], 0
    for path, name in tqdm(list(zip(paths, _names(paths), strict=True)), desc='predicting', disable=None):
        image = _read(path)
        if image is None:
            print(f'{path}: not an image that can be read; left out', file=sys.stderr)
            failed += 1
            continue
        sample = predict(image)
        pictures.append(args.out / f'{name}.jpg')
        draw(image, sample, pictures[-1])
        results.append({'image': str(path)} | describe(sample, model.dataset_meta['classes'], args.score))
        segmented = segment(sample, model.dataset_meta['classes'])
        if segmented:
            labels, results[-1]['segments'] = segmented
            cv2.imwrite(str(args.out / f'{name}.segments.png'), labels)
    partial = args.out / 'predictions.json.partial'
    partial.write_text(json.dumps(results, indent=1))
    partial.replace(args.out / 'predictions.json')

    from repvit_dense.engine.report import write_page

    page = write_page(args.out, Path(cfg.filename).stem, pictures, f'Predictions of {checkpoint}')
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
    cfg.model.backbone.pop('init_cfg', None)
    return MODELS.build(cfg.model).eval()


def predictor(model: 'nn.Module', cfg: 'Config') -> 'Callable[[np.ndarray], BaseDataElement]':
    """`predict(image)`: takes `(H, W, 3)` uint8 in BGR order, gives mmdet's or mmseg's data sample in its pixels.

    The config's test pipeline decides about sizes.
    """
    import torch
    from mmengine.dataset import Compose, pseudo_collate

    pipeline = Compose(_image_pipeline(cfg))

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


def _image_pipeline(cfg: 'Config') -> list[dict]:
    """The test pipeline for an image in memory: nothing is read from a file, annotations least of all."""
    steps = [step for step in cfg.test_dataloader.dataset.pipeline if 'Annotations' not in step.type]
    load = {
        **steps[0],
        'type': 'mmdet.LoadImageFromNDArray' if cfg.default_scope == 'mmdet' else 'LoadImageFromNDArray',
    }
    load.pop('backend_args', None)
    return [load, *steps[1:]]


def _read(path: Path) -> 'np.ndarray | None':
    """`(H, W, 3)` uint8, BGR; None where the file is no image."""
    import mmcv

    try:
        return mmcv.imread(path)
    except Exception:  # decoders raise all sorts of errors on a damaged file
        return None


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


def describe(sample: 'BaseDataElement', classes: list[str], score: float) -> dict:
    """The objects found, as JSON takes it: boxes `x1 y1 x2 y2` in pixels, and masks as COCO run lengths."""
    found = {}
    instances = sample.get('pred_instances')
    if instances is not None:
        instances = instances[instances.scores >= score]
        found['objects'] = [
            {
                'label': classes[int(label)],
                'score': round(float(confidence), 4),
                'box': [round(float(side), 2) for side in box],
            }
            for label, confidence, box in zip(instances.labels, instances.scores, instances.bboxes, strict=True)
        ]
        for entry, mask in zip(found['objects'], instances.get('masks', ()), strict=False):
            entry['mask'] = run_lengths(mask.numpy())
    return found


def segment(sample: 'BaseDataElement', classes: list[str]) -> 'tuple[np.ndarray, list[dict]] | None':
    """The image cut into segments, where the model does that.

    Returns:
        `(H, W)` uint16 segment numbers; and per segment its number, label and share of the pixels, largest first.
        Semantic: the number is the class index. Panoptic: 1, 2, ..., one per object and per kind of background; 0
        belongs to none. None for a detector.
    """
    import numpy as np

    panoptic, semantic = sample.get('pred_panoptic_seg'), sample.get('pred_sem_seg')
    if panoptic is None and semantic is None:
        return None
    pixels = semantic if panoptic is None else panoptic
    ids = next(iter(pixels.values()))[0].numpy()  # mmdet calls them `sem_seg`, mmseg `data`
    present, numbers, counts = np.unique(ids, return_inverse=True, return_counts=True)
    if panoptic is not None:
        from mmdet.evaluation import INSTANCE_OFFSET

        labels = present % INSTANCE_OFFSET
        present = np.where(labels < len(classes), np.cumsum(labels < len(classes)), 0)
    else:
        labels = present
    segments = [
        {'number': int(number), 'label': classes[label], 'share': round(int(count) / ids.size, 4)}
        for number, label, count in zip(present, labels, counts, strict=True)
        if label < len(classes)
    ]
    segments.sort(key=lambda entry: -entry['share'])
    return present[numbers].reshape(ids.shape).astype(np.uint16), segments
