"""`repvit-dense train`: train a model."""

import dataclasses
import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from repvit_dense import plugin
from repvit_dense.checkpoints.provenance import command_line
from repvit_dense.commands.base import RunOptions, check_checkpoint, keep_memory, open_run_config, preparing
from repvit_dense.commands.launcher import is_restarted, processes
from repvit_dense.commands.names import stands_for_model
from repvit_dense.compat.device import on_device
from repvit_dense.config import devices
from repvit_dense.errors import InputError
from repvit_dense.options import option, positive_number, whole_number
from repvit_dense.screen import say

if TYPE_CHECKING:
    from mmengine.config import Config


@dataclasses.dataclass
class Options(RunOptions):
    """Options of `train`."""

    _: dataclasses.KW_ONLY
    epochs: int | None = option(
        None,
        type=whole_number(1, 1_000_000),
        metavar='N',
        help='number of epochs; warm-up, decay and intervals of the config follow',
    )
    iters: int | None = option(
        None, type=whole_number(1, 1_000_000_000), metavar='N', help='number of iterations, in place of --epochs'
    )
    lr: float | None = option(
        None,
        type=positive_number,
        metavar='X',
        help='learning rate (default: that of the config, scaled with the batch size)',
    )
    freeze: str | int | None = option(
        None,
        metavar='backbone|N|none',
        help='freeze the backbone, its stem and first N stages (1 to 4), or nothing (default: as in the config)',
    )
    patience: int | None = option(
        None,
        type=whole_number(1, 1_000_000),
        metavar='N',
        help='stop after N validations without a better score',
    )
    ema: bool = option(False, help='evaluate and save averages of the weights over the last part of the training')
    weights: str | Path | None = option(
        None,
        flags=('--from',),
        metavar='WEIGHTS',
        help='start from all that fits of a work dir, checkpoint, URL or published model; layers of other classes '
        'start anew',
    )
    resume: str | Path | None = option(
        None,
        nargs='?',
        const='auto',
        metavar='CHECKPOINT',
        help='continue from CHECKPOINT or, without a value ("auto"), from the last one in the work dir',
    )
    amp: Literal['bf16', 'fp16'] | None = option(
        None, nargs='?', const='bf16', choices=('bf16', 'fp16'), help='mixed precision (bf16 without a value)'
    )
    checkpoint_every: str | None = option(
        None,
        metavar='N|Nm',
        help='also save every N iterations or N minutes (200, 5m); a killed training loses no more than that',
    )


@dataclasses.dataclass(frozen=True)
class Run:
    """The outcome of a training.

    Attributes:
        folder: work dir; `repvit_dense.load(folder)` loads the trained model.
        checkpoint: the best checkpoint by the validation score, else the last one; None if none was saved.
        scores: metrics of the last validation, by name.
    """

    folder: Path
    checkpoint: Path | None
    scores: dict[str, float]


def run(options: Options) -> Run:
    """Train a model.

    Raises:
        InputError: an option, the data or a checkpoint cannot be used; nothing was trained.
        repvit_dense.engine.guard.TrainingStopped: a signal or a non-finite loss ended the training.
    """
    command, start = command_line(options), options.weights  # names of models become paths below
    saving = _checkpoint_interval(options.checkpoint_every)
    if options.epochs is not None and options.iters is not None:
        raise InputError('--epochs and --iters both give the length of the training; give one of the two')
    notes: list[str] = []
    cfg = open_run_config(options, partial(_apply, options, notes))
    from repvit_dense import config
    from repvit_dense.config.schedule import record_batch

    record_batch(cfg, processes(options.launcher))
    notes += _thaw(cfg, options)  # before `_resume`: a resumed training has the settings of its start
    _resume(cfg, options.resume)
    _set_weights(cfg, options.weights)
    is_checked = config.check_data_early(cfg, ('train', 'val'))
    config.find_pretrained(cfg)
    plugin.load()
    if options.amp:
        _use_amp(cfg, options.amp, options.device)
    if saving:
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), {'type': 'DenseRecentCheckpointHook', **saving}]
    config.check_settings(cfg, ('train', 'val'))
    check_checkpoint(cfg)
    config.check_start(cfg)
    if not is_checked:
        config.prepare_data(cfg)
        config.check_data(cfg, ('train', 'val'))
    for note in notes:
        say(note)

    from repvit_dense.engine.runner import DenseRunner

    try:
        with on_device(options.device), keep_memory():
            with preparing():
                runner = DenseRunner.from_cfg(cfg)
                runner.record.name(command, options.data, start)
            with preparing(lambda: 'max_iters' in runner.message_hub.runtime_info):
                runner.train()
    except RuntimeError as error:
        _explain_deterministic(error)
        raise
    return _outcome(Path(cfg.work_dir))


def _apply(options: Options, notes: list[str], cfg: 'Config') -> None:
    """Apply the options of the training, and a preset for custom data; add a note for each value that is chosen."""
    from repvit_dense import config
    from repvit_dense.config import presets
    from repvit_dense.data.layouts.named import NAMES

    if cfg.get('resume') and stands_for_model(options.config):  # so was the last start of that training
        cfg.resume, cfg.load_from = False, None
    if options.offline and not options.weights:
        config.find_pretrained(cfg)
    settings = presets.Settings(
        **{key: getattr(options, key) for key in presets.OPTIONS},
        trained=options.weights is not None,
        gpu=options.device != 'cpu' and devices.count() > 0,
        processes=processes(options.launcher),
        keys={text.partition('=')[0] for text in options.cfg_options or ()},
    )
    custom_data = options.data is not None and str(options.data) not in NAMES
    if custom_data and _is_data_of(options, cfg):
        notes.append(
            'the data has the classes of the config, so length, batch size and learning rate of the config stay'
        )
        custom_data = False
    notes += presets.apply(cfg, settings, custom_data)


def _is_data_of(options: Options, cfg: 'Config') -> bool:
    """Return whether a config that is no work dir was written for data with the classes of `--data`."""
    from repvit_dense import config
    from repvit_dense.config.structure import class_names

    if stands_for_model(options.config):
        return False
    names = class_names(config.load(options.config))
    return bool(names) and names == class_names(cfg)


def _thaw(cfg: 'Config', options: Options) -> list[str]:
    """Let random weights train; `--freeze` refuses them."""
    from repvit_dense.config.presets import thaw_random

    note = None if options.weights else thaw_random(cfg, frozen=options.freeze not in (None, 'none'))
    return [note] if note else []


def _outcome(folder: Path) -> Run:
    from repvit_dense.checkpoints.work_dir import best_checkpoint, last_checkpoint
    from repvit_dense.engine.curves import read_scalars

    checkpoint = best_checkpoint(folder) or last_checkpoint(folder)
    _, scores = read_scalars(folder)
    metrics = {name: value for name, value in scores[-1].items() if name not in TIMES} if scores else {}
    return Run(folder, Path(checkpoint) if checkpoint else None, metrics)


TIMES = ('step', 'iter', 'time', 'data_time')  # logged beside the metrics


def _checkpoint_interval(text: str | None) -> dict[str, int]:
    """Convert '200' or '5m' to arguments of DenseRecentCheckpointHook; {} for None."""
    if text is None:
        return {}
    match = re.fullmatch(r'0{0,9}([1-9][0-9]{0,8})(m?)', str(text))
    if not match:
        raise InputError(
            f"--checkpoint-every {text}: '{text}' is neither a number of iterations (200) nor of minutes (5m)"
        )
    return {'minutes' if match[2] else 'iterations': int(match[1])}


def _resume(cfg: 'Config', resume: str | Path | None) -> None:
    """Set the checkpoint to continue from; after torchrun restarted a dead job it is the last one."""
    from repvit_dense.checkpoints.work_dir import last_checkpoint

    restarted = is_restarted()
    last = last_checkpoint(cfg.work_dir) if restarted or resume == 'auto' else None
    checkpoint = last or (str(resume) if resume and resume != 'auto' else None)
    if checkpoint:
        cfg.resume, cfg.load_from = True, checkpoint
    elif resume or restarted:
        say(f'{cfg.work_dir}: no checkpoint to continue from, training starts from the beginning')


def _set_weights(cfg: 'Config', weights: str | Path | None) -> None:
    """Set the weights to start from, which replace published ones of parts; a resumed training ignores them."""
    from repvit_dense.checkpoints.work_dir import find_checkpoint
    from repvit_dense.config import drop_pretrained

    if weights:
        cfg.weights = find_checkpoint(str(weights))
    if not cfg.get('weights') or cfg.get('resume'):
        return
    if cfg.get('load_from'):
        raise InputError(
            f'load_from = {cfg.load_from} and weights = {cfg.weights} (--from): both say where the training starts; '
            'give one of the two'
        )
    drop_pretrained(cfg)


def _use_amp(cfg: 'Config', precision: str, device: str | None) -> None:
    import torch

    if device == 'cpu' or not torch.cuda.is_available():
        raise InputError(f'--amp {precision} needs a GPU, and there is none; leave it out')
    cfg.optim_wrapper.type = 'AmpOptimWrapper'
    cfg.optim_wrapper.dtype = {'bf16': 'bfloat16', 'fp16': 'float16'}[precision]
    cfg.optim_wrapper.loss_scale = 'dynamic' if precision == 'fp16' else 1.0


def _explain_deterministic(error: RuntimeError) -> None:
    """Explain that torch has no deterministic form of some GPU operations: RoIAlign, Mask2Former's point samples."""
    operation, separator, _ = str(error).partition(' does not have a deterministic implementation')
    if separator:
        raise InputError(
            f'--deterministic: {operation} of this model is not deterministic on a GPU. Leave --deterministic out '
            '(--seed still fixes data and initial weights), or train on the CPU: CUDA_VISIBLE_DEVICES='
        ) from error
