"""Read configs that mmengine wrote, from a work dir or a checkpoint, without executing anything in them."""

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config

_NUMBERS = ('inf', 'nan')  # written without quotes, as Python prints them
# mmengine's registries look up an unknown name with a dot as a Python object: 'os.system' would be called.
_REGISTERED = re.compile(r'((mmdet|mmseg|mmpretrain)\.[A-Z])?\w+')


def from_work_dir(folder: str | Path) -> 'Config':
    """Return the config of the training in a work dir, from the `NAME.py` that mmengine writes there.

    Of several, for trainings with different configs in one folder, the newest is read.

    Raises:
        InputError: there is no such file, or `from_text` refuses it.
    """
    folder = Path(folder)
    files = sorted(folder.glob('*.py'), key=lambda file: file.stat().st_mtime)
    if not files:
        raise InputError(f'{folder}: no config in this folder; name a config, or the work dir of a training')
    return from_text(files[-1].read_text(encoding='utf-8'), files[-1])


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
    try:
        statements = ast.parse(text).body
        content = dict(_assignment(statement) for statement in statements)
        return Config(content, cfg_text=text, filename=filename and str(filename))
    except (_Refused, SyntaxError) as error:
        reason = f'line {error.lineno or 1}: {error.msg}'
    except (KeyError, MemoryError, RecursionError, TypeError, ValueError) as error:  # a reserved key; nested too deeply
        reason = f'{type(error).__name__}: {error}'
    raise InputError(f'{source}: not plain values ({reason}); nothing was executed. Name the config file instead')


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
            names_class = isinstance(key, str) and (key in ('type', 'constructor') or key.endswith('_type'))
            if names_class and '.' in value and not _REGISTERED.fullmatch(value):
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
