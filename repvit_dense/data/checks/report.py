"""The findings of a check, and the sample of files that is decoded."""

import os
import random
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from repvit_dense.errors import InputError
from repvit_dense.screen import say

SAMPLE = 200  # masks to decode of a large data set
NAMED = 20  # offenders that a message names


class Finding(NamedTuple):
    """One kind of fault.

    Attributes:
        level: 'error' or 'warning'.
        message: the fault, with the number of offenders.
        offenders: names of all images, annotations or files that have it.
    """

    level: str
    message: str
    offenders: list[str]

    def __str__(self) -> str:
        named = ', '.join(map(str, self.offenders[:NAMED]))
        rest = len(self.offenders) - NAMED
        return f'{self.message} ({named}{f" and {rest:,} more" if rest > 0 else ""})' if named else self.message


class ImageEntry(NamedTuple):
    """An image of a data set.

    Attributes:
        name: the file name in messages.
        path: the file.
        size: width and height in pixels that the annotations give, or None.
        mask: the file with the mask of semantic or panoptic labels, if there is one.
    """

    name: str
    path: str
    size: tuple[float, float] | None = None
    mask: str = ''


class Report(NamedTuple):
    """The result of a check: a summary of the data that was checked, the findings, and the images of the data."""

    summary: str
    findings: list[Finding]
    images: Sequence[ImageEntry] = ()


def findings_of(level: str, message: str, offenders: Iterable) -> list[Finding]:
    """Return one finding, or none if there are no offenders.

    Args:
        level: 'error' or 'warning'.
        message: the fault; the first `{}` is replaced by the number of offenders.
        offenders: whatever has the fault.
    """
    offenders = [str(offender) for offender in offenders]
    return [Finding(level, message.replace('{}', f'{len(offenders):,}', 1), offenders)] if offenders else []


def enforce(data: str | Path, report: Report) -> None:
    """Raise if the report has errors, else print its warnings.

    Args:
        data: the file or folder that was checked, for the message.
        report: its report.

    Raises:
        InputError: names all errors, for each the first twenty offenders and the number of the others.
    """
    errors = [str(finding) for finding in report.findings if finding.level == 'error']
    if errors:
        raise InputError(f'{data}: {"; ".join(errors)}')
    for finding in report.findings:
        warn(f'{data}: {finding}')


def warn(text: str) -> None:
    """Print a warning to stderr, once per machine."""
    if is_first_process():
        say(f'warning: {text}')


def is_first_process() -> bool:
    """Return whether this is the first process of a distributed job on this machine."""
    return os.environ.get('LOCAL_RANK', '0') == '0'


def sample(entries: Collection, name: str) -> tuple[Sequence, str]:
    """Return at most `SAMPLE` entries, the same ones in every run, and a description of their number.

    Args:
        entries: files or records to choose from.
        name: plural noun for the description.
    """
    if len(entries) <= SAMPLE:
        return list(entries), f'all {len(entries):,} {name} checked'
    return random.Random(0).sample(list(entries), SAMPLE), f'{SAMPLE} of {len(entries):,} {name} checked'
