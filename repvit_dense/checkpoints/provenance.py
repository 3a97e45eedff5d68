"""Read the provenance of a model: `meta['provenance']` of a checkpoint, `provenance` of an artifact's manifest.

`engine.provenance` writes it. A file may hold anything under that name, so it is checked here.
"""

import dataclasses
import json
import math
import os
import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

from repvit_dense.errors import InputError, shorten
from repvit_dense.options import name_of

VERSION = 1
KEY = 'repvit_dense'  # of the header of a safetensors file
DECLARED = ('data', 'data_url', 'data_licence', 'licence')  # keys of the section `provenance` of a config
DEEPEST, MOST_VALUES, LONGEST = 6, 5000, 10_000  # levels, values, characters of a text
_SECRET_NAME = r'(?:token|passw(?:or)?d|passphrase|secret|credentials?|api_?key|access_?key|signature)'
SECRETS = (
    (re.compile(r'(\b\w[\w+.-]*://)[^\s/@]*@'), r'\1***@'),  # URLs with a user and a password
    (re.compile(r'\b(?:hf|gh[pousr]|github_pat|sk|glpat|xox[abp])[-_][A-Za-z0-9_-]{16,}'), '***'),
    (re.compile(rf'(?i)({_SECRET_NAME}["\']?\s*[=:]\s*)[^\s&,)]+'), r'\1***'),
)


def masked(text: str) -> str:
    """Return a text without passwords and access tokens; `***` takes their place."""
    for pattern, replacement in SECRETS:
        text = pattern.sub(replacement, text)
    return text


def of_checkpoint(checkpoint: Mapping) -> dict[str, Any] | None:
    """Return the provenance in the content of a checkpoint; None if it has none, or something else of that name."""
    meta = checkpoint.get('meta')
    value = meta.get('provenance') if isinstance(meta, Mapping) else None
    return value if is_provenance(value) else None


def meta_in(header: Mapping[str, str] | None, name: str | Path) -> dict[str, Any] | None:
    """Return the `meta` of a checkpoint from the header of a file; None if another program wrote it.

    Raises:
        InputError: the header has such an entry, and it is not JSON.
    """
    text = (header or {}).get(KEY)
    if text is None:
        return None
    try:
        meta = json.loads(text)
    except (RecursionError, ValueError):
        meta = None
    if not isinstance(meta, dict):
        raise InputError(f'{name}: the entry {KEY} of its header is no JSON object; get the file again')
    return meta


def is_provenance(value: Any) -> bool:
    """Return whether a value is a dictionary of plain values that JSON can hold, of bounded depth and size."""
    if not isinstance(value, dict):
        return False
    try:
        return _count(value, DEEPEST) <= MOST_VALUES
    except InputError:
        return False


def _count(value: Any, depth: int) -> int:
    """Return the number of values; raise InputError if one of them is not plain."""
    if isinstance(value, dict | list | tuple) and depth:
        if isinstance(value, dict) and not all(isinstance(key, str) and len(key) <= LONGEST for key in value):
            raise InputError('a key is no text')
        total = 1
        for item in value.values() if isinstance(value, dict) else value:
            total += _count(item, depth - 1)
            if total > MOST_VALUES:
                break
        return total
    plain = value is None or isinstance(value, bool | int) or (isinstance(value, float) and math.isfinite(value))
    if plain or (isinstance(value, str) and len(value) <= LONGEST):
        return 1
    raise InputError('a value is not plain')


def command_line(options: Any) -> str:
    """Return the command with the options that differ from their defaults; `...` stands for the folders of a path."""
    words = ['repvit-dense', type(options).__module__.rpartition('.')[2]]
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value is None or value is False or (value == field.default and not field.metadata.get('positional')):
            continue
        if field.name == 'local_rank':
            continue
        words += [] if field.metadata.get('positional') else [name_of(field)]
        if value is not True:
            values = value if isinstance(value, list | tuple) and field.name != 'size' else [value]
            words += ['x'.join(map(str, v)) if isinstance(v, tuple) else without_folders(str(v)) for v in values]
    return shorten(shlex.join(map(masked, words)), 2000)


def without_folders(text: str) -> str:
    """Return a value in which `...` stands for the folders of an absolute path."""
    key, equals, value = text.rpartition('=')
    if '://' in text or not (os.path.isabs(os.path.expanduser(value))):  # noqa: PTH111, PTH117  impossible names
        return text
    return f'{key}{equals}.../{PurePath(value).name}'
