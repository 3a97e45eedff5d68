"""`repvit-dense doctor`: check the environment, a config and its data."""

import contextlib
import dataclasses
import itertools
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from repvit_dense.commands.base import DataOptions, open_config
from repvit_dense.commands.names import check_names
from repvit_dense.compat.quiet import quiet
from repvit_dense.errors import InputError, printable, shorten
from repvit_dense.options import option

if TYPE_CHECKING:
    from mmengine.config import Config

    from repvit_dense.data.checks import Finding, ImageEntry

PACKAGES = ('torchvision', 'timm', 'numpy', 'mmengine', 'mmcv', 'mmdet', 'mmseg')
NAMED = 20  # offenders of a finding that are printed


@dataclasses.dataclass
class Options(DataOptions):
    """Name a model and its data, and say how the findings are reported."""

    _: dataclasses.KW_ONLY
    json: bool = option(False, help='print the findings as JSON, with all offenders')
    strict: bool = option(False, help='exit with 1 if there are warnings and no errors')


class Check(NamedTuple):
    """One line of the table.

    Attributes:
        level: 'ok', 'warning' or 'error'.
        subject: short name of the thing that was checked.
        text: the finding.
        offenders: names of all images, annotations or files that have a fault.
    """

    level: str
    subject: str
    text: str
    offenders: Sequence[str] = ()


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """The outcome of `doctor`.

    Attributes:
        checks: all findings, in the order of the table.
        strict: warnings change the exit code.
    """

    checks: list[Check]
    strict: bool = False

    @property
    def failed(self) -> list[Check]:
        """Findings that would stop a training."""
        return [check for check in self.checks if check.level == 'error']

    @property
    def exit_code(self) -> int:
        """2 if there are errors, 1 if there are warnings and they count, else 0."""
        if self.failed:
            return 2
        return int(self.strict and any(check.level == 'warning' for check in self.checks))

    def __str__(self) -> str:
        """Return the table, and below it the first offenders of each finding."""
        rows = [[printable(cell).replace('\n', ' ') for cell in check[:3]] for check in self.checks]
        widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
        lines = [f'{level:{widths[0]}}  {subject:{widths[1]}}  {text}' for level, subject, text in rows]
        for check, (level, subject, text) in zip(self.checks, rows, strict=True):
            if check.offenders:
                lines += ['', f'{level} in {subject}: {shorten(text, 500)}']
                lines += [f'  {printable(name)}'.replace('\n', ' ') for name in check.offenders[:NAMED]]
                if len(check.offenders) > NAMED:
                    lines.append(f'  and {len(check.offenders) - NAMED:,} more')
        return '\n'.join(lines)

    def to_json(self) -> str:
        """Return the findings as JSON."""
        checks = [{**check._asdict(), 'offenders': list(check.offenders)} for check in self.checks]
        return json.dumps({'exit_code': self.exit_code, 'checks': checks}, indent=1)


def run(options: Options) -> Diagnosis:
    """Check the environment, a config and its data; change nothing.

    Raises:
        InputError: the config cannot be loaded, unless the findings are printed as JSON.
    """
    if not options.json:
        check_names(options)
    with (
        tempfile.TemporaryDirectory(prefix='repvit-dense-') as folder,
        contextlib.redirect_stdout(sys.stderr) if options.json else contextlib.nullcontext(),
        quiet(options.verbose),
    ):
        diagnosis = Diagnosis(list(check_all(options, folder)), options.strict)
    print(diagnosis.to_json() if options.json else diagnosis)
    return diagnosis


def check_all(options: Options, folder: str) -> Iterator[Check]:
    """Check everything.

    Args:
        options: the options of the command.
        folder: a temporary folder for converted annotations.
    """
    yield from check_environment()
    try:
        cfg = open_config(options, folder)
    except InputError as error:
        if not options.json:
            raise
        yield Check('error', 'config', str(error))
        return
    yield from check_model(cfg)
    for check in check_data(cfg):
        yield check._replace(text=check.text.replace(f'{folder}{os.sep}', 'converted annotations '))


def check_environment() -> Iterator[Check]:
    """Report versions, processors, and whether mmcv's ops are compiled."""
    import torch

    yield Check('ok', 'python', f'{platform.python_version()} on {platform.system()} {platform.machine()}')
    yield Check('ok', 'torch', torch.__version__)
    if torch.cuda.is_available():
        gpus = ', '.join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
        yield Check('ok', 'GPU', f'{gpus}, CUDA {torch.version.cuda}')
    else:
        yield Check('ok', 'GPU', 'torch finds none; on a CPU only small models can be trained')
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
        config.check_settings(cfg, ('train',) if cfg.get('train_dataloader') else ())
    except InputError as error:
        yield Check('error', 'model', str(error))
    else:
        yield Check('ok', 'model', f'{cfg.model.type} for {config.task(cfg)} labels')


def check_data(cfg: 'Config') -> Iterator[Check]:
    """Report every annotation file, every kind of fault in it, and images that are in two splits."""
    from repvit_dense import config
    from repvit_dense.config.splits import splits
    from repvit_dense.data import checks

    embedded = cfg.get('embedded_data')
    if embedded and not Path(embedded['root']).exists():
        yield Check('ok', 'data', f'{embedded["root"]}: will be drawn at the first training')
        return
    images: dict[str, list[ImageEntry]] = {}
    for split in splits(cfg):
        images[split] = []
        try:
            for _, file, report in config.data_reports(cfg, [split]):
                yield Check('ok', split, f'{file}: {report.summary}')
                yield from _rows(split, report.findings)
                images[split] += report.images
            config.check_evaluators(cfg, [split])
        except InputError as error:
            yield Check('error', split, str(error))
    for first, second in itertools.combinations(images, 2):
        if images[first] and images[second]:
            extent, findings = checks.leaks(images[first], images[second], first, second)
            yield Check('ok', 'splits', extent)
            yield from _rows('splits', findings)


def _rows(subject: str, findings: 'list[Finding]') -> Iterator[Check]:
    for finding in findings:
        yield Check(finding.level, subject, finding.message, finding.offenders)
