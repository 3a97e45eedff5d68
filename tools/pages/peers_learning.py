"""Train a few backbones for minutes on the embedded data set and write the last section of docs/peers.md.

The section demonstrates the comparison from the command line to a score. Trainings this short, from random weights, do
not rank the backbones.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from repvit_dense import config
from repvit_dense.benchmark.process import COMMAND
from repvit_dense.errors import InputError
from repvit_dense.files import write_text
from tools.pages import options as shared

BEGIN, END = '<!-- generated: learning on the shapes data -->', '<!-- end of learning on the shapes data -->'
HEAD = 'repvit_segformer_shapes'  # learns fastest of the light heads
BACKBONES = ('repvit_m0_9', 'mobilenetv3_large', 'mobilevitv2_075', 'efficientformerv2_s0', 'edgevit_xxs')
SEEDS = (0, 1, 2)
ITERATIONS = 300  # of 4 images each, about two minutes on one core
PARALLEL = 2  # trainings at the same time, one thread each
RUNS = Path('work_dirs', 'peers_learning')
TITLE = '## Learning on the shapes data: a demonstration'
USAGE = '`python -m tools.pages peers_learning docs/peers.md`'


@dataclass(kw_only=True)
class Options:
    """Options of the page."""

    file: Path = shared.file_option('peers.md; the section between its two marks is replaced')
    backbones: list[str] = shared.backbones_option(BACKBONES)


def run(options: Options) -> int:
    """Train the backbones and write the section; return 2 if a training failed."""
    return write(options.file, options.backbones)


def write(path: Path, backbones: Sequence[str] = BACKBONES, runs: Path = RUNS) -> int:
    """Run the missing trainings and replace the section between its marks in the page.

    Args:
        path: page with the two marks.
        backbones: names from the catalogue.
        runs: folder of the trainings; finished ones are not repeated.

    Returns:
        0, or 2 if a training failed; the page states the reason.

    Raises:
        InputError: a backbone is unknown, or the page has no marks; nothing was trained.
    """
    from tqdm import tqdm

    names = shared.resolve_backbones(backbones)
    section_of(path, required=True)
    config.prepare_data(config.load(HEAD))  # before the trainings, which would write it at the same time
    pairs = [(name, seed) for name in names for seed in SEEDS]
    with ThreadPoolExecutor(PARALLEL) as pool:
        results = pool.map(lambda pair: score(pair[0], pair[1], runs), pairs)
        scores = dict(zip(pairs, tqdm(results, desc='training', total=len(pairs), disable=None), strict=True))
    write_text(path, path.read_text().replace(section_of(path), section(names, scores)))
    return 2 if any(isinstance(value, str) for value in scores.values()) else 0


def score(name: str, seed: int, runs: Path) -> float | str:
    """Return the mIoU in per cent after a training, or its error message; a finished training is not repeated."""
    folder = runs / f'{HEAD}-{ITERATIONS}' / f'{name}-{seed}'
    if (miou := _read_miou(folder)) is not None:
        return miou
    shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted training
    done = train(name, seed, folder)
    miou = _read_miou(folder)
    for weights in folder.glob('*.pth'):
        weights.unlink()
    if miou is None:
        return (done.stdout + done.stderr).strip().splitlines()[-1][:200] if done.stdout or done.stderr else 'no score'
    return miou


def train(name: str, seed: int, folder: Path) -> subprocess.CompletedProcess:
    """Run `repvit-dense train` for `ITERATIONS` iterations on one thread."""
    options = [
        *(f'{key}={ITERATIONS}' for key in ('train_cfg.max_iters', 'train_cfg.val_interval', 'param_scheduler.1.end')),
        f'default_hooks.checkpoint.interval={ITERATIONS}',
    ]
    command = [*COMMAND, 'train', HEAD, '--backbone', name, '--seed', str(seed), '--work-dir', str(folder)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    return subprocess.run([*command, '--cfg-options', *options], capture_output=True, text=True, env=environment)


def _read_miou(folder: Path) -> float | None:
    """Return the mIoU after the last iteration, or None if the training did not get that far."""
    for log in folder.glob('*/vis_data/scalars.json'):
        for line in map(json.loads, log.read_text().splitlines()):
            if 'mIoU' in line and line.get('step') == ITERATIONS:
                return line['mIoU']
    return None


# --- the section ------------------------------------------------------------------------------------------------------


def section_of(path: Path, required: bool = False) -> str:
    """Return the section of a page with its marks.

    A page without section gets one that names the command to run.

    Raises:
        InputError: `required` is set and the page has no marks.
    """
    text = path.read_text() if path.is_file() else ''
    sections = re.findall(f'{BEGIN}.*?{END}', text, re.DOTALL)
    if len(sections) == 1:
        return sections[0]
    if required:
        raise InputError(f'{path}: the section needs the lines {BEGIN} and {END}; the page `peers` writes them')
    return '\n'.join([BEGIN, '', TITLE, '', f'Not run yet: {USAGE}.', '', END])


def section(names: Sequence[str], scores: dict[tuple[str, int], float | str]) -> str:
    """Return the section: a row per backbone with mean, range and the score of each seed."""
    lines = [
        *(BEGIN, '', TITLE, ''),
        f'{len(names)} backbones under the same light head (`{HEAD}`), from random weights, {ITERATIONS} iterations',
        f'of 4 images each, the same {len(SEEDS)} seeds. This demonstrates the comparison from the command line to a',
        'score, and how much the seed changes a score. It does not rank the backbones: a training of minutes from',
        'random weights favours networks that learn fast at the beginning. Generated by',
        f'{USAGE}.',
        '',
        f'| backbone | mIoU, mean | min to max | {" | ".join(f"seed {seed}" for seed in SEEDS)} |',
        '|---' * (3 + len(SEEDS)) + '|',
    ]
    failures = []
    for name in names:
        values = [scores[name, seed] for seed in SEEDS]
        numbers = [value for value in values if not isinstance(value, str)]
        cells = ['fails' if isinstance(value, str) else f'{value:.1f}' for value in values]
        spread = f'{min(numbers):.1f} to {max(numbers):.1f}' if numbers else '-'
        mean = f'{statistics.mean(numbers):.1f}' if numbers else '-'
        lines.append(f'| {name} | {mean} | {spread} | {" | ".join(cells)} |')
        failures += [
            f'- {name}, seed {seed}: {value}'
            for seed, value in zip(SEEDS, values, strict=True)
            if isinstance(value, str)
        ]
    return '\n'.join([*lines, *([''] if failures else []), *failures, '', END])
