"""Targets of COCO evaluation and of the start-up of commands."""

import statistics
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from repvit_dense import config
from repvit_dense.benchmark import process, random_models, timing
from repvit_dense.benchmark.subjects import ArtifactSubject
from repvit_dense.benchmark.timing import TimedCall
from repvit_dense.benchmark.workload import Workload
from repvit_dense.cli import COMMANDS
from tools.pages import coco_evaluation
from tools.pages.target import PerformanceTarget


def evaluation(rounds: int, images: int = 5000) -> Iterator[PerformanceTarget]:
    """Measure COCO's box and mask AP by hotcoco against pycocotools, in one round because pycocotools is slow."""
    scores = {}

    def evaluate(name, evaluation):
        scores[name] = evaluation()

    calls = [
        TimedCall(name, partial(evaluate, name, evaluation))
        for name, evaluation in coco_evaluation.evaluations(images).items()
    ]
    ratio = timing.compare('', calls, 1, warmup=0)[1]['speedup']
    expected, actual = scores.values()
    name, baseline = f'COCO box and mask AP of {images} images', calls[0].name
    yield PerformanceTarget(name, baseline, 5.0, ratio)
    yield PerformanceTarget(
        f'{name}: largest difference', baseline, 1e-6, float(abs(actual - expected).max()), '', at_least=False
    )


def startup(rounds: int) -> Iterator[PerformanceTarget]:
    """Measure `--help` of every command, the first iteration of a training and a process that runs an artifact."""
    for command in COMMANDS:
        (row,) = timing.compare('', [process.help_page(command)], rounds)
        yield PerformanceTarget(f'{command} --help', '', 0.5, row['median'], 's', at_least=False)
    name = 'repvit_maskrcnn_shapes'
    cfg = config.load(name)
    config.prepare_data(cfg)
    seconds = statistics.median(process.first_iteration(name) for _ in range(3))
    yield PerformanceTarget(f'{name}, process start to first iteration', '', 12, seconds, 's', at_least=False)
    size = (256, 256)
    with tempfile.TemporaryDirectory() as folder:
        exported, _ = random_models.export_artifacts(cfg, ['onnx'], Path(folder), size, no_verify=True)
        call = process.first_prediction(ArtifactSubject(str(exported[0].folder), Workload(1, size)))
        (row,) = timing.compare('', [call], rounds)
    yield PerformanceTarget(f'{name}, process that runs an artifact, start to end', '', None, row['median'], 's')
