"""Change the length of a training and everything in its config that depends on it, and the learning rate."""

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from repvit_dense.config.images import epoch_length, why_uncounted
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config

WARM_UP = 10  # a warm-up takes at most this part of a training: a tenth
VALIDATIONS = 10  # a training whose iterations change is validated at most this often
LOGGED = 20  # a training has at least so many log entries
AVERAGED = 20  # averaged weights remember a part of the training: a twentieth
READ_QUICKLY = 30_000_000  # bytes of annotations that are read only to describe a schedule
SCHEDULE_NAMES = {
    'MultiStepLR': 'steps after {milestones}',
    'StepLR': 'steps',
    'CosineAnnealingLR': 'cosine',
    'PolyLR': 'polynomial decay',
    'LinearLR': 'linear decay',
    'ExponentialLR': 'exponential decay',
    'OneCycleLR': 'one cycle',
    'ReduceOnPlateauLR': 'steps on plateaus',
}


def set_epochs(cfg: 'Config', epochs: int, processes: int = 1) -> None:
    """Train for another number of epochs, with the schedule stretched or shortened in proportion.

    Numbers of epochs in the config are multiplied by `epochs / max_epochs` and rounded. If the config counts
    iterations, the epochs are converted by the number of training images. A warm-up in iterations stays, but takes at
    most a tenth of the training. The intervals of validation and checkpoints are at most the training.

    Args:
        cfg: the config.
        epochs: number of epochs.
        processes: of the training; together they train on `processes * batch_size` images per iteration.

    Raises:
        InputError: `epochs` is below 1, or the config counts iterations and the images cannot be counted.
    """
    _check_number('--epochs', epochs)
    iterations = epoch_length(cfg, processes)
    train = cfg.get('train_cfg') or {}
    if 'max_epochs' not in train:
        if not iterations:
            raise InputError(
                f'--epochs {epochs}: {cfg.filename or "this config"} counts iterations, and its training images cannot '
                f'be counted to convert epochs ({why_uncounted(cfg)}); use --iters N'
            )
        _set_iterations(cfg, epochs * iterations, epoch=iterations)
        return
    train.pop('max_iters', None)
    _set_epochs(cfg, epochs)
    if iterations:
        _scale_by_iteration(cfg, epochs * iterations)
        fit(cfg, epochs * iterations)


def set_iters(cfg: 'Config', iters: int, processes: int = 1) -> None:
    """Train for another number of iterations; see `set_epochs`.

    A config that counts epochs goes on doing so, in its last epoch up to the last iteration only. Its learning rate is
    then scheduled by iterations.

    Raises:
        InputError: `iters` is below 1, or the config counts epochs and the images cannot be counted, or its training
            loop is of an unknown kind.
    """
    _check_number('--iters', iters)
    train = cfg.get('train_cfg') or {}
    if 'max_epochs' not in train:
        _set_iterations(cfg, iters)
        return
    if train.get('type', 'EpochBasedTrainLoop') not in ('EpochBasedTrainLoop', 'DenseEpochLoop'):
        raise InputError(f'--iters {iters}: the loop {train.get("type")} counts epochs; use --epochs N')
    iterations = epoch_length(cfg, processes)
    if not iterations:
        raise InputError(
            f'--iters {iters}: {cfg.filename or "this config"} counts epochs, and its training images cannot be '
            f'counted to convert iterations ({why_uncounted(cfg)}); use --epochs N'
        )
    old = train['max_epochs']
    _scale_by_iteration(cfg, iters)
    for scheduler in schedulers(cfg):
        if scheduler.get('by_epoch', True):
            scheduler.setdefault('end', old)
            _scale_scheduler(scheduler, lambda epoch: _round(epoch, iters, old), iters)
            scheduler['by_epoch'] = False
            scheduler.pop('convert_to_iter_based', None)
    _set_epochs(cfg, math.ceil(iters / iterations))
    train.update(type='DenseEpochLoop', max_iters=iters)
    train.pop('by_epoch', None)
    fit(cfg, iters)


def _check_number(option: str, number: object) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise InputError(f'{option} {number}: must be a whole number of at least 1')


def _round(number: int, new: int, old: int) -> int:
    """Return `number * new / old`, rounded, halves up."""
    return (2 * number * new + old) // (2 * old)


def _set_epochs(cfg: 'Config', epochs: int) -> None:
    """Set the length of a training that counts epochs, and all that it counts in them."""
    train = cfg.train_cfg
    old, train['max_epochs'] = train['max_epochs'], epochs
    if 'val_interval' in train:
        train['val_interval'] = min(train['val_interval'], epochs)
    _scale_all(cfg, 'epoch', old, epochs)
    checkpoint = _hook(cfg, 'checkpoint')
    if checkpoint.get('by_epoch', True) and 'interval' in checkpoint:
        checkpoint['interval'] = min(checkpoint['interval'], epochs)


def _scale_by_iteration(cfg: 'Config', iters: int) -> None:
    """Let schedules by iteration, in a config that counts epochs, end with the training."""
    parts = [part for part in schedulers(cfg) if not part.get('by_epoch', True) and part.get('end')]
    parts = [part for part in parts if not is_warm_up(part)]
    old = max((part['end'] for part in parts), default=iters)
    starts = _starts(cfg, iters)
    for part in parts:
        _scale_scheduler(part, lambda number: _round(number, iters, old), iters, starts.get(part.get('begin')))


def _set_iterations(cfg: 'Config', iters: int, epoch: int = 1) -> None:
    """Set the length of a training that counts iterations.

    Args:
        cfg: the config.
        iters: number of iterations.
        epoch: intervals become a multiple of this number of iterations.
    """
    train = cfg.get('train_cfg') or {}
    old, train['max_iters'] = train.get('max_iters'), iters
    if not old:
        raise InputError('--iters, --epochs: the config has neither train_cfg.max_epochs nor train_cfg.max_iters')
    if old == iters:
        return
    _scale_all(cfg, 'iter', old, iters)
    interval = max(_round(train.get('val_interval', old), iters, old), -(-iters // VALIDATIONS))
    interval = min(-(-interval // epoch) * epoch, iters)
    train['val_interval'] = interval
    checkpoint = _hook(cfg, 'checkpoint')
    if not checkpoint.get('by_epoch', True) and checkpoint.get('interval', -1) > 0:
        checkpoint['interval'] = interval
    fit(cfg, iters)


def schedulers(cfg: 'Config') -> list[dict]:
    """Return the learning-rate schedules of a config."""
    parts = cfg.get('param_scheduler') or []
    return [parts] if isinstance(parts, dict) else list(parts)


def is_warm_up(scheduler: dict) -> bool:
    """Return whether a schedule only raises the learning rate at the start."""
    factor = scheduler.get('start_factor', scheduler.get('factor', 1 / 3))
    kind = str(scheduler.get('type'))
    starts = scheduler.get('begin', 0) == 0 and scheduler.get('end') is not None
    rises = kind.startswith(('LinearLR', 'ConstantLR', 'QuadraticWarmup')) and factor < scheduler.get('end_factor', 1)
    return starts and rises


def _hook(cfg: 'Config', name: str) -> dict:
    return (cfg.get('default_hooks') or {}).get(name) or {}


def _scale_all(cfg: 'Config', unit: str, old: int, new: int) -> None:
    """Scale everything that is counted in 'epoch' or 'iter', except warm-ups in iterations and intervals."""

    def scale(number: int) -> int:
        return _round(number, new, old)

    train, by_epoch = cfg.train_cfg, unit == 'epoch'
    starts = {} if by_epoch else _starts(cfg, new)
    if 'val_begin' in train:
        train['val_begin'] = max(1, scale(train['val_begin']))
    if train.get('dynamic_intervals'):
        train['dynamic_intervals'] = [
            (max(1, scale(begin)), min(interval, new)) for begin, interval in train['dynamic_intervals']
        ]
    for scheduler in schedulers(cfg):
        if scheduler.get('by_epoch', True) == by_epoch and (by_epoch or not is_warm_up(scheduler)):
            _scale_scheduler(scheduler, scale, new, starts.get(scheduler.get('begin')))
    checkpoint = _hook(cfg, 'checkpoint')
    if checkpoint.get('by_epoch', True) == by_epoch and 'save_begin' in checkpoint:
        checkpoint['save_begin'] = scale(checkpoint['save_begin'])
    for hook in cfg.get('custom_hooks') or ():
        for key, value in hook.items():
            if {unit, f'{unit}s'} & set(key.split('_')) and isinstance(value, int) and not isinstance(value, bool):
                hook[key] = scale(value)


def _starts(cfg: 'Config', iters: int) -> dict[int | None, int]:
    """Map the ends of warm-ups in iterations to those in a training of this length, at which others begin."""
    warm_ups = [part for part in schedulers(cfg) if not part.get('by_epoch', True) and is_warm_up(part)]
    return {part['end']: min(part['end'], max(1, iters // WARM_UP)) for part in warm_ups}


def _scale_scheduler(scheduler: dict, scale: Callable[[int], int], length: int, new_begin: int | None = None) -> None:
    """Scale a schedule; it lasts at least one epoch or iteration, and milestones remain distinct and positive."""
    begin, end = scheduler.get('begin', 0), scheduler.get('end')
    new_begin = min(scale(begin) if new_begin is None else new_begin, length - 1)
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
            scheduler[key] = [max(1, scale(number)) for number in scheduler[key]]
    if scheduler.get('milestones'):
        scheduler['milestones'] = sorted(set(scheduler['milestones']))


def fit(cfg: 'Config', iters: int) -> None:
    """Limit warm-up, log interval and the memory of averaged weights to a training of this many iterations."""
    starts = _starts(cfg, iters)
    for part in schedulers(cfg):
        if not part.get('by_epoch', True) and is_warm_up(part):
            part['end'] = starts[part['end']]
    for average in _averages(cfg):
        average['momentum'] = max(average.get('momentum', 0.0002), float(f'{min(0.5, AVERAGED / iters):.2g}'))
        if str(average.get('ema_type')).startswith('Exp'):
            average['gamma'] = max(1, min(average.get('gamma', 2000), iters // AVERAGED))
    logger = _hook(cfg, 'logger')
    if logger:
        logger['interval'] = min(logger.get('interval', 10), max(1, iters // LOGGED))


def _averages(cfg: 'Config') -> Iterator[dict]:
    return (hook for hook in cfg.get('custom_hooks') or () if str(hook.get('type')).endswith('EMAHook'))


def average_weights(cfg: 'Config') -> None:
    """Evaluate and save averages of the weights over the last part of the training, if the config does not yet."""
    if next(_averages(cfg), None) is None:
        # It forgets the weights that a training starts with, which matters if they are random.
        hook = {'type': 'EMAHook', 'ema_type': 'MomentumAnnealingEMA', 'gamma': AVERAGED, 'update_buffers': True}
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), hook]


def total_batch(cfg: 'Config', processes: int = 1) -> int | None:
    """Return the number of images that one step of the optimizer is computed from."""
    batch = (cfg.get('train_dataloader') or {}).get('batch_size')
    return batch and batch * processes * (cfg.get('optim_wrapper') or {}).get('accumulative_counts', 1)


def scale_lr(cfg: 'Config', processes: int = 1) -> str | None:
    """Scale the learning rate from the batch size that the config names as its base to the one of this training.

    With Adam and its kin the rate changes with the square root of the batch size (arXiv 2205.10287), with others in
    proportion to it (arXiv 1706.02677). The base becomes the batch size of this training.

    Returns:
        a text that says so; None if nothing changes.
    """
    scaling, batch = cfg.get('auto_scale_lr') or {}, total_batch(cfg, processes)
    base, optimizer = scaling.get('base_batch_size'), (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    if not (base and batch and optimizer.get('lr')) or base == batch or scaling.get('enable'):
        return None
    adaptive = any(name in str(optimizer.get('type')) for name in ('Adam', 'Lamb', 'LAMB', 'Lion', 'Adan'))
    factor = math.sqrt(batch / base) if adaptive else batch / base
    old = optimizer['lr']
    set_lr(cfg, float(f'{old * factor:.4g}'), processes)
    rule = 'by the square root' if adaptive else 'in proportion'
    return f'lr {optimizer["lr"]:g} for batches of {batch} ({old:g} for {base}, scaled {rule})'


def record_batch(cfg: 'Config', processes: int = 1) -> None:
    """Record that the learning rate is for the batch size of this training, so a run of the written config keeps it."""
    scaling, batch = cfg.get('auto_scale_lr') or {}, total_batch(cfg, processes)
    if scaling.get('base_batch_size') and batch and not scaling.get('enable'):
        scaling['base_batch_size'] = batch


def set_lr(cfg: 'Config', lr: float, processes: int = 1) -> None:
    """Set the learning rate; the lowest and highest rates of its schedules change in proportion."""
    optimizer = cfg.optim_wrapper.optimizer
    for scheduler in schedulers(cfg):
        if 'Momentum' in str(scheduler.get('type')):
            continue
        for key in ('eta_min', 'eta_max', 'min_value'):
            if isinstance(scheduler.get(key), int | float) and optimizer.get('lr'):
                scheduler[key] = float(f'{scheduler[key] * lr / optimizer.lr:.4g}')
    optimizer['lr'] = lr
    if cfg.get('auto_scale_lr'):
        cfg.auto_scale_lr['base_batch_size'] = total_batch(cfg, processes)


def describe(cfg: 'Config', processes: int = 1) -> str:
    """Return one line about length, batch size, learning rate and validation of a training."""
    train = cfg.get('train_cfg') or {}
    iterations = epoch_length(cfg, processes, READ_QUICKLY)
    epochs, iters = train.get('max_epochs'), train.get('max_iters')
    if iters:
        length = f'{iters:,} iterations' + (f' ({iters / iterations:.3g} epochs)' if iterations else '')
    else:
        length = f'{epochs} epoch{"s" if epochs != 1 else ""}' + (
            f' of {iterations:,} iterations' if iterations else ''
        )
    batch = (cfg.get('train_dataloader') or {}).get('batch_size')
    optimizer: dict[str, Any] = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    rate = f'lr {optimizer.get("lr", 0):g}' + _describe_decay(cfg)
    unit, interval = ('epoch', 'epochs') if epochs else ('iteration', 'iterations'), train.get('val_interval', 1)
    validation = f'validation every {unit[0] if interval == 1 else f"{interval} {unit[1]}"}'
    images = f'batch {batch}' + (f' x {processes} processes' if processes > 1 else '')
    return f'{length}, {images}, {optimizer.get("type")}, {rate}; {validation}'


def _describe_decay(cfg: 'Config') -> str:
    warm_ups = [part for part in schedulers(cfg) if is_warm_up(part)]
    others = [part for part in schedulers(cfg) if not is_warm_up(part)]
    text = ''
    if warm_ups:
        unit, number = ('epoch' if warm_ups[0].get('by_epoch', True) else 'iteration'), warm_ups[0]['end']
        text += f' after {number} warm-up {unit}{"s" if number > 1 else ""}'
    for part in others:
        name = SCHEDULE_NAMES.get(str(part.get('type')), str(part.get('type')))
        text += ', ' + name.format(milestones=' and '.join(map(str, part.get('milestones') or ())))
    return text
