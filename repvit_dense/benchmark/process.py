"""What a process costs besides computing: how long it takes to start, and how long it waits for data."""

import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

from repvit_dense.benchmark.timing import Subject
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from repvit_dense.benchmark.subjects import ArtifactSubject, BackboneSubject, ConfigSubject

ARTIFACT = """
import sys
import numpy
from repvit_dense.artifact.predictor import Predictor
Predictor(sys.argv[1])(numpy.zeros((int(sys.argv[2]), int(sys.argv[3]), 3), numpy.uint8))
"""
NETWORK = """
import sys
from repvit_dense.benchmark import subjects
setting = subjects.Setting(1, (int(sys.argv[2]), int(sys.argv[3])))
subjects.find(sys.argv[1], setting).inference()[0].call()
"""
COMMAND = [sys.executable, '-c', 'from repvit_dense.cli import main; main()']
STEPS_OF_LOADING = 20


def first_result(thing: 'BackboneSubject | ConfigSubject | ArtifactSubject') -> Subject:
    """A fresh process, from its start to its end after one image."""
    from repvit_dense.benchmark.subjects import ArtifactSubject

    code = ARTIFACT if isinstance(thing, ArtifactSubject) else NETWORK
    command = [sys.executable, '-c', code, thing.name, *map(str, thing.setting.size)]
    return Subject(thing.name, lambda: _run(command))


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f'{" ".join(command[3:])}: {done.stderr.strip().splitlines()[-1]}')


def help_page(tool: str) -> Subject:
    """`--help` of a command."""
    command = [*COMMAND, tool, '--help']
    return Subject(f'{tool} --help', lambda: _run(command))


def first_iteration(config: str) -> float:
    """Seconds from the start of a training to the end of its first iteration; its data is there already."""
    with tempfile.TemporaryDirectory() as folder:
        options = ['default_hooks.logger.interval=1', 'custom_hooks=[]']
        command = [*COMMAND, 'train', config, '--work-dir', folder]
        start = time.perf_counter()
        process = subprocess.Popen(
            [*command, '--cfg-options', *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        try:
            said = []
            for line in process.stdout:
                said.append(line)
                if '(train)' in line and 'loss' in line:
                    return time.perf_counter() - start
        finally:
            process.kill()
            process.wait()
    raise InputError(f'{config}: no iteration was done: {"".join(said[-3:])}')


def loading(thing: 'ConfigSubject', rounds: int) -> dict:
    """The share of a training that waits for the next batch, with the config's own loader and data.

    Returns:
        a row as of `timing.compare`, of iterations, with `share`.
    """
    import statistics

    from mmengine.runner import Runner

    from repvit_dense import config
    from repvit_dense.benchmark.subjects import ConfigSubject

    if not isinstance(thing, ConfigSubject):
        raise InputError(f'{thing.name}: only a config has data to load')
    cfg = thing.config()
    config.prepare_data(cfg)
    config.check(cfg, ('train',))
    step = thing.training()
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    batches, waited, worked = iter(loader), [], []
    for _ in range(rounds * STEPS_OF_LOADING):
        began = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            break
        waited.append(time.perf_counter() - began)
        step.model.train_step(batch, step.optimizer)
        worked.append(time.perf_counter() - began)
    seconds = worked[1:]  # the workers start with the first
    return {
        'measurement': 'loading',
        'subject': thing.name,
        'seconds': seconds,
        'median': statistics.median(seconds),
        'min': min(seconds),
        'max': max(seconds),
        'speedup': 1.0,
        'parts': {'waiting': statistics.median(waited[1:])},
        'share': sum(waited[1:]) / sum(seconds),
    }
