"""Run one training of the table by the public commands, or continue it, and score it."""

import json
import os
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from repvit_dense.benchmark.process import COMMAND
from repvit_dense.errors import InputError
from repvit_dense.screen import say
from tools.pages import results_rows
from tools.pages.results_table import Training

RUNS = Path('work_dirs', 'results')
DATA_ROOT = Path('data')
SAVING = ('--checkpoint-every', '5m')


class Failed(Exception):
    """A command ended with an error; the message names it."""


def train_words(training: Training, seed: int, root: Path = DATA_ROOT) -> list[str]:
    """Return the words of a training after `repvit-dense`; `root` is the folder of all data."""
    settings = [*training.settings, *([] if training.pretrained else ['model.backbone.init_cfg=None'])]
    return [
        *('train', training.config, '--backbone', training.backbone),
        *(
            '--data',
            str(root / training.data.folder),
            '--seed',
            str(seed),
            '--work-dir',
            str(work_dir(training, seed)),
            *training.options,
        ),
        *(['--cfg-options', *settings] if settings else []),
    ]


def test_words(training: Training, folder: Path) -> list[str]:
    """Return the words of the test after `repvit-dense`."""
    return ['test', str(folder), '--split', training.split, '--work-dir', str(folder / 'evaluation')]


def command_line(words: Sequence[str]) -> str:
    """Return the command with these words as it is typed."""
    return f'repvit-dense {shlex.join(words)}'


def work_dir(training: Training, seed: int) -> Path:
    """Return the folder of a training."""
    return RUNS / f'{training.name}-{seed}'


def run_training(training: Training, seed: int, root: Path, threads: int | None) -> None:
    """Train, or continue an interrupted training, and add its row.

    Raises:
        Failed: a command failed; nothing was added, and the next call continues.
    """
    folder = work_dir(training, seed)
    with results_rows.locked(folder, f'{folder}: waiting for a training that is running there') as lock:
        before = results_rows.recorded_seconds(folder)
        words = [*train_words(training, seed, root), *SAVING]
        if results_rows.last_checkpoint(folder):
            words += ['--resume']
        say(f'{training.name}, seed {seed}: {command_line(words)}')
        since = run_command(words, threads, lock)
        minutes = None if before is None else round((before + since) / 60, 1)
        add(training, folder, {**results_rows.describe(folder), 'cpu_minutes': minutes}, threads, lock)


def add(training: Training, folder: Path, row: dict[str, Any], threads: int | None, lock: int | None = None) -> None:
    """Score the best checkpoint of a work dir and add its row.

    Raises:
        Failed: the test failed; nothing was added.
        InputError: it tested nothing of the training.
    """
    run_command(test_words(training, folder), threads, lock)
    file = folder / 'evaluation' / training.split / 'scores.json'
    result = json.loads(file.read_text('utf-8'))
    missing = [metric.name for metric in training.metrics if metric.name not in result['scores']]
    if missing:
        raise InputError(f'{file}: no score {", ".join(missing)}; there is {", ".join(result["scores"])}')
    results_rows.add(training, row, result)


def run_command(words: Sequence[str], threads: int | None, lock: int | None) -> float:
    """Run `repvit-dense` with these words; return the CPU seconds of it and of the processes that it started.

    If this process is stopped, the command is, too: a training saves a checkpoint then.

    Raises:
        Failed: it ended with another exit code than 0.
        KeyboardInterrupt: a signal ended it.
    """
    environment = {**os.environ, **({'OMP_NUM_THREADS': str(threads)} if threads else {})}
    process = subprocess.Popen([*COMMAND, *words], env=environment, pass_fds=[] if lock is None else [lock])
    try:
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if process.returncode < 0 or process.returncode > 128:
        raise KeyboardInterrupt
    if process.returncode:
        raise Failed(f'{command_line(words[:2])} ended with exit code {process.returncode}; its message is above')
    return usage.ru_utime + usage.ru_stime
