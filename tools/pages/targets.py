"""Compare speed and memory on this machine with the targets of this repository: `make bench`.

A target is a ratio of two subjects measured in alternation, or a limit in seconds.
"""

import json
from dataclasses import dataclass
from pathlib import Path

import torch

from repvit_dense.benchmark.settings import PRECISIONS, positive_int
from repvit_dense.benchmark.workload import Workload, device_name
from repvit_dense.errors import InputError
from repvit_dense.files import write_text
from repvit_dense.options import option
from tools.pages import options as shared
from tools.pages import targets_artifacts, targets_networks, targets_processes
from tools.pages.target import PerformanceTarget

# Parts measured with the workload of the command line, on any device.
NETWORKS = {
    'training': targets_networks.backbone_training,
    'inference': targets_networks.backbone_inference,
    'detector': targets_networks.whole_step,
}
# Parts with workloads of their own, on the CPU.
CPU_PARTS = {
    'startup': targets_processes.startup,
    'export': targets_artifacts.artifacts,
    'evaluation': targets_processes.evaluation,
    'int8': targets_artifacts.int8,
}
PARTS = (*NETWORKS, *CPU_PARTS)


@dataclass(kw_only=True)
class Options:
    """Options of the page."""

    parts: list[str] = option(
        [],
        positional=True,
        nargs='*',
        metavar='PART',
        help=f'parts to measure: {", ".join(PARTS)}; by default all, about 20 minutes on two CPU cores. '
        f'Batch, size, device, precision and compile apply to {", ".join(NETWORKS)}',
    )
    batch: int = option(2, type=positive_int, metavar='N', help='batch size')
    size: tuple[int, int] = shared.size_option()
    rounds: int = shared.rounds_option(7)
    threads: int | None = shared.threads_option()
    device: str = option('cpu', help='device in PyTorch notation; a GPU measures ' + ', '.join(NETWORKS))
    precision: str = option('fp32', choices=PRECISIONS, help='fp32, or bf16 with autocast')
    compile: bool = option(False, help='run through torch.compile')
    json: Path | None = shared.json_option()


def run(options: Options) -> int:
    """Measure the parts, print every target as it is measured, and all of them at the end."""
    size = (options.size[0], options.size[1])
    workload = Workload(options.batch, size, options.device, options.precision, options.compile)
    report = measure(options.parts, options.rounds, workload)
    print(to_text(report))
    if options.json:
        write_text(options.json, json.dumps(report, indent=2) + '\n')
    return 0


def measure(parts: list[str], rounds: int, workload: Workload) -> dict:
    """Measure the parts and print each target as it is measured.

    Args:
        parts: names from `PARTS`; empty for all that the device supports.
        rounds: timed rounds; more for backbones, see `targets_networks.BACKBONE_ROUNDS_FACTOR`.
        workload: workload of the parts in `NETWORKS`.

    Raises:
        InputError: a part is unknown, or is measured on the CPU only and `workload` names a GPU.
    """
    known = tuple(NETWORKS) if workload.device.startswith('cuda') else PARTS
    for part in parts:
        if part not in PARTS:
            raise InputError(f"unknown part '{part}'; known: {', '.join(PARTS)}")
        if part not in known:
            raise InputError(f"part '{part}' is measured on the CPU; leave --device out. GPU: {', '.join(known)}")
    targets = []
    torch.manual_seed(0)
    for part in parts or known:
        for target in NETWORKS[part](rounds, workload) if part in NETWORKS else CPU_PARTS[part](rounds):
            targets.append(target)
            print(_line(target), flush=True)
    return {
        'device': device_name(workload.device),
        'threads': torch.get_num_threads(),
        'rounds': rounds,
        'torch': torch.__version__,
        'rows': [{**target._asdict(), 'met': target.met} for target in targets],
    }


def to_text(report: dict) -> str:
    """Return all targets beside the measured values, and the number of targets met.

    Args:
        report: the return value of `measure`.
    """
    targets = [
        PerformanceTarget(**{key: value for key, value in row.items() if key != 'met'}) for row in report['rows']
    ]
    limited = [target for target in targets if target.met is not None]
    head = f'{report["device"]}, {report["threads"]} threads, {report["rounds"]} rounds, torch {report["torch"]}'
    count = f'{sum(bool(target.met) for target in limited)} of {len(limited)} targets met'
    return '\n'.join(['', head, *map(_line, targets), count])


def _line(target: PerformanceTarget) -> str:
    number = f'{target.measured:.2f}' if target.measured >= 0.01 else f'{target.measured:.1e}'
    bound = '' if target.limit is None else f'target {">=" if target.at_least else "<="} {target.limit:g}{target.unit}'
    verdict = {None: '', True: 'met', False: 'NOT MET'}[target.met]
    name = target.name + (f' against {target.baseline}' if target.baseline else '')
    return f'{name:125} {number + target.unit:>9}  {bound:17} {verdict}'.rstrip()
