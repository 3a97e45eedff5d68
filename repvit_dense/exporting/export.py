"""Export a trained model to artifacts: folders with a model file and `manifest.json`.

An artifact is written to a temporary folder beside its destination, compared with the model, and then moved there. One
whose model has tied scores cannot be compared: it is kept, marked `tied` in its certificate, and reported as failed.
"""

import copy
import dataclasses
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from repvit_dense.artifact.targets import TARGETS
from repvit_dense.errors import InputError
from repvit_dense.exporting import folders, formats, samples, sizes
from repvit_dense.exporting.results import ExportResult, make_result
from repvit_dense.model import load_model
from repvit_dense.screen import say

if TYPE_CHECKING:
    import numpy as np
    from mmengine.config import Config
    from torch import nn

    from repvit_dense.artifact.manifest import Manifest
    from repvit_dense.exporting.graphs.base import Graph
    from repvit_dense.exporting.samples import Batch
    from repvit_dense.exporting.settings import ExportSettings


class Source(NamedTuple):
    """The loaded model and the data that all artifacts of one export are made from.

    Attributes:
        unfused: the trained model, in eval mode.
        fused: a fused copy.
        size: height and width of the input in pixels.
        recipe: preprocessing, as `preprocess.from_config` returns it.
        batches: batches that artifact and model are compared on.
        calibration: batches that calibrate int8.
        provenance: fields of the manifest that all artifacts share.
    """

    unfused: 'nn.Module'
    fused: 'nn.Module'
    size: tuple[int, int]
    recipe: dict
    batches: 'list[Batch]'
    calibration: 'list[Batch]'
    provenance: dict


def export_all(cfg: 'Config', checkpoint: str, settings: 'ExportSettings') -> tuple[list[ExportResult], dict[str, str]]:
    """Export a checkpoint to every format of `settings.to`.

    Each artifact is the folder `settings.out/FORMAT`, or `FORMAT-PRECISION` unless the precision is fp32. An artifact
    that is already there is replaced.

    Args:
        cfg: a whole config of mmdet or mmseg.
        checkpoint: path or URL.
        settings: formats, sizes and precision.

    Returns:
        The verified artifacts; and the error message of each format that failed, which does not stop the others.

    Raises:
        InputError: unusable settings; nothing was written.
    """
    from repvit_dense.artifact import preprocess

    for target in settings.to:
        formats.check(target, settings.precision, settings.dynamic, settings.batch)
    recipe = preprocess.from_config(cfg)
    size = settings.size or sizes.default_size(recipe)
    sizes.check_size(size, recipe['divisor'])
    if 'size' in settings.dynamic:
        smallest = sizes.smallest_dynamic_side(sizes.coarsest_stride(cfg), recipe['divisor'])
        sizes.check_dynamic_size(size, smallest)
    sizes.check_pixels(size, settings.batch)
    folders.check_place(settings.out)
    places = {target: folders.check_folder(settings.out / _name(target, settings.precision)) for target in settings.to}
    if settings.max_detections is not None:
        cfg = copy.deepcopy(cfg)
        limit_detections(cfg, settings.max_detections)
    if (cfg.model.get('test_cfg') or {}).get('mode') == 'slide':
        say("note: test_cfg.mode='slide' of this config is ignored: an artifact predicts the whole image at once")
    source = _load_source(cfg, checkpoint, settings, size, recipe)
    results, errors = [], {}
    for target, folder in places.items():
        try:
            results.append(_export(settings, source, target, folder))
        except Exception as error:  # one format must not end the others
            if not isinstance(error, InputError):
                traceback.print_exc()
                error = InputError(f'{type(error).__name__}: {error}')
            errors[target] = ' '.join(str(error).splitlines())
            say(f'error: {target}: {errors[target]}')
    return results, errors


def _name(target: str, precision: str) -> str:
    return target if precision == 'fp32' else f'{target}-{precision}'


def limit_detections(cfg: 'Config', count: int) -> None:
    """Lower the limit on detections per image in the config.

    Raises:
        InputError: the model returns no detections, or `count` is not between 1 and the config's limit.
    """
    test_cfg = cfg.model.get('test_cfg') or {}
    part = test_cfg.get('rcnn') or test_cfg
    key = next((key for key in ('max_per_img', 'max_per_image') if key in part), None)
    if key is None:
        raise InputError(f'--max-detections {count}: this model returns no detections')
    if not 1 <= count <= part[key]:
        raise InputError(f'--max-detections {count}: must be from 1 to {part[key]}, the limit of the config ({key})')
    part[key] = count


# --- the model --------------------------------------------------------------------------------------------------------


def _load_source(
    cfg: 'Config', checkpoint: str, settings: 'ExportSettings', size: tuple[int, int], recipe: dict
) -> Source:
    from repvit_dense.exporting import folding

    start = time.perf_counter()
    images = _calibration_images(cfg, settings) if settings.precision == 'int8' else []
    unfused = load_model(cfg, checkpoint, 'cpu').requires_grad_(False)
    fused = folding.fuse(unfused)
    count = samples.BATCHES * max(settings.batch, samples.BATCHES)
    test_images = list(samples.dataset_images(cfg, 'test', count)) or samples.drawn_images(samples.BATCHES)
    divisor = recipe['divisor']
    smallest = sizes.smallest_dynamic_side(sizes.coarsest_stride(cfg), divisor)
    shapes = samples.compared_shapes(settings.batch, size, settings.dynamic, divisor, smallest)
    batch = 1 if 'batch' in settings.dynamic else settings.batch
    source = Source(
        unfused,
        fused,
        size,
        recipe,
        samples.make_batches(test_images, recipe, shapes),
        samples.make_batches(images, recipe, [(batch, size)] * -(-len(images) // batch)),
        _provenance(cfg, checkpoint, unfused.dataset_meta) | {'preprocess': recipe},
    )
    _print_step('model', 'loaded and fused', start)
    return source


def _calibration_images(cfg: 'Config', settings: 'ExportSettings') -> 'list[np.ndarray]':
    count = samples.CALIBRATION if settings.calibration is None else settings.calibration
    images = list(samples.dataset_images(cfg, 'train', count))
    if not images:
        raise InputError('--precision int8 needs training images of this config; found none')
    if settings.calibration and len(images) < settings.calibration:
        say(f'note: --calibration {count}: there are {len(images)} training images; all of them calibrate')
    return images


def _provenance(cfg: 'Config', checkpoint: str, meta: dict) -> dict:
    """Return the fields of the manifest that say which model this is and which classes it predicts."""
    from repvit_dense.artifact.manifest import check_class_names, digest
    from repvit_dense.checkpoints.provenance import of_checkpoint
    from repvit_dense.checkpoints.reading import read
    from repvit_dense.config.structure import backbone_name

    check_class_names(list(meta['classes']))

    palette: Any = meta.get('palette')
    listed = isinstance(palette, list | tuple) and len(palette) == len(meta['classes'])
    return {
        'classes': list(meta['classes']),
        'palette': [[int(level) for level in colour] for colour in palette] if listed else None,
        'config': Path(cfg.filename).stem if cfg.filename else None,
        'backbone': backbone_name(cfg.model),
        'tap': cfg.model.backbone.get('tap'),
        'checkpoint_sha256': digest(Path(checkpoint)) if Path(checkpoint).is_file() else None,
        'provenance': of_checkpoint(read(checkpoint, 'meta')),
    }


# --- one artifact -----------------------------------------------------------------------------------------------------


def _export(settings: 'ExportSettings', source: Source, target: str, folder: Path) -> ExportResult:
    with folders.partial_folder(folder) as partial:
        result, certificate = _write(settings, source, target, partial)
        is_tied = 'tied' in certificate and not settings.no_verify
        folder = folders.tied_folder(folder) if is_tied else folder
        folders.move(partial, folder)
    if is_tied:
        raise InputError(
            f'{folder}: kept, but not verified: the scores are tied, so rounding decides which of them win; PyTorch '
            f'itself repeats {certificate["tied"]:.0%} of its result when its ties are broken differently. Train '
            'longer, or accept the artifact: --no-verify'
        )
    return result._replace(folder=folder)


def _write(settings: 'ExportSettings', source: Source, target: str, folder: Path) -> tuple[ExportResult, dict]:
    """Write model file and manifest into the folder; return a summary and the certificate."""
    from repvit_dense.exporting import graphs, quantize

    start = time.perf_counter()
    is_int8 = settings.precision == 'int8'
    graph = graphs.build(source.fused, TARGETS[target].plain)
    options = formats.FileOptions(
        source.size,
        settings.batch,
        settings.dynamic,
        'fp32' if is_int8 else settings.precision,
        source.provenance['classes'],
        source.recipe,
    )
    model = formats.write(graph, folder, target, options)
    _print_step(target, 'written', start)
    quantization = {}
    if is_int8:
        step = time.perf_counter()
        quantization['kept_in_fp32'] = quantize.quantize(folder / model, target, source.calibration)
        _print_step(target, f'quantised on {len(source.calibration)} batches', step)
    manifest = _manifest(settings, source, target, graph, model)
    seconds = time.perf_counter() - start
    step = time.perf_counter()
    certificate = _certificate(settings, source, target, graph, folder, manifest) | quantization
    _print_step(target, 'compared with the model', step)
    if certificate.get('agreement', {}).get('detections') == 0:
        say(
            f'note: {target}: the model detects nothing on the {len(source.batches)} compared batches, so boxes and '
            'scores could not be compared; train longer, or measure it: repvit-dense test CONFIG --artifact FOLDER'
        )
    dataclasses.replace(manifest, certificate=certificate).write(folder)
    return make_result(target, folder, seconds, certificate), certificate


def _manifest(settings: 'ExportSettings', source: Source, target: str, graph: 'Graph', model: str) -> 'Manifest':
    from repvit_dense.artifact.manifest import Manifest

    batch = 'batch' if 'batch' in settings.dynamic else settings.batch
    sides = ('height', 'width') if 'size' in settings.dynamic else source.size
    return Manifest(
        task=graph.task,
        target=target,
        precision=settings.precision,
        model=model,
        inputs={'images': [batch, 3, *sides], 'img_hw': [batch, 2]},
        outputs=list(graph.outputs),
        mask_kind=graph.mask_kind,
        postprocess=graph.postprocess,
        versions=_versions(target, settings.precision),
        **source.provenance,
    )


def _versions(target: str, precision: str) -> dict[str, str]:
    from importlib.metadata import version

    row = TARGETS[target]
    return {name: version(name) for name in ('torch', *row.modules, *(row.int8_modules if precision == 'int8' else ()))}


def _certificate(
    settings: 'ExportSettings', source: Source, target: str, graph: 'Graph', folder: Path, manifest: 'Manifest'
) -> dict:
    import torch

    from repvit_dense.artifact import runtimes
    from repvit_dense.exporting import certify

    platform = TARGETS[target].platform
    if platform not in (None, sys.platform):
        say(f'{target}: runs on {platform} only; its outputs are not compared here, operators and types were checked')
        return {'stages': certify.stage_differences(source.unfused, source.fused, source.batches[0][0])}
    return certify.certify(
        unfused=source.unfused,
        graph=graph,
        run=runtimes.load(folder, manifest, torch.get_num_threads()),  # latencies are compared at equal threads
        precision=settings.precision,
        inputs=source.batches,
        verify=not settings.no_verify,
    )


def _print_step(subject: str, step: str, start: float) -> None:
    """Print the seconds since `start` and the peak memory of this process."""
    import resource

    unit = 2**30 if sys.platform == 'darwin' else 2**20  # ru_maxrss is in bytes there, in KiB elsewhere
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
    say(f'{subject}: {step} in {time.perf_counter() - start:.1f} s (peak memory so far {memory:.1f} GiB)')
