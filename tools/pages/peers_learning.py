"""A few backbones trained for minutes on the embedded data: the section of docs/peers.md that shows the comparison run.

From random weights and with so short a budget the figures say nothing about what the backbones are worth.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from repvit_dense import config
from repvit_dense.backbones import catalogue
from repvit_dense.benchmark.process import COMMAND
from repvit_dense.errors import InputError
from repvit_dense.files import write_text

BEGIN, END = '<!-- generated: learning on the shapes data -->', '<!-- end of learning on the shapes data -->'
HEAD = 'repvit_segformer_shapes'  # of the thin heads the one that learns fastest
BACKBONES = ('repvit_m0_9', 'mobilenetv3_large', 'mobilevitv2_075', 'efficientformerv2_s0', 'edgevit_xxs')
SEEDS = (0, 1, 2)
ITERATIONS = 300  # of 4 images: about two minutes of one core
AT_ONCE = 2  # trainings, of one thread each
RUNS = Path('work_dirs', 'peers_learning')
TITLE = '## Learning on the shapes data: a demonstration'


def write(path: Path, names: Sequence[str] | None = None, runs: Path = RUNS) -> int:
    """Train what is not trained yet, and put the section between its marks in the page; finished runs stay in `runs`.

    Returns:
        0, or 2 where a training failed: the page says why.

    Raises:
        InputError: an unknown name, or a page without the marks; nothing was trained.
    """
    from tqdm import tqdm

    try:
        found = list(dict.fromkeys(catalogue.find(name).name for name in names or BACKBONES))
    except ValueError as error:
        raise InputError(f'--backbones: {error}') from error
    section_of(path, needed=True)
    config.prepare_data(config.load(HEAD))  # two trainings would draw it at the same time
    pairs = [(name, seed) for name in found for seed in SEEDS]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        results = pool.map(lambda pair: score(*pair, runs), pairs)
        scores = dict(zip(pairs, tqdm(results, desc='training', total=len(pairs), disable=None), strict=True))
    text, own = path.read_text(), section(found, scores)
    write_text(path, text.replace(section_of(path), own))
    return 2 if any(isinstance(value, str) for value in scores.values()) else 0


def score(name: str, seed: int, runs: Path) -> float | str:
    """mIoU after a training of this seed, in per cent; or why there is none. A finished training is not repeated."""
    folder = runs / f'{HEAD}-{ITERATIONS}' / f'{name}-{seed}'
    if (found := _read(folder)) is not None:
        return found
    shutil.rmtree(folder, ignore_errors=True)  # of a training that was interrupted
    done = train(name, seed, folder)
    found = _read(folder)
    for weights in folder.glob('*.pth'):
        weights.unlink()
    if found is None:
        return (done.stdout + done.stderr).strip().splitlines()[-1][:200] if done.stdout or done.stderr else 'no score'
    return found


def train(name: str, seed: int, folder: Path) -> subprocess.CompletedProcess:
    """The command of a user, the schedule cut to `ITERATIONS`, on one thread."""
    options = [
        *(f'{key}={ITERATIONS}' for key in ('train_cfg.max_iters', 'train_cfg.val_interval', 'param_scheduler.1.end')),
        f'default_hooks.checkpoint.interval={ITERATIONS}',
    ]
    command = [*COMMAND, 'train', HEAD, '--backbone', name, '--seed', str(seed), '--work-dir', str(folder)]
    environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
    return subprocess.run([*command, '--cfg-options', *options], capture_output=True, text=True, env=environment)


def _read(folder: Path) -> float | None:
    """The score of the last iteration, where the training came so far."""
    for log in folder.glob('*/vis_data/scalars.json'):
        for line in map(json.loads, log.read_text().splitlines()):
            if 'mIoU' in line and line.get('step') == ITERATIONS:
                return line['mIoU']
    return None


# --- the section ------------------------------------------------------------------------------------------------------


def section_of(path: Path, needed: bool = False) -> str:
    """The section of a page with its marks; where there is none, one that says so, or InputError if `needed`."""
    text = path.read_text() if path.is_file() else ''
    found = re.findall(f'{BEGIN}.*?{END}', text, re.DOTALL)
    if len(found) == 1:
        return found[0]
    if needed:
        raise InputError(f'{path}: the section goes between the lines {BEGIN} and {END}; --peers writes such a page')
    return '\n'.join(
        [BEGIN, '', TITLE, '', 'Not run yet: `python tools/benchmark.py --peers-learning docs/peers.md`.', '', END]
    )


def section(names: Sequence[str], scores: dict[tuple[str, int], float | str]) -> str:
    """A row per backbone: the mean over the seeds, their spread, and each."""
    lines = [
        *(BEGIN, '', TITLE, ''),
        f'{len(names)} backbones under the same thin head (`{HEAD}`), from random weights, {ITERATIONS} iterations',
        f'of 4 images each, the same {len(SEEDS)} seeds. It shows that the comparison runs, from the command line to a',
        'score, and how far seeds alone move a score. It says nothing about what these backbones are worth: minutes',
        'from random weights favour whatever starts fastest. Refreshed by',
        '`python tools/benchmark.py --peers-learning docs/peers.md`.',
        '',
        f'| backbone | mIoU, mean | min to max | {" | ".join(f"seed {seed}" for seed in SEEDS)} |',
        '|---' * (3 + len(SEEDS)) + '|',
    ]
    failed = []
    for name in names:
        own = [scores[name, seed] for seed in SEEDS]
        numbers = [value for value in own if not isinstance(value, str)]
        shown = ['fails' if isinstance(value, str) else f'{value:.1f}' for value in own]
        spread = f'{min(numbers):.1f} to {max(numbers):.1f}' if numbers else '-'
        mean = f'{statistics.mean(numbers):.1f}' if numbers else '-'
        lines.append(f'| {name} | {mean} | {spread} | {" | ".join(shown)} |')
        failed += [
            f'- {name}, seed {seed}: {scores[name, seed]}' for seed in SEEDS if isinstance(scores[name, seed], str)
        ]
    return '\n'.join([*lines, *([''] if failed else []), *failed, '', END])
