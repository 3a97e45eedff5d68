"""A trained model as artifacts: folders with a model file and `manifest.json`, which run without this package's torch.

Every artifact is written beside its place first and moved there only when it was compared with the model.
"""

import argparse
import dataclasses
import hashlib
import math
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from repvit_dense.errors import InputError
from repvit_dense.exporting import formats
from repvit_dense.model import load_model

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config
    from torch import nn

    from repvit_dense.artifact.manifest import Manifest
    from repvit_dense.exporting.graphs.base import Graph

    Batch = tuple[np.ndarray, np.ndarray]  # images (B, 3, H, W) and img_hw (B, 2), both float32

COMPARED = 3  # batches that artifact and model are compared on


def add_arguments(parser: argparse.ArgumentParser) -> None:
    known = tuple(formats.TARGETS)
    parser.add_argument(
        '--to', nargs='+', required=True, choices=known, metavar='FORMAT', help=f'one or several of {", ".join(known)}'
    )
    parser.add_argument('--out', type=Path, default=Path('exported'), metavar='DIR', help='default: %(default)s')
    parser.add_argument(
        '--size',
        nargs=2,
        type=int,
        metavar=('H', 'W'),
        help='height and width of the input in pixels, multiples of 32 (default: where the test pipeline leads to)',
    )
    parser.add_argument('--batch', type=int, default=1, metavar='N', help='images at a time (default: %(default)s)')
    parser.add_argument(
        '--dynamic',
        type=_dynamic,
        default=(),
        metavar='WHAT',
        help=f'what is left open: {" or ".join([*formats.DYNAMIC, ",".join(formats.DYNAMIC)])}',
    )
    parser.add_argument('--precision', choices=formats.PRECISIONS, default='fp32', help='default: %(default)s')
    parser.add_argument(
        '--max-detections', type=int, metavar='N', help='fewer detections per image than the config has'
    )
    parser.add_argument(
        '--calibration',
        type=int,
        default=100,
        metavar='N',
        help='training images that int8 finds its ranges on (default: %(default)s)',
    )
    parser.add_argument(
        '--no-verify', action='store_true', help='write the artifact even where its results are not those of the model'
    )


def _dynamic(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(text.split(',')))
    unknown = [name for name in names if name not in formats.DYNAMIC]
    if unknown:
        raise argparse.ArgumentTypeError(f"unknown '{unknown[0]}'; known: {', '.join(formats.DYNAMIC)}")
    return names


class Source(NamedTuple):
    """What all artifacts of one command are made from.

    Attributes:
        unfused, fused: the trained model, in eval mode.
        size: height and width of the input in pixels.
        recipe: how an image becomes an input, see `preprocess.from_config`.
        batches: what artifact and model are compared on.
        calibration: what int8 finds its ranges on.
        about: the fields of the manifest that all artifacts share.
    """

    unfused: 'nn.Module'
    fused: 'nn.Module'
    size: tuple[int, int]
    recipe: dict
    batches: 'list[Batch]'
    calibration: 'list[Batch]'
    about: dict


class Row(NamedTuple):
    """What the table at the end says of one artifact.

    Attributes:
        seconds: that writing it took.
        parity: how far it agrees with PyTorch.
        milliseconds, speedup: of one batch, and how much faster than the unfused model in PyTorch; None: not run here.
        failures: where it is beyond the tolerance, with `--no-verify`.
    """

    target: str
    folder: Path
    seconds: float
    megabytes: float
    parity: str
    milliseconds: float | None
    speedup: float | None
    failures: list[str]


def run(args: argparse.Namespace, cfg: 'Config', checkpoint: str) -> int:
    """Export to every format of `args.to` and print a table; see `export_all`.

    Returns:
        0, or 2 where a format failed: it is named, and the others are still written.
    """
    rows, errors = export_all(args, cfg, checkpoint)
    _print_table(rows)
    return 2 if errors else 0


def export_all(args: argparse.Namespace, cfg: 'Config', checkpoint: str) -> 'tuple[list[Row], dict[str, str]]':
    """Each artifact is `args.out/FORMAT`, with the precision unless it is fp32.

    Returns:
        what was written; and for each format that failed, why.

    Raises:
        InputError: an argument cannot be used; nothing was written.
    """
    from repvit_dense.artifact import preprocess

    targets = list(dict.fromkeys(args.to))
    for target in targets:
        formats.check(target, args.precision, args.dynamic, args.batch)
    recipe = preprocess.from_config(cfg)
    size = tuple(args.size or usual_size(recipe))
    formats.check_size(size, recipe['divisor'])
    if 'size' in args.dynamic:
        formats.check_open_size(size, formats.smallest_open(coarsest_stride(cfg), recipe['divisor']))
    folders = {target: _free(args.out / _name(target, args.precision)) for target in targets}
    if args.max_detections is not None:
        limit_detections(cfg, args.max_detections)
    if (cfg.model.get('test_cfg') or {}).get('mode') == 'slide':
        print("note: an artifact sees the whole image at once, this config's test_cfg.mode='slide' a window at a time")
    source = _source(args, cfg, checkpoint, size, recipe)
    rows, errors = [], {}
    for target, folder in folders.items():
        try:
            rows.append(_artifact(args, source, target, folder))
        except InputError as error:
            errors[target] = ' '.join(str(error).splitlines())
            print(f'error: {target}: {errors[target]}', file=sys.stderr)
    return rows, errors


# --- arguments --------------------------------------------------------------------------------------------------------


def usual_size(recipe: dict) -> tuple[int, int]:
    """Height and width in pixels that images usually have after the test pipeline, rounded up.

    Where the ratio is kept, images are taken as wide as the limits allow, but no wider than 4:3 where the limit of
    the longer side is not meant to be reached (more than twice the shorter one).

    Raises:
        InputError: the pipeline leaves the size to the image.
    """
    width, height = recipe['pad_to'] or recipe['scale'] or (None, None)
    if width is None:
        raise InputError('the test pipeline does not say how large images are; name it: --size H W')
    if recipe['keep_ratio'] and not recipe['pad_to']:
        height, width = sorted((height, width))
        width = width if width <= 2 * height else -(-4 * height // 3)
    return tuple(-(-side // recipe['divisor']) * recipe['divisor'] for side in (height, width))


def coarsest_stride(cfg: 'Config') -> int:
    """Pixels of the image, along a side, for one of the coarsest features that the model has anchors on; else 1."""
    neck, head = cfg.model.get('neck') or {}, cfg.model.get('rpn_head') or cfg.model.get('bbox_head') or {}
    strides = (head.get('anchor_generator') or {}).get('strides', [1])
    if neck.get('type') == 'SSDNeck':  # anchors of the levels that it adds are closer than their pixels
        return strides[len(neck['in_channels']) - 1] * math.prod(neck['level_strides'])
    return max(strides)


def _name(target: str, precision: str) -> str:
    return target if precision == 'fp32' else f'{target}-{precision}'


def _free(folder: Path) -> Path:
    """Refuse a place that holds something other than an artifact."""
    from repvit_dense.artifact.manifest import is_artifact

    if folder.exists() and not is_artifact(folder):
        raise InputError(f'{folder}: is there already and is no artifact; name another folder: --out DIR')
    return folder


def limit_detections(cfg: 'Config', count: int) -> None:
    """Give at most `count` detections per image.

    Raises:
        InputError: a model without detections, or one that gives fewer anyway.
    """
    test_cfg = cfg.model.get('test_cfg') or {}
    part = test_cfg.get('rcnn') or test_cfg
    key = next((key for key in ('max_per_img', 'max_per_image') if key in part), None)
    if key is None:
        raise InputError(f'--max-detections {count}: this model does not give detections')
    if not 1 <= count <= part[key]:
        raise InputError(f'--max-detections {count}: takes 1 to {part[key]}, which the config has ({key})')
    part[key] = count


# --- the model --------------------------------------------------------------------------------------------------------


def _source(args: argparse.Namespace, cfg: 'Config', checkpoint: str, size: tuple[int, int], recipe: dict) -> Source:
    from repvit_dense.exporting import folding

    start = time.perf_counter()
    images = list(_images(cfg, 'train', args.calibration)) if args.precision == 'int8' else []
    if args.precision == 'int8' and not images:
        raise InputError('--precision int8 needs the training images of this config, and there are none')
    unfused = load_model(cfg, checkpoint, 'cpu')[0].requires_grad_(False)
    fused = folding.fuse(unfused)
    test_images = list(_images(cfg, 'test', COMPARED * max(args.batch, COMPARED))) or drawn_images(COMPARED)
    single = 1 if 'batch' in args.dynamic else args.batch
    shapes = [(single, size)] * (len(images) // single)
    smallest = formats.smallest_open(coarsest_stride(cfg), recipe['divisor'])
    source = Source(
        unfused,
        fused,
        size,
        recipe,
        make_batches(test_images, recipe, compared_shapes(args.batch, size, args.dynamic, recipe['divisor'], smallest)),
        make_batches(images, recipe, shapes) if images else [],
        _about(cfg, checkpoint, unfused.dataset_meta) | {'preprocess': recipe},
    )
    _tell('model', 'loaded and fused', start)
    return source


def _about(cfg: 'Config', checkpoint: str, meta: dict) -> dict:
    """Where the model comes from and what its labels mean, as the manifest has it."""
    from repvit_dense.backbones import catalogue

    part = cfg.model.backbone
    names = [
        entry.name
        for entry in catalogue.BACKBONES.values()
        if entry.type == part.type and all(part.get(key) == value for key, value in entry.args.items())
    ]
    palette = meta.get('palette')
    listed = isinstance(palette, list | tuple) and len(palette) == len(meta['classes'])
    return {
        'classes': list(meta['classes']),
        'palette': [[int(level) for level in colour] for colour in palette] if listed else None,
        'config': Path(cfg.filename).stem if cfg.filename else None,
        'backbone': names[0] if names else part.type,
        'tap': part.get('tap'),
        'checkpoint_sha256': _sha256(Path(checkpoint)) if Path(checkpoint).is_file() else None,
    }


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open('rb') as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


# --- what it is compared on -------------------------------------------------------------------------------------------


def _images(cfg: 'Config', split: str, count: int) -> 'Iterator[np.ndarray]':
    """Up to `count` images of a data set, spread evenly over it; none where its folder is not there."""
    import cv2

    from repvit_dense import config
    from repvit_dense.data.reading import images_in

    if not cfg.get(f'{split}_dataloader'):
        return
    dataset = next(config.datasets(cfg[f'{split}_dataloader'].dataset))
    prefix = dataset.get('data_prefix') or {}
    folder = Path(dataset.get('data_root') or '', prefix.get('img', prefix.get('img_path', '')))
    paths = images_in(folder)
    for path in paths[:: max(1, len(paths) // count)][:count]:
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is not None:
            yield image


def drawn_images(count: int) -> 'list[np.ndarray]':
    """Pictures `(480, 640, 3)` uint8 of soft blotches and hard-edged rectangles, always the same."""
    import cv2
    import numpy as np

    random = np.random.default_rng(0)
    images = []
    for _ in range(count):
        image = cv2.resize(random.integers(0, 256, (12, 16, 3), np.uint8), (640, 480), interpolation=cv2.INTER_CUBIC)
        for _ in range(12):
            (x, y), sides = random.integers(0, (600, 440)), random.integers(20, 200, 2)
            colour = [int(level) for level in random.integers(0, 256, 3)]
            cv2.rectangle(image, (int(x), int(y)), (int(x + sides[0]), int(y + sides[1])), colour, -1)
        images.append(image)
    return images


def compared_shapes(
    batch: int, size: tuple[int, int], dynamic: tuple[str, ...], divisor: int, smallest: int
) -> list[tuple[int, tuple[int, int]]]:
    """Batch size, and height and width in pixels, of each batch compared; others too where they are open.

    Sizes are multiples of `divisor`, and no side is below `smallest`.
    """
    numbers = [batch, *range(2, COMPARED + 1)] if 'batch' in dynamic else [batch] * COMPARED
    height, width = size
    others = [size, (height + divisor, width), (height, max(smallest, width - divisor))]
    return list(zip(numbers, others if 'size' in dynamic else [size] * COMPARED, strict=True))


def make_batches(images: 'list[np.ndarray]', recipe: dict, shapes: list[tuple[int, tuple[int, int]]]) -> 'list[Batch]':
    """One preprocessed batch for each of `shapes`; images are taken in turn, from the first again if need be."""
    import itertools

    import numpy as np

    from repvit_dense.artifact import preprocess

    supply, batches = itertools.cycle(images), []
    for number, size in shapes:
        ready = [preprocess.apply(next(supply), recipe, size) for _ in range(number)]
        batches.append((np.stack([image for image, _ in ready]), np.array([hw for _, hw in ready], np.float32)))
    return batches


# --- one artifact -----------------------------------------------------------------------------------------------------


def _artifact(args: argparse.Namespace, source: Source, target: str, folder: Path) -> Row:
    partial = folder.with_name(f'{folder.name}.partial')
    shutil.rmtree(partial, ignore_errors=True)  # left by a process that was killed
    partial.mkdir(parents=True)
    try:
        row = _write(args, source, target, partial)
        _move(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    return row._replace(folder=folder)


def _move(partial: Path, folder: Path) -> None:
    old = folder.with_name(f'{folder.name}.old')
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def _write(args: argparse.Namespace, source: Source, target: str, folder: Path) -> Row:
    """Fill the folder: model file, certificate, manifest."""
    from repvit_dense.exporting import graphs, quantize

    start = time.perf_counter()
    graph = graphs.build(source.fused, formats.TARGETS[target].plain)
    model = formats.write(
        graph,
        folder,
        target,
        source.size,
        args.batch,
        args.dynamic,
        'fp32' if args.precision == 'int8' else args.precision,
        source.about['classes'],
        source.recipe,
    )
    _tell(target, 'written', start)
    kept = {}
    if args.precision == 'int8':
        start_of_step = time.perf_counter()
        kept['kept_in_fp32'] = quantize.quantize(folder / model, target, source.calibration)
        _tell(target, f'quantised on {len(source.calibration)} batches', start_of_step)
    manifest = _manifest(args, source, target, graph, model)
    seconds = time.perf_counter() - start
    start_of_step = time.perf_counter()
    certificate = _certificate(args, source, target, graph, folder, manifest) | kept
    _tell(target, 'compared with the model', start_of_step)
    dataclasses.replace(manifest, certificate=certificate).write(folder)
    size = sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / 1e6
    times = certificate.get('milliseconds')
    speed = (times['artifact'], times['pytorch_unfused'] / times['artifact']) if times else (None, None)
    return Row(target, folder, seconds, size, _parity(certificate), *speed, certificate.get('failures', []))


def _manifest(args: argparse.Namespace, source: Source, target: str, graph: 'Graph', model: str) -> 'Manifest':
    from repvit_dense.artifact.manifest import Manifest

    batch = 'batch' if 'batch' in args.dynamic else args.batch
    sides = ('height', 'width') if 'size' in args.dynamic else source.size
    return Manifest(
        task=graph.task,
        target=target,
        precision=args.precision,
        model=model,
        inputs={'images': [batch, 3, *sides], 'img_hw': [batch, 2]},
        outputs=list(graph.outputs),
        mask_kind=graph.mask_kind,
        postprocess=graph.postprocess,
        versions=_versions(target, args.precision),
        **source.about,
    )


def _versions(target: str, precision: str) -> dict[str, str]:
    from importlib.metadata import version

    extra = formats.QUANTIZERS.get(target, ()) if precision == 'int8' else ()
    return {name: version(name) for name in ('torch', *formats.TARGETS[target].modules, *extra)}


def _certificate(
    args: argparse.Namespace, source: Source, target: str, graph: 'Graph', folder: Path, manifest: 'Manifest'
) -> dict:
    import torch

    from repvit_dense.artifact import runtimes
    from repvit_dense.exporting import certify

    if target == 'coreml' and sys.platform != 'darwin':
        print('coreml: runs on macOS only, so the artifact itself is not compared here; its operators and types were')
        return {'stages': certify.stages(source.unfused, source.fused, source.batches[0][0])}
    return certify.certify(
        unfused=source.unfused,
        graph=graph,
        run=runtimes.load(folder, manifest, torch.get_num_threads()),  # latencies compare at equal threads
        precision=args.precision,
        inputs=source.batches,
        verify=not args.no_verify,
    )


# --- what is printed --------------------------------------------------------------------------------------------------


def _tell(what: str, done: str, start: float) -> None:
    """One line: seconds since `start`, and the most memory this process has had."""
    import resource

    unit = 2**30 if sys.platform == 'darwin' else 2**20  # bytes there, KiB elsewhere
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    print(f'{what}: {done} in {time.perf_counter() - start:.1f} s (peak memory so far {memory:.1f} GiB)', flush=True)


def _parity(certificate: dict) -> str:
    agreement = certificate.get('agreement')
    if agreement is None:
        return 'not run here'
    if 'pixels' in agreement:
        return f'{agreement["pixels"]:.3%} of pixels'
    return f'{agreement["matched"]:.1%} of {agreement["detections"]} detections'


def _print_table(rows: list[Row]) -> None:
    if not rows:
        return
    cells = [('artifact', 'MB', 'seconds', 'agrees with PyTorch', 'ms (faster than PyTorch)')]
    for row in rows:
        time_text = '-' if row.milliseconds is None else f'{row.milliseconds:.1f} ({row.speedup:.1f}x)'
        cells.append((str(row.folder), f'{row.megabytes:.1f}', f'{row.seconds:.1f}', row.parity, time_text))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    print()
    for line in cells:
        print('  '.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
