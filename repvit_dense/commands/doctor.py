"""`repvit-dense doctor`: check the environment, a config and its data."""

import dataclasses
import os
import platform
from collections.abc import Iterator
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from repvit_dense.commands.base import ModelOptions, default_work_dir, open_config
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config

PACKAGES = ('torchvision', 'timm', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmseg')
SPLITS = (('train',), ('val', 'test'))  # checked together, reported under the first name

Options = ModelOptions


class Check(NamedTuple):
    """One line of the table.

    Attributes:
        level: 'ok', 'warning' or 'error'.
        subject: short name of the thing that was checked.
        text: the finding.
    """

    level: str
    subject: str
    text: str


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The outcome of `doctor`.

    Attributes:
        checks: all findings, in the order of the table.
    """

    checks: list[Check]

    @property
    def failed(self) -> list[Check]:
        """Findings that would stop a training."""
        return [check for check in self.checks if check.level == 'error']

    def __str__(self) -> str:
        widths = [max(len(check[column]) for check in self.checks) for column in (0, 1)]
        return '\n'.join(
            f'{check.level:{widths[0]}}  {check.subject:{widths[1]}}  {check.text}' for check in self.checks
        )


def run(options: Options) -> Diagnosis:
    """Check the environment, a config and its data; change nothing.

    Raises:
        InputError: the config cannot be loaded.
    """
    cfg = open_config(options, default_work_dir(options))
    diagnosis = Diagnosis([*check_environment(), *check_model(cfg), *check_data(cfg)])
    print(diagnosis)
    return diagnosis


def check_environment() -> Iterator[Check]:
    """Report versions, processors, and whether mmcv's ops are compiled."""
    import torch

    yield Check('ok', 'python', f'{platform.python_version()} on {platform.system()} {platform.machine()}')
    yield Check('ok', 'torch', torch.__version__)
    if torch.cuda.is_available():
        gpus = ', '.join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield Check('ok', 'GPU', f'{gpus}, CUDA {torch.version.cuda}')
    else:
        yield Check('warning', 'GPU', 'torch finds none; on a CPU only small models can be trained')
    variable = os.environ.get('OMP_NUM_THREADS')
    limit = f', OMP_NUM_THREADS={variable}' if variable else ''
    yield Check('ok', 'threads', f'{torch.get_num_threads()} of {os.cpu_count()} cores{limit}')
    for name in PACKAGES:
        yield _check_package(name)
    yield _check_ops()


def _check_package(name: str) -> Check:
    try:
        return Check('ok', name, import_module(name).__version__)
    except (ImportError, AttributeError, AssertionError, metadata.PackageNotFoundError) as error:
        return Check('error', name, f'cannot be imported ({" ".join(str(error).split())})')


def _check_ops() -> Check:
    try:
        extension = import_module('mmcv._ext')
    except ImportError as error:
        return Check('error', 'mmcv ops', str(error))
    if getattr(extension, '__file__', None):
        return Check('ok', 'mmcv ops', 'compiled')
    return Check('ok', 'mmcv ops', "fallback on torch and torchvision; `make compiled-ops` builds mmcv's own")


def check_model(cfg: 'Config') -> Iterator[Check]:
    """Report whether the backbone can be built and fits the neck and the heads."""
    from repvit_dense import config

    try:
        config.check(cfg, ())
    except InputError as error:
        yield Check('error', 'model', str(error))
    else:
        yield Check('ok', 'model', f'{cfg.model.type} for {config.task(cfg)} labels')


def check_data(cfg: 'Config') -> Iterator[Check]:
    """Report every annotation file, and every kind of fault in it."""
    from repvit_dense import config

    embedded = cfg.get('embedded_data')
    if embedded and not Path(embedded['root']).exists():
        yield Check('ok', 'data', f'{embedded["root"]}: will be drawn at the first training')
        return
    for splits in SPLITS:
        try:
            for file, report in config.data_reports(cfg, splits):
                yield Check('ok', splits[0], f'{file}: {report.summary}')
                for finding in report.findings:
                    yield Check(finding.level, splits[0], str(finding))
            config.check_evaluators(cfg, splits)
        except InputError as error:
            yield Check('error', splits[0], str(error))
