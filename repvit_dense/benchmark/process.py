"""Time processes: their start, their first result, and how long a training waits for data."""

import statistics
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from repvit_dense.benchmark.timing import TimedCall
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from repvit_dense.benchmark.subjects import AnySubject

ARTIFACT_CODE = """
import sys
import numpy
from repvit_dense.artifact.predictor import Predictor
Predictor(sys.argv[1])(numpy.zeros((int(sys.argv[2]), int(sys.argv[3]), 3), numpy.uint8))
"""
NETWORK_CODE = """
import sys
from repvit_dense.benchmark import subjects
from repvit_dense.benchmark.workload import Workload
workload = Workload(1, (int(sys.argv[2]), int(sys.argv[3])))
subjects.find(sys.argv[1], workload).inference()[0].call()
"""
COMMAND = [sys.executable, '-c', 'from repvit_dense.cli import main; main()']
LOADING_STEPS = 20  # training steps per round


def first_prediction(subject: 'AnySubject') -> TimedCall:
    """Return a call that runs a new process, from its start to its end, for the prediction of one image."""
    from repvit_dense.benchmark.subjects import ArtifactSubject

    code = ARTIFACT_CODE if isinstance(subject, ArtifactSubject) else NETWORK_CODE
    command = [sys.executable, '-c', code, subject.name, *map(str, subject.workload.size)]
    return TimedCall(subject.name, lambda: _run(command))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f'{" ".join(command[3:])}: {done.stderr.strip().splitlines()[-1]}')


def help_page(command: str) -> TimedCall:
    """Return a call that runs `repvit-dense COMMAND --help` in a new process."""
    return TimedCall(f'{command} --help', lambda: _run([*COMMAND, command, '--help']))


def first_iteration(config: str) -> float:
    """Return the seconds from the start of `repvit-dense train` to the end of its first iteration.

    The data set must exist already.

    Raises:
        InputError: the training ended before its first iteration.
    """
    with tempfile.TemporaryDirectory() as folder:
        options = ['default_hooks.logger.interval=1', 'custom_hooks=[]']
        command = [*COMMAND, 'train', config, '--work-dir', folder, '--verbose', '--cfg-options', *options]
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        output = []
        try:
            for line in process.stdout or ():
                output.append(line)
                if '(train)' in line and 'loss' in line:
                    return time.perf_counter() - start
        finally:
            process.kill()
            process.wait()
    raise InputError(f'{config}: the training ended before its first iteration: {"".join(output[-3:])}')


def data_loading(subject: 'AnySubject', rounds: int) -> dict:
    """Train with the data loader and the data of the config and measure the wait for batches.

    Returns:
        A row as from `timing.compare` with the seconds of each iteration, and `share`, the fraction of the time spent
        waiting for the next batch.

    Raises:
        InputError: the subject is not a config, or its data set is missing.
    """
    from mmengine.runner import Runner

    from repvit_dense import compat, config
    from repvit_dense.benchmark.subjects import ConfigSubject
    from repvit_dense.checkpoints.reading import read

    if not isinstance(subject, ConfigSubject):
        raise InputError(f'{subject.name}: only a config has data to load; leave --what loading out')
    cfg = subject.config()
    config.prepare_data(cfg)
    config.check(cfg, ('train',))
    step = subject.training()
    with compat.patched(read):  # the workers start here, and inherit the changes of a run
        batches = iter(Runner.build_dataloader(cfg.train_dataloader, seed=0))
    waits, iterations = [], []
    for _ in range(rounds * LOADING_STEPS):
        start = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break
        waits.append(time.perf_counter() - start)
        step.model.train_step(batch, step.optimizer)
        iterations.append(time.perf_counter() - start)
    seconds, waits = iterations[1:], waits[1:]  # the first one includes the start of the workers
    return {
        'measurement': 'loading',
        'subject': subject.name,
        'seconds': seconds,
        'median': statistics.median(seconds),
        'min': min(seconds),
        'max': max(seconds),
        'speedup': 1.0,
        'parts': {'waiting': statistics.median(waits)},
        'share': sum(waits) / sum(seconds),
    }
