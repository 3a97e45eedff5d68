"""Speed and memory in one run: backbones, models and artifacts by name, side by side; and the pages of the docs."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError
from repvit_dense.files import write_text
from repvit_dense.memory import kept_when_freed

if TYPE_CHECKING:
    from repvit_dense.benchmark.subjects import Setting

WHAT = ('inference', 'training', 'startup', 'loading')
TARGETS = ('training', 'inference', 'detector', 'startup', 'export', 'evaluation', 'int8')
ZOO = ('repvit_m1_1', 'resnet18', 'mobilevitv2_100', 'poolformer_s12')


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f'must be 1 or more, got {number}')
    return number


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'subjects',
        nargs='*',
        metavar='SUBJECT',
        help='a backbone (m1_1, timm:repvit_m1_1), a config (repvit_segformer_ade20k, or on another backbone '
        'repvit_maskrcnn_coco@resnet50), or the folder of an artifact',
    )
    parser.add_argument('--against', metavar='SUBJECT', help='what speed-ups refer to (default: the first subject)')
    parser.add_argument('--what', nargs='+', choices=WHAT, default=['inference'], help='default: %(default)s')
    parser.add_argument('--batch', type=_positive, default=2, help='images at a time (default: %(default)s)')
    parser.add_argument(
        '--size', nargs=2, type=_positive, default=(512, 512), metavar=('H', 'W'), help='pixels (default: 512 512)'
    )
    parser.add_argument('--rounds', type=_positive, help='timed rounds (default: 7; of --peers, 3)')
    parser.add_argument('--threads', type=_positive, help="CPU threads (default: torch's own choice)")
    parser.add_argument('--device', default='cpu', help='cpu, cuda, cuda:1, ... (default: %(default)s)')
    parser.add_argument('--precision', choices=('fp32', 'bf16'), default='fp32', help='default: %(default)s')
    parser.add_argument('--compile', action='store_true', help='run through torch.compile')
    parser.add_argument('--json', type=Path, metavar='FILE', help='also write every number here')
    parser.add_argument('--plot', type=Path, metavar='FILE', help='also draw the times')
    pages = parser.add_argument_group('pages and tables of the docs, instead of subjects')
    pages.add_argument(
        '--targets',
        nargs='*',
        choices=TARGETS,
        metavar='PART',
        help=f'what this toolbox promises beside what it does here; parts: {", ".join(TARGETS)} (default: all)',
    )
    pages.add_argument('--growth', type=Path, metavar='FILE', help='how cost grows with pixels, batch and width')
    pages.add_argument(
        '--ladder', type=Path, metavar='FILE', help='from MobileNetV3 to RepViT, rung by rung, at --size'
    )
    pages.add_argument(
        '--annotations', type=_positive, metavar='OBJECTS', help='check and index a COCO file of so many objects'
    )
    pages.add_argument('--model-zoo', type=Path, metavar='FILE', help='every head on --backbones')
    pages.add_argument(
        '--peers',
        type=Path,
        metavar='FILE',
        help='--backbones under two heads, like for like; --json keeps every number, an interrupted run goes on',
    )
    pages.add_argument(
        '--peers-learning', type=Path, metavar='FILE', help="--backbones trained for minutes: that page's section"
    )
    pages.add_argument(
        '--backbones',
        nargs='+',
        metavar='NAME',
        help=f'for --model-zoo (default: {" ".join(ZOO)}), --peers (all) and --peers-learning (five)',
    )
    pages.add_argument('--export-table', type=Path, metavar='FILE', help='every head in every format')
    pages.add_argument(
        '--heads', nargs='+', metavar='CONFIG', help='for --export-table: only these rows (default: all)'
    )


def run(args: argparse.Namespace) -> int:
    """Measure and print a table, or write a page.

    Returns:
        0, or 2 where a page could not be filled.

    Raises:
        InputError: an argument cannot be used; nothing was measured.
    """
    import torch

    for option in ('json', 'plot', 'growth', 'ladder', 'model_zoo', 'peers', 'peers_learning', 'export_table'):
        file = getattr(args, option)
        if file and not file.parent.is_dir():
            name = option.replace('_', '-')
            raise InputError(f'--{name}: there is no directory {file.parent} to write {file.name} into')
    if args.device.startswith('cuda') and not torch.cuda.is_available():
        raise InputError(f'--device {args.device}: torch finds no GPU here')
    args.rounds = args.rounds or (3 if args.peers else 7)
    threads = torch.get_num_threads()
    torch.set_num_threads(args.threads or threads)
    try:
        return _run(args)
    finally:
        torch.set_num_threads(threads)


def _run(args: argparse.Namespace) -> int:
    if args.export_table:
        from tools.pages import export_table, model_zoo

        return export_table.write(args.export_table, args.heads or model_zoo.heads())
    if args.model_zoo:
        from tools.pages import model_zoo

        model_zoo.write(args.model_zoo, args.backbones or ZOO, args.rounds)
        return 0
    if args.peers:
        from tools.pages import peers

        return peers.write(args.peers, args.backbones, args.rounds, args.json)
    if args.peers_learning:
        from tools.pages import peers_learning

        return peers_learning.write(args.peers_learning, args.backbones)
    if args.growth:
        from tools.pages import growth

        growth.write(args.growth, args.rounds)
        return 0
    if args.ladder:
        from tools.pages import ladder

        ladder.write(args.ladder, tuple(args.size), args.rounds)
        return 0
    if args.annotations:
        from tools.pages import annotations

        report = annotations.report(args.annotations)
        print(annotations.to_text(report))
    elif args.targets is not None:
        from tools.pages import targets

        report = targets.measure(args.targets, args.rounds, _setting(args))
        print(targets.to_text(report))
    else:
        from repvit_dense.benchmark import report as page

        report = measure(args)
        print(page.to_text(report))
        if args.plot:
            page.draw(report, args.plot)
    if args.json:
        write_text(args.json, json.dumps(report, indent=2) + '\n')
    return 0


def measure(args: argparse.Namespace) -> dict:
    """Everything asked for of all subjects, in alternation.

    Returns:
        the setting, and `rows`, see `timing.compare`; those of networks also have `params` and `macs` of one image,
        those of trainings `saved_bytes` and `peak_bytes`.
    """
    import torch

    from repvit_dense.benchmark import subjects, timing

    names = [*([args.against] if args.against else []), *args.subjects]
    if not args.subjects:
        raise InputError('name what is to be measured: a backbone, a config or an artifact; or a page (see --help)')
    torch.manual_seed(0)
    setting = _setting(args)
    found = [subjects.find(name, setting) for name in dict.fromkeys(names)]
    rows = [row for what in dict.fromkeys(args.what) for row in _rows(what, found, setting, args.rounds)]
    shown = {**setting._asdict(), 'device': timing.name_of(args.device), 'rounds': args.rounds}
    return {**shown, 'threads': torch.get_num_threads(), 'torch': torch.__version__, 'rows': rows}


def _setting(args: argparse.Namespace) -> 'Setting':
    from repvit_dense.benchmark.subjects import Setting

    return Setting(args.batch, tuple(args.size), args.device, args.precision, args.compile)


def _rows(what: str, found: list, setting: 'Setting', rounds: int) -> list[dict]:
    from repvit_dense.benchmark import process, timing, training

    if what == 'startup':
        return timing.compare(what, [process.first_result(thing) for thing in found], rounds)
    if what == 'loading':
        return [process.loading(thing, rounds) for thing in found]
    if what == 'inference':
        subjects = [subject for thing in found for subject in thing.inference()]
        return [row | own.about for row, own in zip(timing.compare(what, subjects, rounds), subjects, strict=True)]
    steps = [thing.training() for thing in found]
    timed = [training.subject(thing.name, step, setting) for thing, step in zip(found, steps, strict=True)]
    with kept_when_freed():  # as the command `train` does
        rows = timing.compare(what, timed, rounds)
    return [row | training.memory(step) for row, step in zip(rows, steps, strict=True)]
