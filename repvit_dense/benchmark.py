"""Speed and memory, side by side in one run: what merging the branches is worth on this machine.

Two measurements of a RepViT backbone. The *training step* (forward and backward with frozen batch norms, as detectors
are fine-tuned) through the merged kernels against the plain form, where every branch and every batch norm is an
operation of its own: timm's network with the same weights. *Inference* of the fused form against the unfused ones.

Machines are shared and clocks move: only what was measured in alternation compares, so every round times every subject
once, and a speed-up is the median of the rounds' ratios.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

WARMUP = 2  # rounds that are not timed


class Subject(NamedTuple):
    name: str
    call: Callable[[], object]


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'must be 1 or more, got {number}')
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--arch', default='m1_1', help='RepViT variant (default: %(default)s)')
    parser.add_argument('--batch', type=_positive, default=2, help='images per step (default: %(default)s)')
    parser.add_argument('--size', type=_positive, default=512, help='image side in pixels (default: %(default)s)')
    parser.add_argument('--rounds', type=_positive, default=7, help='timed rounds (default: %(default)s)')
    parser.add_argument('--threads', type=_positive, help="CPU threads (default: torch's own choice)")
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write every number here')
    parser.add_argument(
        '--model-zoo', type=Path, metavar='FILE', help='instead measure every head on --backbones and write a page'
    )
    parser.add_argument(
        '--backbones',
        nargs='+',
        metavar='NAME',
        default=['repvit_m1_1', 'resnet18', 'mobilevitv2_100', 'poolformer_s12'],
        help='for --model-zoo (default: %(default)s)',
    )
    parser.add_argument(
        '--export-table', type=Path, metavar='FILE', help='instead export every head in every format and write a table'
    )


def run(args: argparse.Namespace) -> int:
    """Measure, print a table, and write the numbers to `args.json` where asked for; or write the model zoo page.

    Raises:
        InputError: an argument cannot be used; nothing was measured.
    """
    import torch

    from repvit_dense.backbones.repvit import ARCHS

    if args.arch not in ARCHS:
        raise InputError(f"--arch: unknown variant '{args.arch}'; known: {', '.join(ARCHS)}")
    for option, file in (('--json', args.json), ('--model-zoo', args.model_zoo), ('--export-table', args.export_table)):
        if file and not file.parent.is_dir():
            raise InputError(f'{option}: there is no directory {file.parent} to write {file.name} into')
    threads = torch.get_num_threads()
    torch.set_num_threads(args.threads or threads)
    try:
        if args.export_table:
            from repvit_dense import export_table, model_zoo

            return export_table.write(args.export_table, model_zoo.heads())
        if args.model_zoo:
            from repvit_dense import model_zoo

            model_zoo.write(args.model_zoo, args.backbones, args.rounds)
            return 0
        report = measure(args.arch, args.batch, args.size, args.rounds)
    finally:
        torch.set_num_threads(threads)
    print(to_text(report))
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + '\n')
    return 0


def measure(arch: str, batch: int, size: int, rounds: int) -> dict:
    """Both measurements on `batch` random images of `size` x `size` pixels.

    Returns:
        the setting; `rows`, see `compare`; the training rows also hold `saved_bytes` and `gradient_error`.
    """
    import torch

    torch.manual_seed(0)
    merged, plain = twins(arch)
    images = torch.randn(batch, 3, size, size)
    steps = [
        Subject('plain form', lambda: training_step(plain, images)),
        Subject('merged kernels', lambda: training_step(merged, images)),
    ]
    rows = compare('training step', steps, rounds)
    exact = copy.deepcopy(plain).double()
    training_step(exact, images.double())
    for row, network in zip(rows, (plain, merged), strict=True):
        row['gradient_error'] = gradient_error(network, exact)  # of the gradients that the last step left behind
        row['saved_bytes'] = saved_bytes(network, images)
    with torch.inference_mode():
        rows += compare('inference', inference_subjects(merged, plain, images), rounds)
    setting = {'arch': arch, 'batch': batch, 'size': size, 'rounds': rounds, 'threads': torch.get_num_threads()}
    return {**setting, 'torch': torch.__version__, 'rows': rows}


def twins(arch: str) -> 'tuple[nn.Module, nn.Module]':
    """Our backbone and the plain form with the same random weights; in both, every batch norm is frozen."""
    import timm
    import torch

    from repvit_dense.backbones.repvit import ARCHS, RepViT
    from repvit_dense.checkpoint import convert

    dims = ARCHS[arch]
    # Any of timm's variants will do: its dimensions are replaced (timm lacks m0_6).
    plain = timm.create_model('repvit_m1_1', features_only=True, embed_dim=dims['embed_dims'], depth=dims['depths'])
    for name, parameter in plain.named_parameters():
        if name.endswith('bn.weight'):  # a fresh residual branch is multiplied by 0 and would get no gradient
            torch.nn.init.uniform_(parameter, 0.3, 0.7)
    merged = RepViT(arch, norm_eval=True)
    merged.load_state_dict(convert(plain.state_dict(), to='ours'))
    return merged.train(), plain.eval()


def training_step(network: 'nn.Module', images: 'Tensor') -> None:
    """Forward and backward; the gradients of the features' mean squares stay in the parameters."""
    network.zero_grad()
    sum(feature.square().mean() for feature in network(images)).backward()


def inference_subjects(merged: 'nn.Module', plain: 'nn.Module', images: 'Tensor') -> list[Subject]:
    import torch

    from repvit_dense.reparam import reparameterize_model

    unfused = copy.deepcopy(merged).eval()
    fused = reparameterize_model(unfused).to(memory_format=torch.channels_last)
    images_last = images.contiguous(memory_format=torch.channels_last)
    return [
        Subject('plain form', lambda: plain(images)),
        Subject('merged kernels', lambda: unfused(images)),
        Subject('deploy form, channels last', lambda: fused(images_last)),
    ]


def compare(measurement: str, subjects: Sequence[Subject], rounds: int) -> list[dict]:
    """Time the subjects in alternation.

    Returns:
        a row per subject: `measurement`, `subject`, `seconds` of each round, `median`, `min` and `max` of these, and
        `speedup`, the median over the rounds of how many times faster than the first subject.
    """
    seconds = interleave(subjects, rounds)
    baseline = seconds[subjects[0].name]
    return [
        {
            'measurement': measurement,
            'subject': name,
            'seconds': own,
            'median': statistics.median(own),
            'min': min(own),
            'max': max(own),
            'speedup': statistics.median(base / this for base, this in zip(baseline, own, strict=True)),
        }
        for name, own in seconds.items()
    ]


def interleave(subjects: Sequence[Subject], rounds: int) -> dict[str, list[float]]:
    """Seconds of every call; each round calls every subject once, in turn, after `WARMUP` rounds that do not count."""
    seconds = {name: [] for name, _ in subjects}
    for _ in range(WARMUP + rounds):
        for name, call in subjects:
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return {name: values[WARMUP:] for name, values in seconds.items()}


def saved_bytes(network: 'nn.Module', images: 'Tensor') -> int:
    """Memory that one forward keeps for its backward: the distinct storages, the network's own tensors left out."""
    from torch.autograd.graph import saved_tensors_hooks

    own = {tensor.untyped_storage().data_ptr() for tensor in network.state_dict().values()}
    saved = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor  # stays alive until the features go, so no address is used twice

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        _features = network(images)
    return sum(size for address, size in saved.items() if address not in own)


def gradient_error(network: 'nn.Module', exact: 'nn.Module') -> float:
    """Largest error of any parameter's gradient, relative to that parameter's largest.

    Args:
        network: the plain form or ours, after a training step.
        exact: the plain form with the same weights, after the same step in float64.
    """
    expected, own = _gradients(exact), _gradients(network)
    return max(((own[name] - expected[name]).abs().max() / expected[name].abs().max()).item() for name in expected)


def _gradients(network: 'nn.Module') -> 'dict[str, Tensor]':
    """The parameters' gradients in float64, under the names of our layout."""
    from repvit_dense.checkpoint import convert

    gradients = {name: parameter.grad.double() for name, parameter in network.named_parameters()}
    ours = convert(network.state_dict() | gradients, to='ours')
    return {name: tensor for name, tensor in ours.items() if not name.endswith(('_mean', '_var', '_tracked'))}


def to_text(report: dict) -> str:
    """The report as a table, times in milliseconds."""
    lines = [
        'RepViT-{arch}, {batch}x3x{size}x{size}, {threads} threads, {rounds} rounds, torch {torch}'.format(**report),
        f'{"milliseconds":42}{"median":>9}{"min":>9}{"max":>9}{"speed-up":>10}{"saved MiB":>11}',
    ]
    for row in report['rows']:
        times = ''.join(f'{1000 * row[key]:9.1f}' for key in ('median', 'min', 'max'))
        memory = f'{row["saved_bytes"] / 2**20:11.1f}' if 'saved_bytes' in row else ''
        lines.append(f'{row["measurement"]:14}{row["subject"]:28}{times}{row["speedup"]:9.2f}x{memory}')
    before, after = (row['saved_bytes'] for row in report['rows'] if 'saved_bytes' in row)
    lines.append(f'merged kernels, memory saved for the backward pass: {after / before - 1:+.0%}')
    errors = [f'{row["subject"]} {row["gradient_error"]:.1e}' for row in report['rows'] if 'gradient_error' in row]
    lines.append(f'largest relative error of a gradient against float64: {", ".join(errors)}')
    return '\n'.join(lines)
