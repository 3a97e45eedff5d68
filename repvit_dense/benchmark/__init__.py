"""Measure speed and memory of backbones, whole models and artifacts side by side in one run."""

import json
from typing import TYPE_CHECKING

from repvit_dense import plugin
from repvit_dense.benchmark.settings import BenchmarkSettings, check
from repvit_dense.errors import InputError
from repvit_dense.files import write_text
from repvit_dense.memory import keep_freed_memory

if TYPE_CHECKING:
    from repvit_dense.benchmark.subjects import AnySubject
    from repvit_dense.benchmark.workload import Workload


def run(settings: BenchmarkSettings) -> dict:
    """Measure, print a table, and write the files of `--json` and `--plot`.

    Returns:
        The return value of `measure`.

    Raises:
        InputError: an option cannot be used; nothing was measured.
    """
    check(settings)
    from repvit_dense.benchmark import table

    results = measure(settings)
    print(table.to_text(results))
    if settings.plot:
        table.draw(results, settings.plot)
    if settings.json:
        write_text(settings.json, json.dumps(results, indent=2) + '\n')
    return results


def measure(settings: BenchmarkSettings) -> dict:
    """Take every measurement on all subjects in alternation.

    Returns:
        `batch`, `size`, `device`, `precision`, `compiled`, `rounds`, `threads`, `torch` (its version), and `rows` as
        from `timing.compare`. Rows of networks also have `params` and the `macs` of one image, those of training steps
        `saved_bytes` and `peak_bytes`.

    Raises:
        InputError: a subject or the device does not exist, or a subject does not support a measurement.
    """
    from repvit_dense.benchmark import subjects
    from repvit_dense.benchmark.workload import Workload, check_device, cpu_threads, device_name

    if not settings.subjects:
        raise InputError('name at least one subject to measure: a backbone, a config or the folder of an artifact')
    names = [*([settings.against] if settings.against else []), *settings.subjects]
    size = (settings.size[0], settings.size[1])
    workload = Workload(settings.batch, size, settings.device, settings.precision, settings.compile)
    measured = [subjects.find(name, workload) for name in dict.fromkeys(names)]
    plugin.load()
    import torch

    check_device(settings.device)
    with cpu_threads(settings.threads):
        torch.manual_seed(0)
        return {
            **workload._asdict(),
            'device': device_name(settings.device),
            'rounds': settings.rounds,
            'threads': torch.get_num_threads(),
            'torch': torch.__version__,
            'rows': [
                row
                for measurement in dict.fromkeys(settings.what)
                for row in _rows(measurement, measured, workload, settings.rounds)
            ],
        }


def _rows(measurement: str, subjects: 'list[AnySubject]', workload: 'Workload', rounds: int) -> list[dict]:
    from repvit_dense.benchmark import process, timing, training

    if measurement == 'startup':
        return timing.compare(measurement, [process.first_prediction(subject) for subject in subjects], rounds)
    if measurement == 'loading':
        return [process.data_loading(subject, rounds) for subject in subjects]
    if measurement == 'inference':
        calls = [call for subject in subjects for call in subject.inference()]
        rows = timing.compare(measurement, calls, rounds)
        return [row | call.counts for row, call in zip(rows, calls, strict=True)]
    steps = [subject.training() for subject in subjects]
    calls = [training.timed_step(subject.name, step, workload) for subject, step in zip(subjects, steps, strict=True)]
    with keep_freed_memory():  # as the command `train` does
        rows = timing.compare(measurement, calls, rounds)
    return [row | training.step_memory(step) for row, step in zip(rows, steps, strict=True)]
