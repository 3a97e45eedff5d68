"""Refuse values of a config that a training or test cannot use."""

import math
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from repvit_dense.config.structure import class_heads, metrics, scope
from repvit_dense.errors import InputError, shorten
from repvit_dense.screen import say

if TYPE_CHECKING:
    from mmengine.config import Config

LARGEST_SEED = 2**32 - 1
LOG_LEVELS = ('DEBUG', 'INFO', 'WARNING', 'ERROR', 'CRITICAL')
START_METHODS = ('fork', 'spawn', 'forkserver')


class Limit(NamedTuple):
    """The values that a number of a config may have.

    Attributes:
        minimum: smallest value.
        maximum: largest value.
        is_whole: only integers.
        is_exclusive: the minimum itself is refused.
        others: further values that are accepted.
    """

    minimum: float
    maximum: float = math.inf
    is_whole: bool = True
    is_exclusive: bool = False
    others: tuple[object, ...] = ()

    def __str__(self) -> str:
        kind = 'a whole number' if self.is_whole else 'a number'
        if self.maximum < math.inf and self.is_exclusive:
            return f'{kind} above {self.minimum}, at most {self.maximum}'
        if self.maximum < math.inf:
            return f'{kind} from {self.minimum} to {self.maximum}'
        return f'{kind} above {self.minimum}' if self.is_exclusive else f'{kind} of at least {self.minimum}'

    def allows(self, value: object) -> bool:
        """Return whether a value is within the limit."""
        if not isinstance(value, bool) and value in self.others:
            return True
        if isinstance(value, bool) or not isinstance(value, int if self.is_whole else int | float):
            return False
        return (value > self.minimum if self.is_exclusive else value >= self.minimum) and value <= min(
            self.maximum, sys.float_info.max
        )


LEVELS = ('', '[]', '[][]')  # a number, or one in a list
COUNT, FROM_ZERO, MAYBE_COUNT = Limit(1), Limit(0), Limit(1, others=(None,))
POSITIVE, NOT_NEGATIVE = Limit(0, is_whole=False, is_exclusive=True), Limit(0, is_whole=False)
SHARE = Limit(0, 1, is_whole=False)
SIZE = Limit(0, 65_536, is_whole=False, is_exclusive=True, others=(-1, math.inf, None))  # of an image, in pixels
LOADER = {
    'batch_size': Limit(1, 65_536),
    'num_workers': Limit(0, 1024),
    **{f'{name}{level}': SIZE for name in ('crop_size', 'img_scale', 'scale', 'scales', 'size') for level in LEVELS},
    'prefetch_factor': MAYBE_COUNT,
    'min_size': NOT_NEGATIVE,
    'num_batch_per_epoch': MAYBE_COUNT,
    'times': COUNT,
}
SCHEDULE = {
    'begin': FROM_ZERO,
    'end': COUNT,
    'T_max': MAYBE_COUNT,
    'step_size': COUNT,
    'total_iters': COUNT,
    'gamma': POSITIVE,
    'start_factor': POSITIVE,
    'eta_min': Limit(0, is_whole=False, others=(None,)),
    'power': POSITIVE,
}
# Section -> last key or whole path -> limit; the key may stand anywhere in the section.
LIMITS = {
    'model': {
        'drop_path_rate': SHARE,
        'loss_weight': NOT_NEGATIVE,
        'num': Limit(1, others=(-1,)),
        'max_per_img': Limit(1, others=(-1,)),
        'iou_threshold': SHARE,
        **dict.fromkeys(('channels', 'feat_channels', 'out_channels', 'pad_size_divisor', 'size_divisor'), MAYBE_COUNT),
    },
    'train_dataloader': LOADER,
    'val_dataloader': LOADER,
    'test_dataloader': LOADER,
    'train_cfg': {
        'max_epochs': Limit(1, 10**12),
        'max_iters': Limit(1, 10**12),
        'val_interval': Limit(1, is_whole=False),
        'val_begin': FROM_ZERO,
    },
    'optim_wrapper': {
        'lr': POSITIVE,
        'weight_decay': NOT_NEGATIVE,
        'momentum': SHARE,
        'eps': POSITIVE,
        'accumulative_counts': COUNT,
        'max_norm': POSITIVE,
        'lr_mult': NOT_NEGATIVE,
        'decay_mult': NOT_NEGATIVE,
    },
    'param_scheduler': SCHEDULE,
    'default_hooks': {'max_keep_ckpts': Limit(1, others=(-1,)), 'interval': Limit(1, others=(-1,))},
    'randomness': {'seed': Limit(0, LARGEST_SEED, others=(None,))},
    'auto_scale_lr': {'base_batch_size': MAYBE_COUNT},
    'log_processor': {'window_size': Limit(1, others=('epoch', 'global')), 'log_processor.window_size': COUNT},
}
NEEDED = {
    'train': ('train_dataloader', 'train_cfg', 'optim_wrapper'),
    'val': ('val_dataloader', 'val_cfg', 'val_evaluator'),
    'test': ('test_dataloader', 'test_cfg', 'test_evaluator'),
}


def check_sections(cfg: 'Config', splits: Sequence[str] = ()) -> None:
    """Refuse a config without a model, or without a section that a training, validation or test needs.

    Raises:
        InputError: names the section.
    """
    name = cfg.filename or 'this config'
    if not isinstance(cfg.get('model'), dict) or not cfg.model:
        raise InputError(f'{name}: has no model; name the config of a whole detector or segmentor')
    for split, sections in NEEDED.items():
        missing = [section for section in sections if cfg.get(section) is None]
        required = split in splits and not (split == 'val' and len(missing) == len(sections))
        if missing and (required or 0 < len(missing) < len(sections)):
            raise InputError(f'{name}: has no {missing[0]}, which {split}ing needs'.replace('valing', 'validation'))
        for section in sections:
            kinds = (dict, list, tuple) if section.endswith('evaluator') else (dict,)
            if cfg.get(section) is not None and not isinstance(cfg[section], kinds):
                raise InputError(f'{section} = {shorten(repr(cfg[section]))}: must be a dictionary')
        loader = cfg.get(f'{split}_dataloader')
        if loader and not isinstance(loader.get('dataset'), dict):
            raise InputError(
                f'{split}_dataloader.dataset = {shorten(repr(loader.get("dataset")))}: must be a dictionary'
            )
        if loader and not isinstance(loader.get('sampler'), dict):
            raise InputError(f'{split}_dataloader: has no sampler')
        if loader and not isinstance(loader.get('batch_sampler'), dict | None):
            raise InputError(
                f'{split}_dataloader.batch_sampler = {loader.batch_sampler!r}: must be a dictionary or None'
            )
    hooks = cfg.get('custom_hooks')
    if hooks is not None and not isinstance(hooks, list | tuple):
        raise InputError(f'custom_hooks = {shorten(repr(hooks))}: must be a list of dictionaries, each with a type')
    for key in ('work_dir', 'load_from', 'weights', 'experiment_name', 'default_scope'):
        if not isinstance(cfg.get(key), str | None):
            raise InputError(f'{key} = {shorten(repr(cfg[key]))}: must be text')
    for section in ('default_hooks', 'randomness', 'env_cfg', 'auto_scale_lr'):
        if not isinstance(cfg.get(section), dict | None):
            raise InputError(f'{section} = {shorten(repr(cfg[section]))}: must be a dictionary')
    stated = cfg.get('provenance') or {}
    if not isinstance(stated, dict) or not all(isinstance(text, str) for text in stated.values()):
        raise InputError(f'provenance = {shorten(repr(stated))}: must be a dictionary of texts')


def check_values(cfg: 'Config') -> None:
    """Refuse numbers that no training or test can use, such as a batch size of 0 or a learning rate that is NaN.

    Raises:
        InputError: names the key, its value and the values that are possible.
    """
    for section in cfg:
        for path, key, value in _leaves(cfg[section], section):
            limits = LIMITS.get(section, {})
            limit = limits.get(path, limits.get(key))
            if limit and not limit.allows(value):
                raise InputError(f'{path} = {shorten(repr(value))}: must be {limit}')
            if isinstance(value, float) and math.isnan(value):
                raise InputError(f'{path} = nan: is not a number')
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader') or {}
        if loader.get('persistent_workers') and not loader.get('num_workers'):
            raise InputError(
                f'{split}_dataloader.persistent_workers = True: needs num_workers of at least 1. '
                f'Set it: --cfg-options {split}_dataloader.persistent_workers=False'
            )
        for metric in metrics(cfg, split):
            if not isinstance(metric, dict):
                raise InputError(f'{split}_evaluator = {metric!r}: must be a dictionary with a type')
        if loader and not any(step.get('type') for step in _pipelines(loader.get('dataset'))):
            raise InputError(f'{split}_dataloader.dataset: has no pipeline, which loads and packs the images')
    _check_words(cfg)
    _check_ends(cfg)
    _check_unit(cfg)
    _check_schedule(cfg)
    _check_class_weights(cfg)
    _check_normalisation(cfg)


def _pipelines(dataset: Any) -> Iterator[dict]:
    """Yield the transforms of a data set and of the data sets inside it."""
    if isinstance(dataset, dict):
        yield from (step for step in dataset.get('pipeline') or () if isinstance(step, dict))
        for part in (dataset.get('dataset'), *(dataset.get('datasets') or ())):
            yield from _pipelines(part)


def _check_words(cfg: 'Config') -> None:
    """Refuse words of which mmengine and mmseg know only a few."""
    environment = (cfg.get('env_cfg') or {}).get('mp_cfg') or {}
    test = cfg.model.get('test_cfg') or {}
    clipping = (cfg.get('optim_wrapper') or {}).get('clip_grad') or {}
    words = [
        ('log_level', cfg.get('log_level', 'INFO'), LOG_LEVELS),
        ('optim_wrapper.clip_grad.type', clipping.get('type', 'norm'), ('norm', 'value')),
        ('env_cfg.mp_cfg.mp_start_method', environment.get('mp_start_method', 'fork'), (*START_METHODS, None)),
    ]
    if scope(cfg) == 'mmseg':
        words.append(('model.test_cfg.mode', test.get('mode', 'whole'), ('whole', 'slide')))
        if test.get('mode') == 'slide' and not (test.get('crop_size') and test.get('stride')):
            raise InputError("model.test_cfg: mode='slide' needs crop_size and stride")
    for path, word, known in words:
        if word not in known:
            names = ', '.join(map(str, known))
            raise InputError(f'{path} = {shorten(repr(word))}: must be one of {names}')


def _leaves(value: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """Yield path, innermost key and value of everything that is no dictionary; the numbers of a list one by one."""
    stack: list[tuple[str, str, Any]] = [(path, path, value)]
    while stack:
        path, key, value = stack.pop()
        if isinstance(value, dict):
            stack += [(f'{path}.{name}', str(name), part) for name, part in value.items()]
        elif isinstance(value, list | tuple):
            stack += [(f'{path}.{i}', f'{key}[]', part) for i, part in enumerate(value)]
        else:
            yield path, key, value


def _check_ends(cfg: 'Config') -> None:
    """Refuse a loop over a sampler that never ends."""
    by_epoch = 'max_epochs' in (cfg.get('train_cfg') or {})
    for split in ('train', 'val', 'test'):
        loader = cfg.get(f'{split}_dataloader') or {}
        endless = [
            key for key in ('sampler', 'batch_sampler') if 'Infinite' in str((loader.get(key) or {}).get('type'))
        ]
        if endless and (split != 'train' or by_epoch):
            reason = 'an epoch would never end' if split == 'train' else 'the evaluation would never end'
            raise InputError(
                f'{split}_dataloader.{endless[0]}.type = {loader[endless[0]].type!r}: {reason}; use DefaultSampler'
            )


def _check_unit(cfg: 'Config') -> None:
    """Refuse what counts epochs in a training that counts iterations: it would never happen."""
    train = cfg.get('train_cfg') or {}
    if 'max_iters' not in train or 'max_epochs' in train:
        return
    schedulers = cfg.get('param_scheduler') or []
    named = {f'param_scheduler.{i}': part for i, part in enumerate(schedulers) if isinstance(schedulers, list)}
    # mmengine saves once per epoch unless told otherwise, and not at all if the hook is None.
    checkpoint = (cfg.get('default_hooks') or {}).get('checkpoint', {})
    if checkpoint is not None:
        named['default_hooks.checkpoint'] = checkpoint
    for path, part in named.items():
        if part.get('by_epoch', True) and not _happens_anyway(part):
            raise InputError(
                f'{path}.by_epoch = {part.get("by_epoch", "True (the default)")}: the training counts iterations '
                f'(train_cfg.max_iters), so this would never happen. Set it: --cfg-options {path}.by_epoch=False'
            )


def _happens_anyway(part: dict) -> bool:
    """Return whether a schedule acts after validations, or is converted from epochs to iterations."""
    return 'OnPlateau' in str(part.get('type')) or bool(part.get('convert_to_iter_based') and part.get('end'))


def _check_schedule(cfg: 'Config') -> None:
    train = cfg.get('train_cfg') or {}
    schedulers = cfg.get('param_scheduler') or []
    for i, scheduler in enumerate([schedulers] if isinstance(schedulers, dict) else schedulers):
        by_epoch = scheduler.get('by_epoch', True)
        length = train.get('max_epochs' if by_epoch else 'max_iters')
        path = f'param_scheduler.{i}'
        if scheduler.get('end') is not None and scheduler['end'] <= scheduler.get('begin', 0):
            raise InputError(f'{path}: ends at {scheduler["end"]}, before it begins at {scheduler.get("begin", 0)}')
        milestones = scheduler.get('milestones') or []
        if not isinstance(milestones, list | tuple) or not all(FROM_ZERO.allows(step) for step in milestones):
            raise InputError(f'{path}.milestones = {milestones}: must be a list of whole numbers of at least 0')
        late = [step for step in milestones if length and step >= length]
        if late:
            unit = 'epochs' if by_epoch else 'iterations'
            say(
                f'warning: {path}.milestones: the training ends after {length} {unit}, so the learning rate does not '
                f'change at {", ".join(map(str, late))}'
            )


def _check_class_weights(cfg: 'Config') -> None:
    """Refuse a list of class weights that has not one number per class."""
    for path, part in class_heads(cfg.model):
        classes = part.get('num_classes')
        if classes is None or 'out_channels' in part:
            continue
        if not COUNT.allows(classes):
            raise InputError(f'{path}.num_classes = {shorten(repr(classes))}: must be {COUNT}')
        for name, losses in part.items():
            for loss in losses if isinstance(losses, list | tuple) else [losses]:
                weights = loss.get('class_weight') if isinstance(loss, dict) else None
                if not isinstance(weights, list | tuple):
                    continue
                background = name == 'loss_cls' and not loss.get('use_sigmoid')
                if isinstance(losses, list | tuple) and len(weights) == classes + 1:
                    continue  # a head with several losses, one of them over its queries
                if len(weights) != classes + background:
                    note = ', the last for the background' if background else ''
                    raise InputError(
                        f'{path}.{name}.class_weight has {len(weights)} numbers, but {classes + background} are '
                        f'needed: one for each of the {classes} classes{note}'
                    )
                if not all(NOT_NEGATIVE.allows(weight) for weight in weights):
                    raise InputError(f'{path}.{name}.class_weight: must be numbers of at least 0')


def _check_normalisation(cfg: 'Config') -> None:
    processor = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor') or {}
    mean, std = processor.get('mean'), processor.get('std')
    for name, values in (('mean', mean), ('std', std)):
        limit = POSITIVE if name == 'std' else Limit(-math.inf, is_whole=False)
        if values is None:
            continue
        if not isinstance(values, list | tuple) or not all(limit.allows(value) for value in values):
            raise InputError(f'model.data_preprocessor.{name} = {values!r}: must be a list of numbers per channel')
    size = processor.get('size')
    for side in size if isinstance(size, list | tuple) else [size]:
        if side is not None and not SIZE.allows(side):
            raise InputError(f'model.data_preprocessor.size = {size}: must be {SIZE}')
    if len(mean or ()) != len(std or ()):
        raise InputError('model.data_preprocessor: mean and std must have one number per channel each')
