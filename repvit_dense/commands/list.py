"""`repvit-dense list`: list everything that other commands take by name."""

import dataclasses
import fnmatch
import functools
import importlib.util
import json
from collections.abc import Callable, Iterable
from typing import Any, Literal

from repvit_dense import catalogue, catalogue_sizes
from repvit_dense.artifact.targets import TARGETS
from repvit_dense.errors import InputError
from repvit_dense.options import option
from repvit_dense.screen import columns

Kind = Literal['backbones', 'configs', 'data', 'formats', 'weights']
Task = Literal['detection', 'instance', 'panoptic', 'semantic']
KINDS = ('backbones', 'configs', 'data', 'formats', 'weights')
TASKS = ('detection', 'instance', 'panoptic', 'semantic')
Row = dict[str, Any]


@dataclasses.dataclass
class Options:
    """Options of `list`."""

    kind: Kind = option(
        'backbones', positional=True, nargs='?', choices=KINDS, help=f'{", ".join(KINDS)} (default: backbones)'
    )
    pattern: str = option('*', positional=True, nargs='?', help="names to list, with wildcards, e.g. '*vit*'")
    _: dataclasses.KW_ONLY
    task: Task | None = option(None, choices=TASKS, help='configs and data of this task only')
    json: bool = option(False, help='print JSON')


def run(options: Options) -> list[str]:
    """List the backbones, configs, data sets, export formats and weights that other commands take by name.

    Raises:
        InputError: none of them matches.
    """
    if options.task and options.kind not in ('configs', 'data'):
        raise InputError(f'--task {options.task}: goes with configs and data: list configs --task {options.task}')
    names, row_of = TABLES[options.kind]
    rows = list(map(row_of, fnmatch.filter(names(), options.pattern)))
    rows = [row for row in rows if options.task is None or options.task in row['tasks']]
    if not rows:
        task = f' for {options.task} labels' if options.task else ''
        raise InputError(f"{options.pattern}: none of the {options.kind}{task} matches; '*' stands for any characters")
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print(
            columns(
                [[key.replace('_', ' ') for key in rows[0]], *([_cell(cell) for cell in row.values()] for row in rows)]
            )
        )
    return [row['name'] for row in rows]


def list_backbones(pattern: str = '*') -> list[str]:
    """Return the names of the catalogue's backbones.

    Args:
        pattern: with wildcards, e.g. '*vit*'.
    """
    return fnmatch.filter(catalogue.BACKBONES, pattern)


def list_configs(pattern: str = '*', task: Task | None = None) -> list[str]:
    """Return the names of the packaged configs.

    Args:
        pattern: with wildcards, e.g. '*coco*'.
        task: 'detection', 'instance', 'panoptic' or 'semantic': only configs that train these labels.

    Raises:
        InputError: there is no such task.
    """
    from repvit_dense import config

    names = fnmatch.filter(config.names(), pattern)
    if task is None:
        return names
    if task not in TASKS:
        raise InputError(f"task '{task}': there is no such task; use {', '.join(TASKS)}")
    return [name for name in names if task in _config(name)['tasks']]


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ', '.join(f'{key} {number}' for key, number in value.items()) or '-'
    if isinstance(value, list | tuple):
        return ' '.join(map(str, value)) or '-'
    return '-' if value in (None, '') else str(value)


def _backbone(name: str) -> Row:
    entry = catalogue.BACKBONES[name]
    parameters, gmacs = catalogue_sizes.SIZES.get(name, (None, None))
    return {
        'name': name,
        'M_parameters': parameters,
        'GMACs_at_512x512': gmacs,
        'channels': list(entry.channels),
        'weights': entry.default_weights,
        'licence': entry.licence,
    }


def _config_names() -> list[str]:
    from repvit_dense import config

    return config.names()


@functools.cache
def _config(name: str) -> Row:
    from repvit_dense import config

    cfg = config.load(name)
    dataset = next(config.datasets(cfg.train_dataloader.dataset))
    return {
        'name': name,
        'tasks': [config.task(cfg)],
        'model': cfg.model.type,
        'data': dataset.get('data_root') or dataset.type,
        'weights': [entry.name for entry in catalogue.PUBLISHED.values() if entry.config == name],
    }


def _data_names() -> Iterable[str]:
    from repvit_dense.data.layouts.named import NAMES

    return NAMES


def _data(name: str) -> Row:
    from repvit_dense.data.layouts.named import NAMES

    source = next(iter(NAMES[name].values()))()
    return {
        'name': name,
        'tasks': list(NAMES[name]),
        'classes': len(source.classes),
        'folder': source.train['data_root'],
        'source': 'drawn at the first training' if source.embedded else 'put or link it there',
    }


def _format(name: str) -> Row:
    target = TARGETS[name]
    return {
        'name': name,
        'file': target.model,
        'precisions': list(target.precisions),
        'dynamic': list(target.dynamic),
        'extra': target.extra,
        'installed': 'yes' if all(map(importlib.util.find_spec, target.modules)) else 'no',
    }


def _weights_names() -> list[str]:
    names = [name for entry in catalogue.BACKBONES.values() for name in entry.weights]
    return [*catalogue.PUBLISHED, *dict.fromkeys(names)]  # two rungs of the ladder share those of another backbone


def _weights(name: str) -> Row:
    model = catalogue.PUBLISHED.get(name)
    backbones = catalogue.BACKBONES.values()
    entry = catalogue.BACKBONES[model.backbone] if model else next(row for row in backbones if name in row.weights)
    use = 'default of the recipes' if name == entry.default_weights else ''
    return {
        'name': name,
        'backbone': entry.name,
        'trained_on': 'ImageNet' if model is None else 'COCO' if 'coco' in name else 'ADE20K',
        'published': dict(model.scores) if model else use,
        'config': model.config if model else '',
        'licence': model.licence if model else entry.licence,
    }


# Kind -> function that returns all names, and one that returns the row of a name.
TABLES: dict[str, tuple[Callable[[], Iterable[str]], Callable[[str], Row]]] = {
    'backbones': (lambda: catalogue.BACKBONES, _backbone),
    'configs': (_config_names, _config),
    'data': (_data_names, _data),
    'formats': (lambda: TARGETS, _format),
    'weights': (_weights_names, _weights),
}
