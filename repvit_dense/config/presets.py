"""Apply the options of a training to its config; choose those left out for custom data by its number of images."""

import dataclasses
import math
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from repvit_dense.config import schedule, sizes
from repvit_dense.config.editing import UNFROZEN
from repvit_dense.config.images import Images, epoch_length, training_images
from repvit_dense.config.structure import nested
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config

# Training images below this number -> epochs. Small data sets are seen more often, so that 50 images are trained for
# some 600 iterations and 10,000 for 30,000. The last row is the length of the recipes for COCO's 117,000 images.
EPOCHS = ((100, 100), (500, 60), (2_000, 40), (10_000, 24), (50_000, 18), (math.inf, 12))
ON_CPU = 3  # a CPU trains a third of the epochs: one is 20 to 100 times slower than a GPU
FROM_SCRATCH = 2  # random weights need more steps than published ones
BATCH, CPU_BATCH = 8, 4
BATCH_PIXELS = 4_500_000  # of a batch at most: 4 images of 1333x800, 8 of 640x640
STEPS = 8  # iterations of an epoch at least: with few images, small batches give more steps
VALIDATIONS = 20
COMFORTABLE = 640  # pixels; photos are not enlarged or reduced to less than half of their size, up to this size
SMALL_OBJECT = 8  # pixels; a smaller one after resizing is a single cell of most detectors' finest feature map

# The fields of `Settings` that are options of `train`.
OPTIONS = ('epochs', 'iters', 'batch', 'size', 'lr', 'workers', 'freeze', 'patience', 'ema')
# Keys of the config that determine length and learning rate; the user's `--cfg-options` are left alone.
LENGTH_KEYS = ('train_cfg.max_epochs', 'train_cfg.max_iters', 'train_cfg.type', 'train_cfg.by_epoch', 'param_scheduler')
LR_KEYS = ('train_dataloader.batch_size', 'optim_wrapper.optimizer.lr')


@dataclasses.dataclass
class Settings:
    """The options of a training; None leaves a value to the preset for custom data, else to the config.

    Attributes:
        epochs, iters: length of the training.
        batch: images per process and iteration.
        size: number, or width and height, of pixels of the images.
        lr: learning rate.
        workers: processes that load data, per training process.
        freeze: 'backbone', number of frozen stages, or 'none'.
        patience: validations without improvement that end the training.
        ema: average the weights.
        trained: the training starts from the weights of a trained model.
        gpu: the training runs on GPUs.
        processes: number of training processes.
        keys: keys that `--cfg-options` sets; no preset changes them.
    """

    epochs: int | None = None
    iters: int | None = None
    batch: int | None = None
    size: int | tuple[int, int] | None = None
    lr: float | None = None
    workers: int | None = None
    freeze: str | int | None = None
    patience: int | None = None
    ema: bool = False
    trained: bool = False
    gpu: bool = False
    processes: int = 1
    keys: Iterable[str] = ()


def apply(cfg: 'Config', settings: Settings, custom_data: bool = False) -> list[str]:
    """Apply the options of a training to its config.

    Args:
        cfg: a config that holds its data already.
        settings: the options.
        custom_data: fill in the options that are left out by the number and size of the training images.

    Returns:
        lines for the screen: the values that nobody asked for.

    Raises:
        InputError: a value does not fit the config.
    """
    if settings.freeze is not None:
        freeze(cfg, settings.freeze)
    images = training_images(cfg) if custom_data else None
    notes, options = [], settings
    if images:
        settings, filled = _fill(cfg, settings, images)
        notes += [filled] if filled else []
    if settings.size is not None:
        sizes.set_size(cfg, settings.size)
    if images and options.size is None:
        notes += _size_notes(cfg, images)
    set_loaders(cfg, ('train',), settings.batch, None)
    set_loaders(cfg, ('train', 'val', 'test'), None, settings.workers)
    if settings.ema:
        schedule.average_weights(cfg)
    _set_length(cfg, settings)
    if settings.epochs != options.epochs:
        _set_intervals(cfg, settings)
    if settings.patience is not None:
        _stop_early(cfg, settings.patience)
    if settings.lr is not None:
        schedule.set_lr(cfg, settings.lr, settings.processes)
    elif not _overlap(settings.keys, LR_KEYS):
        text = schedule.scale_lr(cfg, settings.processes)
        notes += [f'{text}; --lr sets another'] if text else []
    return notes


def _overlap(keys: Iterable[str], others: Iterable[str]) -> bool:
    """Return whether a key is one of the others, or a part of it, or contains it."""
    pairs = ((f'{key}.', f'{other}.') for key in keys for other in others)
    return any(a.startswith(b) or b.startswith(a) for a, b in pairs)


def set_loaders(cfg: 'Config', splits: Iterable[str], batch: int | None, workers: int | None) -> None:
    """Set batch size and worker processes of data loaders; None leaves them."""
    for split in splits:
        loader = cfg.get(f'{split}_dataloader')
        if loader and batch is not None:
            loader['batch_size'] = batch
        if loader and workers is not None:
            loader['num_workers'] = workers
            if not workers:  # torch refuses both without workers
                loader['persistent_workers'] = False
                loader.pop('prefetch_factor', None)


def freeze(cfg: 'Config', part: str | int) -> None:
    """Freeze the backbone, its stem and first stages, or nothing.

    Raises:
        InputError: another word or number, or a backbone that cannot be frozen.
    """
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    values = {'backbone': 4, 'none': -1}
    stages = values.get(str(part), int(part) if str(part) in ('1', '2', '3', '4') else None)
    if stages is None:
        raise InputError(f"--freeze {part}: expected 'backbone', 'none', or a number of stages from 1 to 4")
    if not str(backbone.get('type')).startswith(('RepViT', 'Dense')):
        raise InputError(
            f'--freeze {part}: the backbone {backbone.get("type")} has other settings for this; use --cfg-options'
        )
    backbone.update(UNFROZEN if stages < 0 else {'frozen_stages': stages, 'norm_eval': True})


def thaw_random(cfg: 'Config', frozen: bool) -> str | None:
    """Let a backbone with random weights train: frozen, it would stay random.

    Args:
        cfg: the complete config of a training.
        frozen: whether the user asked for frozen stages.

    Returns:
        a text that says so; None if nothing changes.

    Raises:
        InputError: the user asked for frozen stages.
    """
    backbone = (cfg.get('model') or {}).get('backbone') or {}
    held = {key: value for key, value in UNFROZEN.items() if backbone.get(key, value) not in (value, None)}
    if not held or _has_weights(cfg):
        return None
    if frozen:
        raise InputError('--freeze: the backbone starts from random weights, which must not be frozen; leave it out')
    backbone.update(held)
    return 'the backbone starts from random weights, so no stage and no norm is frozen'


def _has_weights(cfg: 'Config') -> bool:
    model = cfg.get('model') or {}
    parts = (model, model.get('backbone') or {})
    inits = [init for part in parts for init in nested(part.get('init_cfg'))]
    published = any(init.get('type') == 'Pretrained' for init in inits) or any(part.get('pretrained') for part in parts)
    return bool(published or cfg.get('weights') or cfg.get('load_from') or cfg.get('resume'))


def _fill(cfg: 'Config', settings: Settings, images: Images) -> tuple[Settings, str]:
    """Return the settings with the values of the preset, and a text that names those."""
    keys, gpu = set(settings.keys), settings.gpu
    values: dict[str, int | tuple[int, int]] = {}
    if settings.size is None and not any('pipeline' in key or 'dataset' in key for key in keys):
        size = _size(cfg, images)
        if size:
            values['size'] = size
    if settings.batch is None and not _overlap(keys, LR_KEYS[:1]):
        pixels = values.get('size') or settings.size or sizes.training_size(cfg)
        values['batch'] = _batch(images, pixels, settings.processes, gpu)
    if settings.epochs is None and settings.iters is None and not _overlap(keys, LENGTH_KEYS):
        epochs = next(epochs for limit, epochs in EPOCHS if images.number < limit)
        values['epochs'] = (
            epochs * (1 if settings.trained or _has_weights(cfg) else FROM_SCRATCH) // (1 if gpu else ON_CPU)
        )
    if settings.workers is None and not any('workers' in key for key in keys):
        cores = os.cpu_count() or 1
        most = max(1, cores // settings.processes) if gpu else cores // 4
        workers = min((cfg.train_dataloader or {}).get('num_workers', 0), most)
        settings = dataclasses.replace(settings, workers=workers)
    if not values:
        return settings, ''
    shown = [f'{values["epochs"]} epochs'] if 'epochs' in values else []
    shown += [f'batch {values["batch"]}'] if 'batch' in values else []
    shown += [f'images of {_times(values["size"])}'] if 'size' in values else []
    options = [f'--{name}' for name in ('epochs', 'batch', 'size') if name in values]
    text = f'preset for {images.number:,} images: {", ".join(shown)}; change with {", ".join(options)}, --lr'
    return dataclasses.replace(settings, **values), text  # type: ignore[arg-type]


def _batch(images: Images, size: int | tuple[int, int] | None, processes: int, gpu: bool) -> int:
    """Return the images per process: a share of 8 on GPUs, 4 on CPUs, fewer if they are few or large."""
    width, height = (size, size) if isinstance(size, int) else size or (COMFORTABLE, COMFORTABLE)
    most = min((BATCH if gpu else CPU_BATCH), max(1, BATCH_PIXELS // (width * height)))
    return max(1, min(most, images.number // (STEPS * processes)))


def _size(cfg: 'Config', images: Images) -> int | None:
    """Return a size nearer to that of the images, if they are reduced to below half or enlarged above twice."""
    factor = images.size and sizes.scale_factor(cfg, images.size)
    if not factor or not images.size or 1 / 2 <= factor <= 2:
        return None
    side = _side(cfg, images.size)
    if factor > 2:
        return _multiple(2 * side)
    new = _multiple(min(side / 2, COMFORTABLE))
    return new if new > _side(cfg, sizes.training_size(cfg) or (0, 0)) else None


def _side(cfg: 'Config', size: tuple[int, int]) -> int:
    """Return the side of an image that the size of a config is compared with."""
    return min(size) if sizes.crops_images(cfg) else max(size)


def _multiple(pixels: float) -> int:
    return max(2, math.ceil(pixels / sizes.DIVISOR)) * sizes.DIVISOR


def _size_notes(cfg: 'Config', images: Images) -> list[str]:
    """Return a line if the images are trained at less than half, or at more than twice, of their size."""
    factor, new = images.size and sizes.scale_factor(cfg, images.size), sizes.training_size(cfg)
    if not factor or not images.size or not new:
        return []
    start = f'images are {_times(images.size)}, training at {_times(new)}'
    if factor < 0.49:  # rounding to a multiple is no reason
        larger = _multiple(min(_side(cfg, images.size), 2 * _side(cfg, new)))
        lost = round(SMALL_OBJECT / factor)
        return [f'{start}: objects under {lost} pixels vanish; --size {larger} shows more of them']
    if factor > 2.5:
        smaller = _multiple(_side(cfg, images.size))
        return [f'{start}: they are enlarged, which takes time and adds no detail; --size {smaller} is faster']
    return []


def _times(size: int | tuple[int, int]) -> str:
    return 'x'.join(map(str, (size, size) if isinstance(size, int) else size))


def _set_length(cfg: 'Config', settings: Settings) -> None:
    if settings.epochs is not None:
        schedule.set_epochs(cfg, settings.epochs, settings.processes)
    elif settings.iters is not None:
        schedule.set_iters(cfg, settings.iters, settings.processes)
    elif settings.ema:
        train, iterations = cfg.train_cfg, epoch_length(cfg, settings.processes, schedule.READ_QUICKLY)
        iters = train.get('max_iters') or (iterations and iterations * train.get('max_epochs', 1))
        if iters:
            schedule.fit(cfg, iters)


def _set_intervals(cfg: 'Config', settings: Settings) -> None:
    """Validate and save at most 20 times."""
    interval = max(1, (settings.epochs or 1) // VALIDATIONS)
    if 'max_epochs' not in cfg.train_cfg:
        interval *= epoch_length(cfg, settings.processes) or 1
    cfg.train_cfg['val_interval'] = interval
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if checkpoint.get('interval', -1) > 0:
        checkpoint['interval'] = interval


def _stop_early(cfg: 'Config', patience: int) -> None:
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    if not checkpoint.get('save_best') or not cfg.get('val_dataloader'):
        raise InputError(
            f'--patience {patience}: compares the scores of validations, but the config has no validation or no '
            'default_hooks.checkpoint.save_best'
        )
    cfg.custom_hooks = [*cfg.get('custom_hooks', []), {'type': 'DensePatienceHook', 'patience': patience}]
