"""`repvit-dense list`: list everything that other commands take by name."""

import dataclasses
import fnmatch
import functools
import importlib.util
import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from repvit_dense import catalogue, catalogue_rows, catalogue_sizes, catalogue_timm
from repvit_dense.artifact import manifest, pretrained
from repvit_dense.artifact.targets import TARGETS
from repvit_dense.errors import InputError
from repvit_dense.options import option
from repvit_dense.screen import columns, say

Kind = Literal['backbones', 'configs', 'data', 'formats', 'models', 'weights']
Task = Literal['detection', 'instance', 'panoptic', 'semantic']
KINDS = ('backbones', 'configs', 'data', 'formats', 'models', 'weights')
TASKS = ('detection', 'instance', 'panoptic', 'semantic')
MOST_BUILT = 20  # networks of timm whose channels are listed; building one takes some tenths of a second
Row = dict[str, Any]


@dataclasses.dataclass
class Options:
    """Options of `list`."""

    kind: Kind = option(
        'backbones', positional=True, nargs='?', choices=KINDS, help=f'{", ".join(KINDS)} (default: backbones)'
    )
    pattern: str = option('*', positional=True, nargs='?', help="names to list, with wildcards: '*vit*', 'timm/*vit*'")
    _: dataclasses.KW_ONLY
    task: Task | None = option(None, choices=TASKS, help='configs and data of this task only')
    json: bool = option(False, help='print JSON')


def run(options: Options) -> list[str]:
    """List the backbones, configs, data sets, export formats, models and weights that other commands take by name.

    Raises:
        InputError: none of them matches.
    """
    if options.task and options.kind not in ('configs', 'data'):
        raise InputError(f'--task {options.task}: goes with configs and data: list configs --task {options.task}')
    names, row_of = TABLES[options.kind]
    if options.kind == 'backbones' and _asks_timm(options.pattern):
        rows = _timm_backbones(options.pattern)
    elif options.kind == 'weights' and _asks_timm(options.pattern):
        rows = list(map(_timm_weights, catalogue_timm.weights(options.pattern)))
    else:
        rows = list(map(row_of, fnmatch.filter(names(), options.pattern)))
    rows = [row for row in rows if options.task is None or options.task in row['tasks']]
    if not rows:
        task = f' for {options.task} labels' if options.task else ''
        raise InputError(f"{options.pattern}: none of the {options.kind}{task} matches; '*' stands for any characters")
    if options.json:
        print(json.dumps(rows, indent=1))
    else:
        print('\n'.join(_lines(rows)))
    return [row['name'] for row in rows]


def list_backbones(pattern: str = '*') -> list[str]:
    """Return the names of the catalogue's backbones.

    Args:
        pattern: with wildcards, e.g. '*vit*'; 'timm/*vit*' for the networks of timm, not all of which can be backbones.
    """
    return catalogue_timm.names(pattern) if _asks_timm(pattern) else fnmatch.filter(catalogue.BACKBONES, pattern)


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


def _lines(rows: list[Row]) -> Iterator[str]:
    """Yield a line of titles and one per row; backbones of several groups have a line with the group before each."""
    titles = [key.replace('_', ' ') for key in rows[0]]
    first, *lines = columns([titles, *([_cell(cell) for cell in row.values()] for row in rows)]).splitlines()
    yield first
    group_of = {entry.name: group for group, entries in catalogue_rows.GROUPS.items() for entry in entries}
    groups = [group_of.get(row['name'], '') for row in rows]
    for line, group, before in zip(lines, groups, ['', *groups], strict=False):
        if group != before and len({*groups}) > 1:
            yield f'\n{group}:'
        yield line


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ', '.join(f'{key} {number}' for key, number in value.items()) or '-'
    if isinstance(value, list | tuple):
        return ' '.join(map(str, value)) or '-'
    return '-' if value in (None, '') else str(value)


def _backbone(name: str) -> Row:
    entry = catalogue.find(name)
    parameters, gmacs = catalogue_sizes.SIZES.get(name, (None, None))
    return {
        'name': name,
        'M_parameters': parameters,
        'GMACs_at_512x512': gmacs,
        'channels': list(entry.channels),
        'weights': entry.default_weights,
        'licence': entry.licence,
    }


def _asks_timm(pattern: str) -> bool:
    return pattern.startswith(catalogue_timm.PREFIX)


def _timm_backbones(pattern: str) -> list[Row]:
    """Return the rows of timm's networks that can be backbones; of many networks only what needs no building."""
    names = catalogue_timm.names(pattern)
    if len(names) > MOST_BUILT:
        say(f'{len(names)} networks; a narrower pattern says which lack features, and the channels of the others')
        return [_timm_backbone(name) for name in names]
    rows = []
    for name in names:
        try:
            rows.append(_backbone(name))
        except ValueError as error:
            say(f'left out: {error}')
    return rows


def _timm_backbone(name: str) -> Row:
    weights = catalogue_timm.default_weights(name)
    return {'name': name, 'weights': weights, 'licence': catalogue_timm.licence(weights) if weights else ''}


def _timm_weights(name: str) -> Row:
    backbone, _, tag = name.partition('.')
    return {
        'name': name,
        'backbone': backbone,
        'trained_on': tag,
        'published': 'default' if name == catalogue_timm.default_weights(backbone) else '',
        'licence': catalogue_timm.licence(name),
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


def _model(name: str) -> Row:
    folder = pretrained.ROOT / name
    about = manifest.read(folder)
    return {
        'name': name,
        'finds': pretrained.NAMES[name],
        'task': about.task,
        'classes': about.classes,
        'backbone': about.backbone,
        'format': f'{about.target}, {about.precision}',
        'MB': round((folder / about.model).stat().st_size / 1e6, 1),
        'card': str(folder / 'README.md'),
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
    'models': (lambda: pretrained.NAMES, _model),
    'weights': (_weights_names, _weights),
}
