"""Refuse to resume a training with other settings: its state would silently override some of them."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch.utils.data import DataLoader, Dataset

from repvit_dense.checkpoints.reading import CheckpointError
from repvit_dense.config import from_text
from repvit_dense.engine.plain import plain
from repvit_dense.errors import InputError, shorten

# Entries anywhere in a compared part that resuming may change: they take effect, or have had theirs at the start.
FREE = {'init_cfg', 'pretrained', 'test_cfg', 'num_workers', 'persistent_workers', 'pin_memory', 'prefetch_factor'}
# Places of the data, which may have moved; `describe_data` tells whether they are the same.
PLACES = {'data_root', 'data_prefix', 'ann_file', 'seg_prefix', 'outfile_prefix', 'backend_args', 'proposal_file'}
SAMPLES = 64  # of a data set are compared at most
REPAIRED = 0.1  # part of them that may differ: damaged images that were replaced, corrected annotations
SHOWN = 5  # differences in a message


def describe_data(dataset: Dataset) -> dict[str, Any]:
    """Return the number of samples, and checksums of names, sizes and annotations of some; None if it has no files."""
    count = len(dataset)
    checksums: list[int] = []
    try:
        for index in range(0, count, -(-count // SAMPLES)):
            info = dataset.get_data_info(index)
            path, annotations = info['img_path'], [info.get(key) for key in ('instances', 'segments_info')]
            size = os.path.getsize(path) if os.path.isfile(path) else None  # noqa: PTH113, PTH202  may be a URL
            content = repr((Path(path).name, size, plain(annotations, '', [])))
            checksums.append(zlib.crc32(content.encode(errors='replace')))
    except (AttributeError, KeyError, TypeError, ValueError):
        return {'samples': count, 'checksums': None}
    return {'samples': count, 'checksums': checksums}


def check_same_run(runner, filename: str, meta: dict) -> None:
    """Refuse a checkpoint of a training with other settings, data or number of processes.

    Args:
        runner: a runner whose data loaders exist.
        filename: the checkpoint.
        meta: its entry `meta`.

    Raises:
        CheckpointError: names the settings that differ, with both values.
    """
    differences = [
        *_config_differences(runner, filename, meta),
        *_data_differences(meta.get('data') or {}, data_of(runner)),
    ]
    seed = runner._randomness_cfg.get('seed')
    if None not in (seed, meta.get('seed')) and seed != meta['seed']:
        differences.append(f'randomness.seed (--seed): {meta["seed"]} there, {seed} now')
    if meta.get('world_size', runner.world_size) != runner.world_size:
        differences.append(f'number of processes: {meta["world_size"]} there, {runner.world_size} now')
    if differences:
        rest = f' and {len(differences) - SHOWN} more' if len(differences) > SHOWN else ''
        raise CheckpointError(
            f'{filename}: resuming continues the same training, but this one differs: '
            f'{"; ".join(differences[:SHOWN])}{rest}. Give the values of the checkpoint, or start a new training from '
            f'its weights: --from {filename} in place of --resume'
        )
    if meta.get('iter', 0) > runner.train_loop.max_iters:
        raise CheckpointError(
            f'{filename}: {meta["iter"]} iterations are trained already, and train_cfg asks for '
            f'{runner.train_loop.max_iters}; nothing is left to train'
        )


def data_of(runner) -> dict[str, dict]:
    """Return the descriptions of the training and validation data."""
    loops = {'training': runner.train_loop, 'validation': runner.val_loop}  # a training may have no validation
    loaders = {name: loop.dataloader for name, loop in loops.items() if loop is not None}
    return {name: describe_data(loader.dataset) for name, loader in loaders.items() if isinstance(loader, DataLoader)}


def _data_differences(old: dict, new: dict) -> Iterator[str]:
    for name in old.keys() & new.keys():
        before, now = old[name]['samples'], new[name]['samples']
        if before != now:
            yield f'{name} data: {before} images there, {now} now'
            continue
        pairs = list(zip(old[name]['checksums'] or (), new[name]['checksums'] or (), strict=False))
        differing = sum(a != b for a, b in pairs)
        if differing > REPAIRED * len(pairs):
            yield f'{name} data: {differing} of {len(pairs)} compared images have another name, size or annotations'


def _config_differences(runner, filename: str, meta: dict) -> Iterator[str]:
    if not runner.cfg.pretty_text.strip():  # a runner that was not built from a config
        return
    try:
        old, new = (from_text(text, filename).to_dict() for text in (meta['cfg'], runner.cfg.pretty_text))
    except (InputError, KeyError) as error:
        reason = 'no config' if isinstance(error, KeyError) else str(error)
        runner.logger.warning(f'{filename}: whether the settings are those of this training is unknown ({reason})')
        return
    before, now = settings(old), settings(new)
    for key in dict.fromkeys([*before, *now]):
        values = [cfg.get(key, 'not set') for cfg in (before, now)]
        if values[0] != values[1]:
            there, here = (shorten(value) for value in values)
            yield f'{key}: {there} there, {here} now'
    if _length(old) != _length(new):
        runner.logger.warning(
            f'The length of the training is {_length(new)} instead of {_length(old)}. The schedules of learning rate '
            'and momentum stay as they are; after their end both keep their last values'
        )


def _length(cfg: dict) -> str:
    train = cfg.get('train_cfg') or {}
    return f'{train["max_iters"]} iterations' if 'max_iters' in train else f'{train.get("max_epochs")} epochs'


def settings(cfg: dict) -> dict[str, Any]:
    """Return the settings that resuming must not change, by their dotted names."""
    return dict(_flat(_compared(cfg)))


def _compared(cfg: dict) -> dict[str, Any]:
    train, checkpoint = (cfg.get('train_cfg') or {}), (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    schedulers = cfg.get('param_scheduler') or []
    ends = {True: train.get('max_epochs'), False: train.get('max_iters')}
    schedulers = [  # mmengine ends a schedule with the training by default
        {'end': ends[s.get('by_epoch', True)], **s}
        for s in ([schedulers] if isinstance(schedulers, dict) else schedulers)
    ]
    scaling = cfg.get('auto_scale_lr') or {}
    return {
        **{key: cfg.get(key) for key in ('model', 'optim_wrapper', 'train_dataloader', 'val_evaluator')},
        'param_scheduler': schedulers,
        'train_cfg': {key: train.get(key) for key in ('type', 'by_epoch')},
        'val_dataloader': {'dataset': (cfg.get('val_dataloader') or {}).get('dataset')},
        'default_hooks': {'checkpoint': {key: checkpoint.get(key) for key in ('save_best', 'rule')}},
        'custom_hooks': [hook for hook in cfg.get('custom_hooks') or () if str(hook.get('type')).endswith('EMAHook')],
        'auto_scale_lr': scaling if scaling.get('enable') else None,
    }


def _flat(value: Any, key: str = '') -> Iterator[tuple[str, Any]]:
    """Yield (name, value) of all values in nested dictionaries and lists, without those that may change."""
    if isinstance(value, dict):
        for name, item in value.items():
            if name not in FREE | PLACES:
                yield from _flat(item, f'{key}.{name}' if key else name)
    elif isinstance(value, list | tuple) and any(isinstance(item, dict) for item in value):
        for i, item in enumerate(value):
            yield from _flat(item, f'{key}.{i}')
    else:
        yield key, list(value) if isinstance(value, tuple) else value
