"""The commands. Arguments are parsed here; what a command needs is imported afterwards."""

import argparse
import os
import re
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from zipfile import ZipFile

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
CONFIG = 'config file, or the name of a packaged one'
CHECKPOINT = 'checkpoint file, or a work dir: its best checkpoint, else its last'
RESUMABLE = re.compile(r'((interrupted|recent)_)?(epoch|iter)_\d+\.pth')


def main(command: str | None = None, argv: list[str] | None = None) -> None:
    """Run a command: the one given (tools/*.py), else the first argument (`repvit-dense`). Exits the process."""
    argv = sys.argv[1:] if argv is None else argv
    parser = build_parser()
    args, left = parser.parse_known_args([command, *argv] if command else argv)
    if not _take(args, left):
        parser.error(f'unrecognized arguments: {" ".join(left)}')
    sys.exit(_run(args))


def _take(args: argparse.Namespace, left: list[str]) -> bool:
    """Positional arguments after an option: argparse leaves them where their number is open. False: they do not fit."""
    if not left or any(word.startswith('-') for word in left):
        return not left
    if args.command == 'predict':
        args.images += left
    elif args.command == 'test' and args.checkpoint is None and len(left) == 1:
        args.checkpoint = left[0]
    else:
        return False
    return True


def build_parser() -> argparse.ArgumentParser:
    prog = Path(sys.argv[0]).name
    parser = argparse.ArgumentParser(prog='repvit-dense', description='Mobile backbones for dense prediction.')
    commands = parser.add_subparsers(dest='command', required=True, metavar='COMMAND')

    def add(name, function, text):
        own_prog = prog if prog == f'{name}.py' else f'repvit-dense {name}'
        sub = commands.add_parser(name, help=text, description=text, prog=own_prog)
        sub.set_defaults(function=function)
        return sub

    sub = add('train', _train, 'Train a model.')
    _add_run(sub)
    sub.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='go on from CHECKPOINT, or, without a value, from the last one in the work dir',
    )
    sub.add_argument(
        '--amp', nargs='?', const='bf16', choices=('bf16', 'fp16'), help='mixed precision (bf16 without a value)'
    )
    sub.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate with the total batch size')
    sub.add_argument(
        '--checkpoint-every',
        type=_interval,
        metavar='N|Nm',
        help='also save every N iterations, or N minutes (200, 5m): no more is lost when the training is killed',
    )

    sub = add('test', _test, 'Evaluate a checkpoint, or an artifact.')
    _add_run(sub)
    sub.add_argument('checkpoint', nargs='?', help=CHECKPOINT)
    sub.add_argument('--artifact', metavar='DIR', help='evaluate this export of the model, instead of a checkpoint')
    sub.add_argument('--threads', type=int, metavar='N', help='how many CPU threads an artifact uses')
    sub.add_argument('--deploy', action='store_true', help='evaluate the fused form')
    sub.add_argument('--show-dir', metavar='DIR', help='write pictures, ground truth beside prediction, and a page')

    from repvit_dense import benchmark
    from repvit_dense.commands import predict
    from repvit_dense.exporting import export

    sub = add('predict', _predict, 'Predict images of your own: pictures, a page, JSON.')
    _add_model(
        sub,
        metavar='CONFIG CHECKPOINT | ARTIFACT',
        help=f'{CONFIG}, and {CHECKPOINT}; or the folder of an artifact, which needs neither',
    )
    predict.add_arguments(sub)

    sub = add('export', _export, 'Turn a trained model into an artifact that runs without OpenMMLab.')
    _add_model(sub)
    sub.add_argument('checkpoint', help=CHECKPOINT)
    export.add_arguments(sub)

    sub = add('benchmark', benchmark.run, 'Measure speed and memory side by side.')
    benchmark.add_arguments(sub)

    sub = add('doctor', _doctor, 'Check the environment, a config and its data.')
    _add_model(sub)
    return parser


def _interval(text: str) -> dict[str, int]:
    """'200' or '5m' as arguments of DenseRecentCheckpointHook."""
    number = text.removesuffix('m')
    if not number.isdecimal() or not int(number):
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number of iterations (200) nor of minutes (5m)")
    return {'iterations' if number == text else 'minutes': int(number)}


def _add_model(parser: argparse.ArgumentParser, **first: str) -> None:
    """What says which model on which data; `first` says otherwise what the first argument is."""
    parser.add_argument('config', **{'help': CONFIG} | first)
    parser.add_argument('--backbone', metavar='NAME', help="another backbone of the catalogue in the config's place")
    parser.add_argument(
        '--data', metavar='NAME|PATH', help='other data: coco, coco-panoptic, ade20k, cityscapes, voc, shapes, a folder'
    )
    parser.add_argument(
        '--cfg-options', nargs='+', metavar='KEY=VALUE', help='change the config, e.g. train_cfg.max_epochs=1'
    )


def _add_run(parser: argparse.ArgumentParser) -> None:
    _add_model(parser)
    parser.add_argument('--work-dir', metavar='DIR', help='where everything is written (work_dirs/CONFIG)')
    parser.add_argument('--seed', type=int, help='random seed')
    parser.add_argument('--deterministic', action='store_true', help='only deterministic algorithms')
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='how the processes were started')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def _run(args: argparse.Namespace) -> int:
    from repvit_dense.errors import InputError

    try:
        return args.function(args) or 0
    except InputError as error:
        print('error:', ' '.join(str(error).splitlines()), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('interrupted', file=sys.stderr)
        return 130


def _train(args: argparse.Namespace) -> int:
    cfg = _load(args)
    from repvit_dense.config import check, prepare_data

    if args.amp:
        _use_amp(cfg, args.amp)
    if args.auto_scale_lr:
        _scale_lr(cfg)
    if args.checkpoint_every:
        hook = {'type': 'DenseRecentCheckpointHook', **args.checkpoint_every}
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), hook]
    _resume(cfg, args.resume)
    _read_checkpoint(cfg)
    prepare_data(cfg)
    check(cfg, ('train', 'val'))

    from repvit_dense.engine.guard import TrainingStopped
    from repvit_dense.engine.runner import DenseRunner

    try:
        with _memory():
            DenseRunner.from_cfg(cfg).train()
    except TrainingStopped as stop:
        print(stop, file=sys.stderr)
        return stop.exit_code
    except RuntimeError as error:
        _explain_deterministic(error)
        raise
    return 0


def _explain_deterministic(error: RuntimeError) -> None:
    """torch knows no deterministic form of some operations on a GPU: RoIAlign, the point samples of Mask2Former."""
    from repvit_dense.errors import InputError

    operation, found, _ = str(error).partition(' does not have a deterministic implementation')
    if found:
        raise InputError(
            f'--deterministic: {operation} of this model is not deterministic on a GPU. Leave --deterministic out '
            '(--seed still fixes data and initial weights), or train on the CPU: CUDA_VISIBLE_DEVICES='
        ) from error


def _test(args: argparse.Namespace) -> int:
    _check_subject(args)
    cfg = _load(args)
    from repvit_dense.config import check, prepare_data

    if args.checkpoint:
        cfg.load_from, cfg.resume = _find_checkpoint(args.checkpoint), False
        _read_checkpoint(cfg)
        cfg.model.backbone.pop('init_cfg', None)  # the checkpoint holds every weight
    if args.deploy:
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), {'type': 'DenseFuseHook'}]
    if args.show_dir:
        show_dir = Path(args.show_dir).absolute()
        cfg.default_hooks.visualization.update(draw=True, test_out_dir=str(show_dir))
    if args.artifact:
        from repvit_dense.exporting import evaluate

        evaluate.check(cfg, args.artifact)
    prepare_data(cfg)
    check(cfg, ('test',))
    if args.artifact:
        evaluate.use_artifact(cfg, args.artifact, args.threads)

    from repvit_dense.engine.runner import DenseRunner

    with _memory():
        metrics = DenseRunner.from_cfg(cfg).test()
    if args.show_dir:
        from repvit_dense.page import write_page

        curves = Path(cfg.load_from).absolute().parent / 'curves.png' if cfg.load_from else None
        pictures = sorted(show_dir.glob('*.png')) + sorted(show_dir.glob('*.jpg'))
        caption = 'Ground truth (left) beside prediction (right)'
        page = write_page(show_dir, Path(args.config).stem, pictures, caption, metrics, curves)
        print(f'Page: {page}')
    return 0


def _check_subject(args: argparse.Namespace) -> None:
    """What `test` evaluates: one of the two, and nothing that the other takes."""
    from repvit_dense.errors import InputError

    if bool(args.checkpoint) == bool(args.artifact):
        raise InputError('name a checkpoint, or an artifact (--artifact DIR); one of the two')
    if args.artifact and args.deploy:
        raise InputError('--deploy: an artifact is fused already; leave it out')
    if args.threads and not args.artifact:
        raise InputError('--threads goes with --artifact; for a checkpoint set OMP_NUM_THREADS')


def _predict(args: argparse.Namespace) -> int:
    """A folder in the first place is an artifact: a config is a file."""
    from repvit_dense.commands import predict
    from repvit_dense.errors import InputError

    if Path(args.config).is_dir():
        foreign = [name for name in ('backbone', 'data', 'cfg_options', 'device', 'deploy') if getattr(args, name)]
        if foreign:
            raise InputError(f'--{foreign[0].replace("_", "-")} does not go with an artifact: what it is, is fixed')
        return predict.run_artifact(args, args.config)
    checkpoint, *args.images = args.images
    if not args.images:
        raise InputError(
            f'{args.config}: not the folder of an artifact, so a checkpoint and images must follow: '
            'CONFIG CHECKPOINT IMAGE..., or ARTIFACT IMAGE...'
        )
    from repvit_dense import config

    cfg = config.load(args.config, args.cfg_options, args.backbone, args.data, _default_work_dir(args))
    with _memory():
        return predict.run(args, cfg, _find_checkpoint(checkpoint))


def _export(args: argparse.Namespace) -> int:
    from repvit_dense import config
    from repvit_dense.exporting import export

    cfg = config.load(args.config, args.cfg_options, args.backbone, args.data, _default_work_dir(args))
    return export.run(args, cfg, _find_checkpoint(args.checkpoint))


def _doctor(args: argparse.Namespace) -> int:
    from repvit_dense import config
    from repvit_dense.commands import doctor

    cfg = config.load(args.config, args.cfg_options, args.backbone, args.data, _default_work_dir(args))
    return doctor.run(cfg)


def _load(args: argparse.Namespace):
    """The config with what train and test have in common applied."""
    from repvit_dense.config import load

    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    cfg = load(args.config, args.cfg_options, args.backbone, args.data, args.work_dir)
    cfg.work_dir = cfg.get('work_dir') or _default_work_dir(args)
    cfg.launcher = args.launcher
    asked = {'seed': args.seed, 'deterministic': args.deterministic or None}
    asked = {key: value for key, value in asked.items() if value is not None}
    cfg.randomness = {'seed': None, **cfg.get('randomness', {}), **asked}
    if cfg.randomness.get('deterministic'):
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # torch refuses matrix products on a GPU without it
    return cfg


def _memory() -> AbstractContextManager[None]:
    """Where the CPU computes, a step finds the memory of the one before."""
    import torch

    from repvit_dense.memory import kept_when_freed

    return nullcontext() if torch.cuda.is_available() else kept_when_freed()


def _default_work_dir(args: argparse.Namespace) -> str:
    """One folder for each config, backbone and data: none overwrites another's checkpoints."""
    names = [args.config, args.backbone, args.data]
    return str(Path('work_dirs', '--'.join(Path(name).stem for name in names if name)))


def _resume(cfg, asked: str | None) -> None:
    """Go on from the checkpoint asked for; from the last one also where torchrun has started a dead job again."""
    restarted = int(os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)) > 0
    last = _last_checkpoint(Path(cfg.work_dir)) if restarted or asked == 'auto' else None
    checkpoint = last or (asked if asked != 'auto' else None)
    if checkpoint:
        cfg.resume, cfg.load_from = True, checkpoint
    elif asked or restarted:
        print(f'{cfg.work_dir}: no checkpoint to go on from, training starts from the beginning', file=sys.stderr)


def _read_checkpoint(cfg) -> None:
    """Refuse a file that cannot be used before the data is read and the model built."""
    from repvit_dense.checkpoints.reading import read
    from repvit_dense.config import check_trained_classes

    if cfg.get('load_from'):
        check_trained_classes(cfg, read(cfg.load_from))


def _scale_lr(cfg) -> None:
    from repvit_dense.errors import InputError

    if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
        raise InputError(
            '--auto-scale-lr needs the batch size that the learning rate of this config was chosen for: '
            '--cfg-options auto_scale_lr.base_batch_size=16'
        )
    cfg.auto_scale_lr.enable = True


def _use_amp(cfg, precision: str) -> None:
    import torch

    from repvit_dense.errors import InputError

    if not torch.cuda.is_available():
        raise InputError(f'--amp {precision} needs a GPU, and there is none; leave it out')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.dtype = {'bf16': 'bfloat16', 'fp16': 'float16'}[precision]
    cfg.optim_wrapper.loss_scale = 'dynamic' if precision == 'fp16' else 1.0


def _last_checkpoint(work_dir: Path) -> str | None:
    """The checkpoint to resume from; None where there is none yet, and training starts from the beginning.

    That is the one that `last_checkpoint` names or, should that be damaged or gone, the newest other one that is whole.
    """
    from repvit_dense.errors import InputError

    pointer = work_dir / 'last_checkpoint'
    if not pointer.is_file():
        return None
    named = Path(pointer.read_text().strip())
    others = [path for path in work_dir.iterdir() if RESUMABLE.fullmatch(path.name)]
    others.sort(key=lambda path: path.stat().st_mtime_ns, reverse=True)
    # By name first: the work dir may have been moved or copied.
    candidates = dict.fromkeys(path for path in (work_dir / named.name, named, *others) if path.is_file())
    for path in candidates:
        if _is_whole(path):
            return str(path)
        print(f'{path}: damaged, the one before it is tried', file=sys.stderr)
    what = 'which is damaged, and so is every other' if candidates else 'which is not there, and no other checkpoint is'
    raise InputError(f'{pointer} names {named}, {what}. Name a checkpoint: --resume CHECKPOINT')


def _is_whole(path: Path) -> bool:
    """Whether every part of a checkpoint has its checksum; torch does not look at them."""
    try:
        with ZipFile(path) as file:
            return file.testzip() is None
    except Exception:  # whatever the bytes in its place make of zipfile
        return False


def _find_checkpoint(given: str) -> str:
    """A file or URL as it is; of a work dir its best checkpoint, else its last."""
    from repvit_dense.errors import InputError

    path = Path(given)
    if not path.is_dir():
        return given
    best = sorted(path.glob('best_*.pth'), key=lambda file: file.stat().st_mtime)
    checkpoint = str(best[-1]) if best else _last_checkpoint(path)
    if checkpoint is None:
        raise InputError(f'{path}: no checkpoint in this folder; name a checkpoint file, or the work dir of a training')
    return checkpoint
