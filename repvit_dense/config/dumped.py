"""Read configs that mmengine wrote, from a work dir or a checkpoint, without executing anything in them."""

import ast
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.config.structure import nested
from repvit_dense.data.reading import read_text
from repvit_dense.errors import InputError
from repvit_dense.files import is_file

if TYPE_CHECKING:
    from mmengine.config import Config

LONGEST = 500_000  # characters of a config; parsing takes up to 1 kB each
_NUMBERS = ('inf', 'nan')  # written without quotes, as Python prints them
_REGISTERED = re.compile(r'((mmdet|mmseg|mmpretrain)\.[A-Z])?\w+')


def from_work_dir(folder: str | Path) -> 'Config':
    """Return the config of the training in a work dir, from the `NAME.py` that mmengine writes there.

    Of several, for trainings with different configs in one folder, the newest is read. If the folder was moved since,
    converted annotations are those that moved with it.

    Raises:
        InputError: there is no such file, or `from_text` refuses it.
    """
    file = written_config(folder)
    cfg = from_text(read_text(file, LONGEST), file)
    for part in nested(cfg._cfg_dict):
        for key, value in part.items():
            if isinstance(value, str) and '/coco/' in value and not os.path.exists(value):  # noqa: PTH110
                moved = Path(folder).absolute() / 'coco' / value.rpartition('/coco/')[2]
                part[key] = str(moved) if moved.exists() else value
    return cfg


def written_config(folder: str | Path) -> Path:
    """Return the newest config in a work dir.

    Raises:
        InputError: there is none.
    """
    files = sorted(filter(is_file, Path(folder).glob('*.py')), key=lambda file: file.stat().st_mtime)
    if not files:
        raise InputError(f'{folder}: no config in this folder; name a config, or the work dir of a training')
    return files[-1]


def from_text(text: str, filename: str | Path | None = None) -> 'Config':
    """Return the config in a text that mmengine wrote, such as `meta['config_text']` of a checkpoint.

    The text is parsed as assignments of literals and `dict(...)`; nothing in it is executed, and its `custom_imports`
    are not imported. A `type` must be the name of a registered class, so that building the config executes no other
    code either.

    Args:
        text: the config in mmengine's format (`Config.pretty_text`).
        filename: the file that it comes from, for messages and as `Config.filename`.

    Raises:
        InputError: names the first line that is anything else.
    """
    from mmengine.config import Config

    source = str(filename) if filename else 'the config in the checkpoint'
    if len(text) > LONGEST:
        raise InputError(f'{source}: a config of {len(text):,} characters. Name the config file instead')
    try:
        statements = ast.parse(text).body
        content = dict(_assignment(statement) for statement in statements)
        return Config(content, cfg_text=text, filename=filename and str(filename))
    except (_Refused, SyntaxError) as error:
        reason = f'line {error.lineno or 1}: {error.msg}'
    except (AttributeError, KeyError, MemoryError, RecursionError, TypeError, ValueError) as error:
        # a reserved key, or nested too deeply
        reason = f'{type(error).__name__}: {error}' if str(error) else 'nested too deeply'
    raise InputError(f'{source}: not plain values ({reason}); nothing was executed. Name the config file instead')


def names_code(key: object, value: str) -> bool:
    """Return whether OpenMMLab would execute this value of a key: a Python path, or an expression.

    Its registries look up a name with a dot as a Python object, and mmcv evaluates the `type` of a non-maximum
    suppression.
    """
    if key in ('type', 'constructor'):
        return not _REGISTERED.fullmatch(value)
    return isinstance(key, str) and key.endswith('_type') and '.' in value and not _REGISTERED.fullmatch(value)


class _Refused(Exception):
    """An expression that a written config does not contain."""

    def __init__(self, node: ast.stmt | ast.expr, reason: str):
        super().__init__(reason)
        self.lineno, self.msg = node.lineno, reason


def _assignment(statement: ast.stmt) -> tuple[str, Any]:
    targets = statement.targets if isinstance(statement, ast.Assign) else []
    names = [target.id for target in targets if isinstance(target, ast.Name)]
    if not isinstance(statement, ast.Assign) or len(names) < len(targets):
        raise _Refused(statement, 'not an assignment to a name')
    if len(names) > 1 or names[0] == '_base_':
        raise _Refused(statement, 'not a single assignment' if len(names) > 1 else 'has a _base_')
    return names[0], _value(statement.value, names[0])


def _value(node: ast.expr, key: object = None) -> Any:
    """Return the value of a literal; `key` is its name in the dictionary around it."""
    match node:
        case ast.Constant(value=str() as value):
            if names_code(key, value):
                raise _Refused(node, f"{key}='{value}' is not a registered name of OpenMMLab")
            return value
        case ast.Constant(value=bool() | int() | float() | None as value):
            return value
        case ast.Name(id=name) if name in _NUMBERS:
            return float(name)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float()) | ast.Name() as operand):
            return -_value(operand)
        case ast.List(elts=items):
            return [_value(item, key) for item in items]
        case ast.Tuple(elts=items):
            return tuple(_value(item, key) for item in items)
        case ast.Dict(keys=keys, values=values) if None not in keys:
            names = [_value(name) for name in keys if name is not None]
            return {name: _value(value, name) for name, value in zip(names, values, strict=True)}
        case ast.Call(func=ast.Name(id='dict'), args=[], keywords=keywords) if all(k.arg for k in keywords):
            return {keyword.arg: _value(keyword.value, keyword.arg) for keyword in keywords}
        case ast.Call(func=ast.Name(id='dict'), args=[ast.Dict() as mapping], keywords=[]):  # keys are no identifiers
            return _value(mapping)
        case ast.Call(func=ast.Name(id='float'), args=[ast.Constant(value=str() as number)], keywords=[]):
            return float(number)
    raise _Refused(node, f'{ast.unparse(node)[:60]} is not a literal')
