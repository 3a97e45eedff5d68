"""Describe how a model was made, for `meta['provenance']` of its checkpoints: data, command, machine, time, scores.

Only plain values, no absolute path, no password. A part that cannot be determined is None.
"""

import hashlib
import math
import multiprocessing
import os
import platform
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePath
from typing import Any

import torch
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from torch.utils.data import Dataset

from repvit_dense import __version__, catalogue
from repvit_dense.artifact.manifest import digest
from repvit_dense.checkpoints import provenance
from repvit_dense.config.structure import backbone_name, datasets, nested
from repvit_dense.errors import InputError
from repvit_dense.files import is_file

PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmdet', 'mmseg', 'timm', 'numpy')
MOST_HASHED = 10_000  # images of a data set whose names and sizes are hashed
MOST_RESUMED = 20  # commands that continued a training


class Record:
    """The provenance of the model that a runner trains.

    Attributes:
        command: the command line of this start.
        data: the data set that the command names.
        weights: the weights that the command names, if they are not in the catalogue.
    """

    command: str | None = None
    data: str | None = None
    weights: str | None = None

    def __init__(self) -> None:
        self._earlier: dict[str, Any] = {}
        self._resumed, self._start = False, (0.0, 0.0)
        self._weights: dict[str, Any] = {}
        self._scores: dict[str, Any] = {}
        self._data: dict[str, Any] = {}

    def begin(self, runner) -> None:
        """Start the clock, and describe the data."""
        self._start = time.monotonic(), _cpu_seconds()
        self._data = describe_data(runner, self.data or _data_name(runner.cfg))

    def name(self, command: str, data: object = None, weights: object = None) -> None:
        """Record the command that trains, and the data and weights that it names."""
        self.command = command
        self.data = None if data is None else Path(os.path.abspath(str(data))).name  # noqa: PTH100
        self.weights = None if weights is None else str(weights)

    def go_on_from(self, checkpoint: dict) -> None:
        """Continue the record in a checkpoint whose training is resumed."""
        self._earlier, self._resumed = provenance.of_checkpoint(checkpoint) or {}, True
        data = self._earlier.get('data')
        self.data = self.data or (data.get('name') if isinstance(data, dict) else None)
        scores = self._earlier.get('scores')
        self._scores = dict(scores) if isinstance(scores, dict) else {}

    def start_from(self, name: str, checkpoint: dict) -> None:
        """Record the checkpoint whose weights a new training starts from."""
        before = provenance.of_checkpoint(checkpoint) or {}
        licence = before.get('licence')
        self._weights = describe_weights(self.weights or name, licence if isinstance(licence, str) else None)
        self._weights |= {key: before[key] for key in ('config', 'backbone', 'data') if key in before}

    def add_scores(self, runner, metrics: dict) -> None:
        """Record the metrics of a validation."""
        values = {name: float(value) for name, value in metrics.items() if _is_number(value)}
        self._scores |= {'split': 'val', 'last': {'iteration': runner.iter, 'values': values}}

    def describe(self, runner) -> dict[str, Any]:
        """Return the provenance of the weights at this moment."""
        return {
            'version': provenance.VERSION,
            **self._commands(),
            'config': _config_name(runner.cfg),
            'backbone': backbone_name(runner.cfg.get('model') or {}),
            'parameters': _parameters(runner),
            'data': self._data or self._earlier.get('data'),
            'seed': runner.seed,
            'processes': runner.world_size,
            'versions': versions(),
            'hardware': hardware(),
            'seconds': self._seconds('seconds', time.monotonic() - self._start[0]),
            'cpu_seconds': self._seconds('cpu_seconds', _cpu_seconds() - self._start[1]),
            'iterations': runner.iter,
            'scores': self._with_best(runner),
            'initial_weights': self._initial_weights(runner.cfg),
            'licence': _declared(runner.cfg).get('licence', 'unknown'),
        }

    def _commands(self) -> dict[str, Any]:
        if not self._resumed:
            return {'command': self.command, 'resumed': []}
        resumed = self._earlier.get('resumed')
        commands = [*(resumed if isinstance(resumed, list) else []), *([self.command] if self.command else [])]
        return {'command': self._earlier.get('command'), 'resumed': commands[-MOST_RESUMED:]}

    def _seconds(self, name: str, since_start: float) -> float | None:
        """Return the time of all starts; None if an earlier one did not record it."""
        earlier: Any = self._earlier.get(name) if self._resumed else 0
        return round(earlier + since_start, 1) if _is_number(earlier) else None

    def _with_best(self, runner) -> dict[str, Any] | None:
        """Return the scores; the last ones are the best if `CheckpointHook` says so."""
        saver = next((hook for hook in runner.hooks if isinstance(hook, CheckpointHook)), None)
        names = getattr(saver, 'key_indicators', None) or [None]
        best = runner.message_hub.runtime_info.get('best_score')
        last = self._scores.get('last')
        if last and _is_number(best) and last['values'].get(names[0]) == float(best):
            self._scores |= {'best': last, 'chosen_by': names[0]}
        return dict(self._scores) or None

    def _initial_weights(self, cfg) -> dict[str, Any]:
        if self._resumed:
            return self._earlier.get('initial_weights') or describe_weights(None)
        if self._weights:
            return self._weights
        for part in nested(cfg.get('model')):
            init = part.get('init_cfg')
            if isinstance(init, dict) and init.get('type') == 'Pretrained' and init.get('checkpoint'):
                return describe_weights(str(init['checkpoint']))
        return describe_weights('random')


# --- parts ---


def describe_weights(name: str | None, licence: str | None = None) -> dict[str, Any]:
    """Return the name and the licence of the weights that a training starts from; 'random' have no licence."""
    if name is None or name == 'random':
        return {'name': name, 'licence': None}
    if not is_file(name):  # a file goes before a name of the catalogue
        addresses = {url: key for row in catalogue.BACKBONES.values() for key, url in row.weights.items()}
        addresses |= {entry.url: entry.name for entry in catalogue.PUBLISHED.values()}
        known = addresses.get(name, name)
        try:
            stated = catalogue.licence_of(known)
        except ValueError:  # timm has no weights of this name
            stated = ''
        if stated:
            return {'name': known, 'licence': stated}
    return {'name': provenance.masked(provenance.without_folders(name)), 'licence': licence or 'unknown'}


def versions() -> dict[str, str]:
    """Return the versions of this package, of Python, and of the libraries that this process has imported."""
    modules = {name: sys.modules[name] for name in PACKAGES if name in sys.modules}
    libraries = {name: str(getattr(module, '__version__', 'unknown')) for name, module in modules.items()}
    return {'repvit_dense': __version__, **libraries, 'python': platform.python_version()}


@cache
def hardware() -> dict[str, Any]:
    """Return the name of the processor, the instruction set that torch uses, the threads, and the GPU."""
    name = platform.processor() or platform.machine()
    try:
        lines = Path('/proc/cpuinfo').read_text('utf-8', 'replace').splitlines()
        name = next((line.partition(':')[2].strip() for line in lines if line.startswith('model name')), name)
    except OSError:  # not Linux
        pass
    return {
        'processor': name,
        'instruction_set': torch.backends.cpu.get_cpu_capability(),
        'threads': torch.get_num_threads(),
        'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else 'none',
    }


def _cpu_seconds() -> float:
    """Return the CPU time of this process, its finished children and its data loading workers."""
    times = os.times()
    total = times.user + times.system + times.children_user + times.children_system
    for child in multiprocessing.active_children():
        try:
            fields = Path(f'/proc/{child.pid}/stat').read_text().rpartition(')')[2].split()
            total += (int(fields[11]) + int(fields[12])) / os.sysconf('SC_CLK_TCK')
        except (OSError, IndexError, ValueError):  # ended meanwhile, or not Linux
            continue
    return total


def _parameters(runner) -> int:
    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    return sum(parameter.numel() for parameter in model.parameters())


def _config_name(cfg) -> str | None:
    return Path(cfg.filename).stem if cfg.filename else None


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _declared(cfg) -> dict[str, str]:
    """Return the entries of the section `provenance` of a config."""
    section = cfg.get('provenance') or {}
    return {key: str(section[key]) for key in provenance.DECLARED if section.get(key)}


# --- data ---


def describe_data(runner, name: str | None) -> dict[str, Any]:
    """Return the data's name and declared licence, and for each split the number of images and a hash."""
    declared, splits = _declared(runner.cfg), {}
    for split, loop in (('train', runner._train_loop), ('val', runner._val_loop)):
        dataset = getattr(getattr(loop, 'dataloader', None), 'dataset', None)
        if dataset is not None:
            splits[split] = {'images': _length(dataset), 'sha256': hash_of(dataset)}
    return {
        'name': declared.get('data') or name,
        'url': declared.get('data_url'),
        'licence': declared.get('data_licence', 'unknown'),
        **splits,
    }


def _length(dataset: Dataset) -> int:
    """Return the number of images; a repeated data set counts once."""
    return sum(len(base) for base in _bases(dataset))


def _bases(dataset: Any) -> Iterator[Any]:
    """Yield the data sets inside wrappers that repeat, join or mix them."""
    inner = getattr(dataset, 'datasets', None) or ([dataset.dataset] if hasattr(dataset, 'dataset') else None)
    if inner is None:
        yield dataset
    for part in inner or ():
        yield from _bases(part)


def _data_name(cfg) -> str | None:
    """Return the name of the folder of the training data."""
    loader = cfg.get('train_dataloader') or {}
    for dataset in datasets(loader.get('dataset')) if isinstance(loader.get('dataset'), dict) else ():
        if dataset.get('data_root'):
            return PurePath(str(dataset['data_root'])).name or None
    return None


def hash_of(dataset: Any) -> str | None:
    """Return a hash over the annotation files, and over names and sizes of images and masks.

    It does not depend on where the folder lies. Of more than `MOST_HASHED` images, evenly spaced ones are hashed.
    None if the data set has no files.
    """
    total = hashlib.sha256()
    try:
        for base in _bases(dataset):
            annotations = str(getattr(base, 'ann_file', None) or '')
            if is_file(annotations):
                total.update(digest(Path(annotations)).encode())
            for text in _files(base):
                total.update(text.encode(errors='replace') + b'\0')
    except (AttributeError, KeyError, TypeError, ValueError, OSError, InputError):
        return None
    return total.hexdigest()


def _files(dataset: Any) -> Iterator[str]:
    """Yield the number of images, and names and sizes of images and masks; names are relative to their folder."""
    count = len(dataset)
    yield str(count)
    keys = ('img_path', 'seg_map_path')
    infos = map(dataset.get_data_info, range(0, count, -(-count // MOST_HASHED) or 1))
    for paths in zip(*[[info.get(key) for key in keys] for info in infos], strict=True):
        present = [path for path in paths if path]
        start = len(os.path.commonpath([os.path.dirname(path) for path in present])) if present else 0  # noqa: PTH120
        for path in present:
            size = os.path.getsize(path) if is_file(path) else None  # noqa: PTH202  may be a URL
            yield f'{path[start:].strip("/")} {size}'
