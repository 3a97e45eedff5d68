"""`repvit-dense train`: train a model."""

import dataclasses
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from repvit_dense.commands.base import RunOptions, check_checkpoint, keep_memory, open_run_config, preparing
from repvit_dense.errors import InputError
from repvit_dense.options import option, whole_number

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
        help='number of epochs; the schedule of the config is scaled to it',
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
    auto_scale_lr: bool = option(False, help='scale the learning rate with the total batch size')
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
    saving = _checkpoint_interval(options.checkpoint_every)
    cfg = open_run_config(options)
    from repvit_dense.config import check_data, check_settings, prepare_data

    if options.amp:
        _use_amp(cfg, options.amp)
    if options.auto_scale_lr:
        _scale_lr(cfg)
    if saving:
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), {'type': 'DenseRecentCheckpointHook', **saving}]
    check_settings(cfg, ('train', 'val'))
    _resume(cfg, options.resume)
    check_checkpoint(cfg)
    prepare_data(cfg)
    check_data(cfg, ('train', 'val'))

    from repvit_dense.engine.runner import DenseRunner

    try:
        with keep_memory():
            with preparing():
                runner = DenseRunner.from_cfg(cfg)
            with preparing(lambda: 'max_iters' in runner.message_hub.runtime_info):
                runner.train()
    except RuntimeError as error:
        _explain_deterministic(error)
        raise
    return _outcome(Path(cfg.work_dir))


def _outcome(folder: Path) -> Run:
    from repvit_dense.checkpoints.work_dir import best_checkpoint, last_checkpoint
    from repvit_dense.engine.curves import read_scalars

    checkpoint = best_checkpoint(folder) or last_checkpoint(folder)
    _, scores = read_scalars(folder)
    metrics = {name: value for name, value in scores[-1].items() if name not in TIMES} if scores else {}
    return Run(folder, Path(checkpoint) if checkpoint else None, metrics)


TIMES = ('step', 'time', 'data_time')  # logged beside the metrics


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

    restarts = os.environ.get('TORCHELASTIC_RESTART_COUNT', '')
    restarted = restarts.isdecimal() and restarts.strip('0') != ''
    last = last_checkpoint(cfg.work_dir) if restarted or resume == 'auto' else None
    checkpoint = last or (str(resume) if resume and resume != 'auto' else None)
    if checkpoint:
        cfg.resume, cfg.load_from = True, checkpoint
    elif resume or restarted:
        print(f'{cfg.work_dir}: no checkpoint to continue from, training starts from the beginning', file=sys.stderr)


def _scale_lr(cfg: 'Config') -> None:
    if not cfg.get('auto_scale_lr', {}).get('base_batch_size'):
        raise InputError(
            '--auto-scale-lr needs the batch size that the learning rate of this config was chosen for: '
            '--cfg-options auto_scale_lr.base_batch_size=16'
        )
    cfg.auto_scale_lr.enable = True


def _use_amp(cfg: 'Config', precision: str) -> None:
    import torch

    if not torch.cuda.is_available():
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
