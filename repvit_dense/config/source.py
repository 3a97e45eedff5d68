"""Read the file of a config and its bases: a Python file is executed, a YAML or JSON file is data."""

import importlib.util
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.config.dumped import names_code
from repvit_dense.data.reading import read_json, read_yaml
from repvit_dense.errors import InputError, shorten
from repvit_dense.files import is_file

if TYPE_CHECKING:
    from mmengine.config import Config

PACKAGE = Path(__file__).parents[1]
# The folder of the configs lies beside the package in a checkout, and inside it in an installed wheel.
CONFIG_FOLDERS = (PACKAGE.parent / 'configs', PACKAGE / '.mim' / 'configs')
DATA_SUFFIXES = ('.yaml', '.yml', '.json')


def read(file: Path) -> 'Config':
    """Return the config in a file.

    A Python file and its bases are executed. A YAML or JSON file cannot execute anything: Python tags,
    `custom_imports` and a `type` that is no registered name are refused, and so are Python files as bases, except the
    configs of this package, mmdet and mmseg.

    Raises:
        InputError: the file or one of its bases cannot be read or is refused.
    """
    if file.suffix not in ('.py', *DATA_SUFFIXES):
        raise InputError(f'{file}: not a config; its name must end in .py, {", ".join(DATA_SUFFIXES)}')
    from mmengine.config import Config  # takes seconds to import

    try:
        with _finding_bases():
            if file.suffix in DATA_SUFFIXES:
                return Config(_merge(file, ()), filename=str(file))
            _check_bases(file, ())
            return Config.fromfile(file)
    except InputError:
        raise
    except BaseException as error:  # a config is Python and may raise anything
        if isinstance(error, KeyboardInterrupt) and 'KeyboardInterrupt' not in _last_line(error):
            raise  # Ctrl-C
        if isinstance(error, SystemExit):
            raise InputError(f'{file}: cannot read this config: it ended Python, sys.exit({error.code})') from error
        text = shorten(' '.join(str(error).split()), 1000)
        raise InputError(f'{file}: cannot read this config: {type(error).__name__}: {text}') from error


@contextmanager
def _finding_bases() -> Iterator[None]:
    """Let `_base_` be `repvit_dense::NAME.py`, and `mmseg::PATH` under any name that mmseg is distributed by."""
    from mmengine.config import Config
    from mmengine.config.utils import MODULE2PACKAGE

    find, package = Config._get_cfg_path, MODULE2PACKAGE['mmseg']

    def find_packaged(base: str, filename: str) -> tuple[str, str | None]:
        name = base.removeprefix('repvit_dense::')
        if name == base:
            return find(base, filename)
        return next((str(folder / name) for folder in CONFIG_FOLDERS if is_file(folder / name)), name), None

    Config._get_cfg_path, MODULE2PACKAGE['mmseg'] = staticmethod(find_packaged), 'mmseg'
    try:
        yield
    finally:
        Config._get_cfg_path, MODULE2PACKAGE['mmseg'] = staticmethod(find), package


def _last_line(error: BaseException) -> str:
    """Return the line of code that raised an error."""
    return traceback.extract_tb(error.__traceback__)[-1].line or ''


def _check_bases(file: Path, chain: tuple[Path, ...]) -> None:
    """Refuse a base of a Python config that is missing, contains itself, or is a data file with code."""
    from mmengine.config import Config

    for base in Config._get_base_files(str(file)):
        if not isinstance(base, str):
            raise InputError(f'{file}: _base_ must be a file name or a list of them, not {shorten(repr(base))}')
        if '{{' not in base:  # mmengine fills in templates later
            path = _base_path(base, file, chain)
            if path.suffix in DATA_SUFFIXES:
                _merge(path, (*chain, file.resolve()))
            else:
                _check_bases(path, (*chain, file.resolve()))


def _base_path(base: str, file: Path, chain: tuple[Path, ...]) -> Path:
    from mmengine.config import Config

    try:
        path = Path(Config._get_cfg_path(base, str(file))[0])
    except Exception as error:
        raise InputError(f'{file}: its _base_ {base} was not found ({error})') from error
    if not is_file(path):
        raise InputError(f'{file}: its _base_ {base} was not found ({path})')
    circle = [*chain, file.resolve(), path.resolve()]
    if path.resolve() in circle[:-1]:
        raise InputError(f'{file}: its _base_ leads back to itself ({" -> ".join(part.name for part in circle)})')
    return path


def _merge(file: Path, chain: tuple[Path, ...]) -> dict:
    """Return the content of a data file, merged into that of its bases."""
    from mmengine.config import Config

    content = read_json(file) if file.suffix == '.json' else read_yaml(file)
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InputError(f'{file}: not a config; expected a mapping from names to values')
    _refuse_code(file, content)
    bases = content.pop('_base_', [])
    merged: dict = {}
    for base in bases if isinstance(bases, list) else [bases]:
        if not isinstance(base, str):
            raise InputError(f'{file}: _base_ must be a file name or a list of them, not {shorten(repr(base))}')
        path = _base_path(base, file, chain)
        if path.suffix in DATA_SUFFIXES:
            part = _merge(path, (*chain, file.resolve()))
        elif any(path.resolve().is_relative_to(folder.resolve()) for folder in _trusted_folders()):
            part = Config._file2dict(str(path))[0]
        else:
            raise InputError(f'{file}: its _base_ {base} is a Python file, which a data file must not execute')
        if merged.keys() & part.keys():
            raise InputError(f'{file}: two of its bases set {", ".join(sorted(merged.keys() & part.keys()))}')
        merged.update(part)
    return Config._merge_a_into_b(content, merged)


def _trusted_folders() -> list[Path]:
    specs = [importlib.util.find_spec(name) for name in ('mmdet', 'mmseg')]
    return [*CONFIG_FOLDERS, *(Path(spec.origin).parent / '.mim' for spec in specs if spec and spec.origin)]


def _refuse_code(file: Path, value: Any, key: object = None) -> None:
    """Refuse everything in a data file that mmengine would execute."""
    for name, part in value.items() if isinstance(value, dict) else enumerate(value):
        inner = name if isinstance(value, dict) else key
        if inner == 'custom_imports':
            raise InputError(f'{file}: custom_imports would execute code; only a Python config may have it')
        if isinstance(part, dict | list):
            _refuse_code(file, part, inner)
        elif isinstance(part, str) and names_code(inner, part):
            raise InputError(f'{file}: {inner}: {part} is not a registered name of OpenMMLab; nothing was executed')
        elif isinstance(part, str) and '{{' in part:
            raise InputError(f'{file}: {inner}: {part}: templates are possible in Python configs only')
