"""`repvit-dense list`: list the backbones and configs that other commands take by name."""

import dataclasses
import fnmatch
from typing import Literal

from repvit_dense.errors import InputError
from repvit_dense.options import option

Task = Literal['detection', 'instance', 'panoptic', 'semantic']
TASKS = ('detection', 'instance', 'panoptic', 'semantic')


@dataclasses.dataclass
class Options:
    """Options of `list`."""

    kind: Literal['backbones', 'configs'] = option(
        'backbones', positional=True, nargs='?', choices=('backbones', 'configs'), help='backbones (default) or configs'
    )
    pattern: str = option('*', positional=True, nargs='?', help="names to list, with wildcards, e.g. '*vit*'")
    _: dataclasses.KW_ONLY
    task: Task | None = option(None, choices=TASKS, help='configs of this task only')


def run(options: Options) -> list[str]:
    """List the backbones and configs that other commands take by name.

    Raises:
        InputError: none of them matches.
    """
    if options.kind == 'backbones' and options.task:
        raise InputError(f'--task {options.task}: goes with configs: list configs --task {options.task}')
    names = (
        list_backbones(options.pattern) if options.kind == 'backbones' else list_configs(options.pattern, options.task)
    )
    if not names:
        task = f' for {options.task} labels' if options.task else ''
        raise InputError(f"{options.pattern}: none of the {options.kind}{task} matches; '*' stands for any characters")
    if options.kind == 'backbones':
        _print_backbones(names)
    else:
        print(*names, sep='\n')
    return names


def list_backbones(pattern: str = '*') -> list[str]:
    """Return the names of the catalogue's backbones.

    Args:
        pattern: with wildcards, e.g. '*vit*'.
    """
    from repvit_dense import catalogue

    return fnmatch.filter(catalogue.BACKBONES, pattern)


def list_configs(pattern: str = '*', task: Task | None = None) -> list[str]:
    """Return the names of the packaged configs.

    Args:
        pattern: with wildcards, e.g. '*coco*'.
        task: 'detection', 'instance', 'panoptic' or 'semantic': only configs that train these labels. The configs are
            loaded for it, which takes a few seconds.

    Raises:
        InputError: there is no such task.
    """
    from repvit_dense import config

    names = fnmatch.filter(config.names(), pattern)
    if task is None:
        return names
    if task not in TASKS:
        raise InputError(f"task '{task}': there is no such task; use {', '.join(TASKS)}")
    return [name for name in names if config.task(config.load(name)) == task]


def _print_backbones(names: list[str]) -> None:
    from repvit_dense import catalogue

    rows = [('backbone', 'channels', 'strides', 'licence of the weights')]
    for name in names:
        entry = catalogue.find(name)
        channels, strides = (' '.join(map(str, numbers)) for numbers in (entry.channels, entry.strides))
        rows.append((name, channels, strides, entry.licence or 'no weights published'))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print('  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
