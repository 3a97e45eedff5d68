"""Targets of artifacts on the CPU, from an image in memory to the results."""

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from repvit_dense import config
from repvit_dense.benchmark import random_models, timing
from repvit_dense.benchmark.subjects import ArtifactSubject, BackboneSubject, timed_prediction
from repvit_dense.benchmark.timing import TimedCall
from repvit_dense.benchmark.workload import Workload
from repvit_dense.errors import InputError
from repvit_dense.reparam import reparameterize_model
from tools.pages.target import ARCH, PerformanceTarget, speedup


def artifacts(rounds: int) -> Iterator[PerformanceTarget]:
    """Measure fp32 artifacts against PyTorch, and RepViT against ResNet-50."""
    for head, side, form, limit in (
        ('repvit_segformer_ade20k', 512, 'unfused', 2.2),
        ('repvit_maskrcnn_coco', 320, 'fused', None),  # has a target in int8 only
        ('repvit_maskrcnn_coco', 640, 'fused', None),
    ):
        with tempfile.TemporaryDirectory() as folder:
            calls = _eager_and_artifacts(head, (side, side), Path(folder), form)
            rows = timing.compare('', calls, rounds)
            best = max(rows[1:], key=lambda row: row['speedup'])
        name = f'{head} on {ARCH}, 1x{side}x{side}, {best["subject"]} artifact'
        yield PerformanceTarget(name, f'mmdet, mmseg, {form}', limit, best['speedup'])
    yield from against_resnet(rounds)


def _eager_and_artifacts(head: str, size: tuple[int, int], folder: Path, form: str) -> list[TimedCall]:
    """Return the prediction of a config in PyTorch, as ONNX and as OpenVINO."""
    workload, cfg = Workload(1, size), config.load(head, backbone=ARCH)
    model = random_models.build(cfg)
    if form == 'fused':
        reparameterize_model(model, inplace=True)
    exported, _ = random_models.export_artifacts(cfg, ['onnx', 'openvino'], folder, size, no_verify=True)
    eager = timed_prediction('eager', model, cfg, workload)
    return [eager, *(_artifact_call(row.folder, row.target, workload) for row in exported)]


def _artifact_call(folder: Path, name: str, workload: Workload) -> TimedCall:
    (call,) = ArtifactSubject(str(folder), workload).inference()
    return call._replace(name=name)


def against_resnet(rounds: int, side: int = 640) -> Iterator[PerformanceTarget]:
    """Measure artifacts with RepViT against ResNet-50: the backbone, and whole models with two heads."""
    workload, names = Workload(1, (side, side)), ('resnet50', ARCH)
    with tempfile.TemporaryDirectory() as folder:
        calls = [BackboneSubject(name, workload).export_onnx(Path(folder)) for name in names]
        rows = timing.compare('', calls, rounds)
        yield PerformanceTarget(f'{ARCH} as ONNX, 1x{side}x{side}: backbone', 'resnet50', None, rows[1]['speedup'])
        for head in ('repvit_maskrcnn_coco', 'repvit_rtmdet-ins_coco'):
            calls = []
            for name in names:
                parent = Path(folder, head, name)
                parent.mkdir(parents=True)
                exported, _ = random_models.export_artifacts(
                    config.load(head, backbone=name), ['openvino'], parent, (side, side), no_verify=True
                )
                calls.append(_artifact_call(exported[0].folder, name, workload))
            rows = timing.compare('', calls, rounds)
            yield PerformanceTarget(
                f'{head} on {ARCH}, OpenVINO, 1x{side}x{side}', 'resnet50', None, rows[1]['speedup']
            )


def int8(rounds: int) -> Iterator[PerformanceTarget]:
    """Measure int8 artifacts against fp32 ones of the same format and against PyTorch.

    They are calibrated on the embedded data set, so the models have its classes.
    """
    for head, side, eager_limit in (
        ('repvit_segformer_ade20k', 512, None),
        ('repvit_maskrcnn_coco', 320, 2.3),
        ('repvit_maskrcnn_coco', 640, 2.3),
    ):
        cfg = config.load(head, backbone=ARCH, data='shapes')
        config.prepare_data(cfg)
        for target in ('onnx', 'openvino'):
            name = f'{head} on {ARCH}, 1x{side}x{side}, {target} int8'
            with tempfile.TemporaryDirectory() as folder:
                try:
                    fp32, quantized, eager = _precisions(cfg, target, Path(folder), Workload(1, (side, side)))
                except InputError as error:  # a quantiser is not installed
                    print(f'{name}: not measured. {error}', file=sys.stderr)
                    continue
                yield PerformanceTarget(name, f'{target} fp32', 1.4, speedup(fp32, quantized, rounds))
                yield PerformanceTarget(name, 'mmdet, mmseg, fused', eager_limit, speedup(eager, quantized, rounds))


def _precisions(cfg, target: str, folder: Path, workload: Workload) -> list[TimedCall]:
    """Return the prediction of a config as fp32 artifact, as int8 artifact, and fused in PyTorch."""
    calls = []
    for precision in ('fp32', 'int8'):
        exported, errors = random_models.export_artifacts(
            cfg, [target], folder, workload.size, no_verify=True, precision=precision, calibration=8
        )
        if errors:
            raise InputError(f'{precision}: {errors[target]}')
        calls.append(_artifact_call(exported[0].folder, precision, workload))
    model = reparameterize_model(random_models.build(cfg), inplace=True)
    return [*calls, timed_prediction('eager', model, cfg, workload)]
