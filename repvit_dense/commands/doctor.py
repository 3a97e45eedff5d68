"""Look at everything a training needs before it starts: the environment, the config, the data. Nothing is changed."""

import os
import platform
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from repvit_dense import config
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config

PACKAGES = ('torchvision', 'timm', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmseg')
EVALUATED = ('val', 'test')


class Row(NamedTuple):
    """`level` is 'ok', 'warning' or 'error'."""

    level: str
    subject: str
    text: str


def run(cfg: 'Config') -> int:
    """Print one table; 2 where a row of it is an error, else 0."""
    rows = [*environment(), *model(cfg), *data(cfg)]
    print(to_text(rows))
    return 2 if any(row.level == 'error' for row in rows) else 0


def environment() -> Iterator[Row]:
    """Versions, processors, and whether mmcv's ops are the compiled ones."""
    import torch

    yield Row('ok', 'python', f'{platform.python_version()} on {platform.system()} {platform.machine()}')
    yield Row('ok', 'torch', torch.__version__)
    if torch.cuda.is_available():
        gpus = ', '.join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield Row('ok', 'GPU', f'{gpus}, CUDA {torch.version.cuda}')
    else:
        yield Row('warning', 'GPU', 'none that torch can use; only small models can be trained on a CPU')
    variable = os.environ.get('OMP_NUM_THREADS')
    limit = f', OMP_NUM_THREADS={variable}' if variable else ''
    yield Row('ok', 'threads', f'{torch.get_num_threads()} of {os.cpu_count()} cores{limit}')
    for name in PACKAGES:
        yield _package(name)
    yield _ops()


def _package(name: str) -> Row:
    try:
        return Row('ok', name, import_module(name).__version__)
    except (ImportError, AttributeError, AssertionError, metadata.PackageNotFoundError) as error:
        return Row('error', name, f'cannot be imported ({" ".join(str(error).split())})')


def _ops() -> Row:
    try:
        extension = import_module('mmcv._ext')
    except ImportError as error:
        return Row('error', 'mmcv ops', str(error))
    if getattr(extension, '__file__', None):
        return Row('ok', 'mmcv ops', 'compiled')
    return Row('ok', 'mmcv ops', "fallback on torch and torchvision; `make compiled-ops` builds mmcv's own")


def model(cfg: 'Config') -> Iterator[Row]:
    """What `config.check` says of everything but the data."""
    try:
        config.check(cfg, ())
    except InputError as error:
        yield Row('error', 'model', str(error))
    else:
        yield Row('ok', 'model', f'{cfg.model.type} for {config.task(cfg)} labels')


def data(cfg: 'Config') -> Iterator[Row]:
    """One row per annotation file, and one per kind of fault in it."""
    embedded = cfg.get('embedded_data')
    if embedded and not Path(embedded['root']).exists():
        yield Row('ok', 'data', f'{embedded["root"]}: will be drawn at the first training')
        return
    for splits in (('train',), EVALUATED):
        try:
            for where, report in config.data_reports(cfg, splits):
                yield Row('ok', splits[0], f'{where}: {report.summary}')
                for finding in report.findings:
                    yield Row(finding.level, splits[0], str(finding))
            config.check_evaluators(cfg, splits)
        except InputError as error:
            yield Row('error', splits[0], str(error))


def to_text(rows: list[Row]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    return '\n'.join(f'{row.level:{widths[0]}}  {row.subject:{widths[1]}}  {row.text}' for row in rows)
