"""Change the length of a training, and everything in its config that is counted in epochs."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config


def set_epochs(cfg: 'Config', epochs: int) -> None:
    """Train for another number of epochs, with the schedule stretched or shortened in proportion.

    Learning-rate schedules by epoch, the epochs of hooks and of `train_cfg` are multiplied by `epochs / max_epochs` and
    rounded. The intervals of validation and checkpoints are at most `epochs`. Warm-up in iterations stays.

    Raises:
        InputError: `epochs` is below 1, or the config counts iterations.
    """
    if isinstance(epochs, bool) or not isinstance(epochs, int) or epochs < 1:
        raise InputError(f'--epochs {epochs}: must be a whole number of at least 1')
    train = cfg.get('train_cfg') or {}
    if 'max_epochs' not in train:
        raise InputError(
            f'--epochs {epochs}: {cfg.filename or "this config"} counts iterations, not epochs; use '
            '--cfg-options train_cfg.max_iters=N, and change the ends in param_scheduler with it'
        )
    old = train['max_epochs']

    def scale(epoch: int) -> int:  # rounded, halves up
        return (2 * epoch * epochs + old) // (2 * old)

    train['max_epochs'] = epochs
    if 'val_interval' in train:
        train['val_interval'] = min(train['val_interval'], epochs)
    if 'val_begin' in train:
        train['val_begin'] = max(1, scale(train['val_begin']))
    if train.get('dynamic_intervals'):
        train['dynamic_intervals'] = [
            (max(1, scale(epoch)), min(interval, epochs)) for epoch, interval in train['dynamic_intervals']
        ]
    schedulers = cfg.get('param_scheduler') or []
    for scheduler in [schedulers] if isinstance(schedulers, dict) else schedulers:
        if scheduler.get('by_epoch', True):
            _scale_scheduler(scheduler, scale, epochs)
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if checkpoint.get('by_epoch', True):
        if 'interval' in checkpoint:
            checkpoint['interval'] = min(checkpoint['interval'], epochs)
        if 'save_begin' in checkpoint:
            checkpoint['save_begin'] = scale(checkpoint['save_begin'])
    for hook in cfg.get('custom_hooks') or ():
        for key, value in hook.items():
            if {'epoch', 'epochs'} & set(key.split('_')) and isinstance(value, int) and not isinstance(value, bool):
                hook[key] = scale(value)


def _scale_scheduler(scheduler: dict, scale: Callable[[int], int], epochs: int) -> None:
    """Scale a schedule by epoch; it lasts at least one epoch, and milestones remain distinct and positive."""
    begin, end = scheduler.get('begin', 0), scheduler.get('end')
    new_begin = min(scale(begin), epochs - 1)
    if 'begin' in scheduler:
        scheduler['begin'] = new_begin
    if end is not None:
        scheduler['end'] = max(new_begin + 1, scale(end))
    for key in ('T_max', 'step_size', 'total_iters', 'total_steps'):
        if scheduler.get(key) is not None:
            spans_all = end is not None and scheduler[key] == end - begin
            scheduler[key] = scheduler['end'] - new_begin if spans_all else max(1, scale(scheduler[key]))
    for key in ('milestones', 'periods'):
        if scheduler.get(key):
            scheduler[key] = [max(1, scale(epoch)) for epoch in scheduler[key]]
    if scheduler.get('milestones'):
        scheduler['milestones'] = sorted(set(scheduler['milestones']))
