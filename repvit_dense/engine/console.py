"""Text about a run for the screen: its header, a line per validation, the table of results, and the next commands."""

import os
import shlex
import shutil
import sys
import textwrap
from collections.abc import Iterator
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_world_size
from mmengine.model import is_model_wrapper
from mmengine.runner import BaseLoop

from repvit_dense.config import schedule
from repvit_dense.engine import per_class
from repvit_dense.engine.fusing import DenseFuseHook
from repvit_dense.errors import shorten
from repvit_dense.files import is_folder
from repvit_dense.screen import columns

NAMED = 5  # classes that the header names
# Ends of the names of scores that are shown after a validation; those in `PERCENT` are percentages.
MAIN = ('mAP', 'mAP_50', 'mIoU', 'PQ')
PERCENT = ('IoU', 'Acc', 'PQ', 'SQ', 'RQ', 'Dice', 'Fscore', 'Precision', 'Recall', 'share')
VERBS = ('test', 'predict', 'export')
WORDS = {'bbox_': 'box ', 'segm_': 'mask ', 'mAP_': 'AP'}


def is_training(runner) -> bool:
    """Return whether a runner trains, as opposed to a validation or a test by itself."""
    loop = runner._train_loop
    return isinstance(loop, BaseLoop) and loop.iter < loop.max_iters


def header(runner) -> str:
    """Describe a run: data, model, weights, schedule, device and folders, one line each."""
    model = _model(runner)
    if is_training(runner):
        data, val = runner._train_loop.dataloader.dataset, runner._val_loop
        parts = [_images(data, 'training images')]
        parts += [_images(val.dataloader.dataset, 'for validation')] if isinstance(val, BaseLoop) else []
        rows = [('data', _data(data, parts)), ('model', model), ('weights', _weights(runner))]
        rows += [('schedule', _schedule(runner)), ('device', _device(runner)), ('work dir', runner.work_dir)]
    else:
        loop = runner._test_loop if isinstance(runner._test_loop, BaseLoop) else runner._val_loop
        fused = ', fused' if any(isinstance(hook, DenseFuseHook) for hook in runner.hooks) else ''
        weights = f', weights of {runner._load_from}' if runner._load_from else ''
        rows = [('data', _data(loop.dataloader.dataset, [_images(loop.dataloader.dataset, 'images')]))]
        rows += [('model', model + fused + weights)]
    if getattr(runner.logger, 'log_file', None):
        rows.append(('log', f'{runner.logger.log_file} (everything else)'))
    width = shutil.get_terminal_size((1000, 24)).columns  # without a terminal nothing is wrapped
    indent = ' ' * (max(len(title) for title, _ in rows) + 2)
    wrap = partial(textwrap.wrap, width=width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return '\n'.join(line for row in columns(rows).splitlines() for line in wrap(row))


def _sources(dataset: Any) -> Iterator[Any]:
    """Yield the data sets inside wrappers such as RepeatDataset and ConcatDataset."""
    inner = getattr(dataset, 'datasets', None) or [getattr(dataset, 'dataset', None)]
    if inner[0] is None:
        yield dataset
        return
    for each in inner:
        yield from _sources(each)


def _images(dataset: Any, noun: str) -> str:
    return f'{sum(map(len, _sources(dataset))):,} {noun}'


def _data(dataset: Any, parts: list[str]) -> str:
    folders = dict.fromkeys(str(getattr(each, 'data_root', None) or '') for each in _sources(dataset))
    place = ' + '.join(folder for folder in folders if folder)
    classes = list((getattr(dataset, 'metainfo', None) or {}).get('classes') or ())
    names = ', '.join(shorten(name, 30) for name in classes[:NAMED]) + (', ...' if len(classes) > NAMED else '')
    count = '1 class' if len(classes) == 1 else f'{len(classes)} classes'
    return (f'{place}: ' if place else '') + ', '.join([*parts, f'{count} ({names})'] if classes else parts)


def _model(runner) -> str:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    if hasattr(model, 'predictor'):
        return f'artifact {model.predictor.folder}'
    parameters = sum(parameter.numel() for parameter in model.parameters())
    backbone = (runner.cfg.get('model') or {}).get('backbone') or {}
    names = [backbone.get('type'), backbone.get('arch') or backbone.get('model_name')]
    on = ' '.join(name for name in names if isinstance(name, str))
    return f'{type(model).__name__}{f" on {on}" if on else ""}, {parameters / 1e6:.1f} M parameters'


def _weights(runner) -> str:
    if runner._load_from:
        return f'{"continues from " if runner._resume else ""}{runner._load_from}'
    if runner.cfg.get('weights') and is_training(runner):
        return f'{runner.cfg.weights}, as far as they fit'
    init = ((runner.cfg.get('model') or {}).get('backbone') or {}).get('init_cfg') or {}
    return f'backbone from {init["checkpoint"]}' if isinstance(init, dict) and init.get('checkpoint') else 'random'


def _schedule(runner) -> str:
    if runner.cfg.get('train_cfg'):
        return schedule.describe(runner.cfg, get_world_size())
    loop = runner._train_loop
    epochs = f'{loop.max_epochs} epochs, ' if loop.max_epochs > 1 else ''
    return f'{epochs}{loop.max_iters:,} iterations of {loop.dataloader.batch_size} images'


def _device(runner) -> str:
    device = next(runner.model.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == 'cuda' else str(device).upper()
    count = torch.get_num_threads()
    threads = f', {count} thread{"s" if count > 1 else ""}' if device.type == 'cpu' else ''
    processes = f', {get_world_size()} processes' if get_world_size() > 1 else ''
    return f'{name}{threads}{processes}'


# --- scores ---


def validation_line(runner, metrics: dict[str, Any], best: bool) -> str:
    """Describe the state of a training after a validation: position, running loss, main scores."""
    loop = runner._train_loop
    by_epoch = loop.max_epochs > 1  # training by iterations is one epoch
    parts = [f'epoch {runner.epoch}/{runner.max_epochs}' if by_epoch else f'iteration {runner.iter}/{runner.max_iters}']
    if 'train/loss' in runner.message_hub.log_scalars:
        parts.append(f'loss {runner.message_hub.get_scalar("train/loss").mean(50):.3f}')
    scores = {name: value for name, value in metrics.items() if isinstance(value, Real)}
    main = [name for name in scores if name.endswith(MAIN)] or list(scores)[:4]
    parts += [f'{_short(name)} {_number(name, scores[name])}' for name in main]
    return '  '.join([*parts, '(best)'] if best else parts)


def _short(name: str) -> str:
    name = name.rpartition('/')[2]
    for part, word in WORDS.items():
        name = name.replace(part, word)
    return name


def _number(name: str, value: Any) -> str:
    if value is None or (isinstance(value, Real) and value == -1):  # mmdet's mark for a score that is not defined
        return '-'
    if not isinstance(value, Real) or isinstance(value, Integral):
        return f'{value:,}' if isinstance(value, Integral) else str(value)
    return f'{value:.1f}' if name.endswith(PERCENT) else f'{value:.3f}'


def table(rows: list[dict[str, Any]]) -> str:
    """Return the scores per class as a table; its last row has the sum of the objects and the means of the scores."""
    if not rows:
        return ''
    names = list(rows[0])
    cells = [[str(row['class']), *(_number(name, row[name]) for name in names[1:])] for row in rows]
    return columns([names, *cells, ['all', *(_total(name, [row[name] for row in rows]) for name in names[1:])]], True)


def _total(name: str, values: list[Any]) -> str:
    known = [value for value in values if value is not None]
    if not known or all(isinstance(value, int) for value in known):
        return _number(name, sum(known)) if known else '-'
    return _number(name, float(sum(known)) if name == 'share' else sum(known) / len(known))


def results(runner, metrics: dict[str, Any], brief: bool, split: str = '') -> str:
    """Return the table of scores per class, and unless it is enough (`brief`) all scores under their full names.

    The scores of a test begin with the split that they were computed on.
    """
    rows = table(per_class.rows(runner))
    if rows and brief:
        return rows
    text = ', '.join(f'{name} {_number(name, value)}' for name, value in metrics.items())
    scores = textwrap.fill(f'{split}: {text}' if split and text else text, 100)
    return '\n'.join(part for part in (rows, scores) if part)


# --- the end ---


def next_commands(runner) -> str:
    """Return the commands that test the trained model, predict with it and export it, ready to copy."""
    script = Path(sys.argv[0])
    if script.name == 'train.py':  # in a checkout
        python = os.path.relpath(sys.executable) if Path(sys.executable).is_relative_to(Path.cwd()) else sys.executable
        start = [shlex.join([python, str(script.with_name(f'{verb}.py'))]) for verb in VERBS]
    else:
        start = [f'repvit-dense {verb}' for verb in VERBS]
    folder = shlex.quote(str(runner.work_dir))
    ends = ('--deploy', shlex.quote(_image_folder(runner)), '--to onnx')
    return '\n'.join(['Next:', *(f'  {verb} {folder} {end}' for verb, end in zip(start, ends, strict=True))])


def _image_folder(runner) -> str:
    """Return the folder of the validation images, else a word that stands for the user's images."""
    for source in _sources(runner._val_loop.dataloader.dataset) if isinstance(runner._val_loop, BaseLoop) else ():
        prefix = getattr(source, 'data_prefix', None) or {}
        folder = prefix.get('img') or prefix.get('img_path')
        if folder and is_folder(folder):
            return str(Path(folder))
    return 'IMAGES'
