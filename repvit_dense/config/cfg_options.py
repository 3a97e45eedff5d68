"""Apply `--cfg-options KEY=VALUE`: parse the value, and refuse a key that nothing reads and a value of another kind."""

import inspect
import re
import types
import typing
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from repvit_dense.config.keys import accepted
from repvit_dense.errors import InputError, nearest

if TYPE_CHECKING:
    from mmengine.config import Config

_INT = re.compile(r'[+-]?[0-9]+')
_FLOAT = re.compile(r'[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|inf|infinity|nan)', re.IGNORECASE)
_CLOSING = {'[': ']', '(': ')'}
_WORDS = {
    'bool': 'True or False',
    'int': 'a whole number',
    'float': 'a number',
    'str': 'text',
    'list': 'a list',
    'dict': 'a dictionary',
    'none': 'None',
}


def apply_options(cfg: 'Config', options: Sequence[str]) -> None:
    """Apply the `key=value` pairs of `--cfg-options`.

    Raises:
        InputError: see `apply_option`; or a key is given twice.
    """
    keys = [option.partition('=')[0] for option in options]
    for key, option in zip(keys, options, strict=True):
        if keys.count(key) > 1:
            raise InputError(f'--cfg-options {option}: {key} is given twice')
        apply_option(cfg, option)


def split(option: str) -> tuple[str, str]:
    """Return key and value of one `key=value`; raise InputError if it is none."""
    key, equals, text = option.partition('=')
    if not equals or not all(step and step == step.strip() for step in key.split('.')):
        raise InputError(f"--cfg-options takes key=value pairs, such as train_cfg.max_epochs=1; got '{option}'")
    return key, text


def apply_option(cfg: 'Config', option: str) -> None:
    """Apply one `key=value` of `--cfg-options`.

    Raises:
        InputError: it is not `key=value`, nothing reads the key, or the value is of another kind than the old one.
    """
    key, text = split(option)
    steps = key.split('.')
    try:
        parent, rest = _descend(cfg, steps)
        for i in range(len(steps) - len(rest) + 1, len(steps)):
            _check_key(cfg, {}, steps[: i + 1], [])
        exists, old = _item(parent, rest[0]) if len(rest) == 1 else (False, None)
        in_dictionary = isinstance(parent, dict) or len(rest) > 1
        parameter = (accepted(cfg, '.'.join(steps[:-1])) or {}).get(steps[-1]) if in_dictionary else None
        if _is_list_of_texts(old) and text != 'None' and not set(text) & set('[(,'):
            text = f'[{text}]'  # one name is a list of it
        value = _convert(text, _kinds_allowed(exists, old, parameter, steps[-1]))
        if isinstance(old, list | tuple) and isinstance(value, list | tuple):
            value = type(old)(value)
            if old and all(_is_number(item) for item in old) and not all(_is_number(item) for item in value):
                raise _Refused(f'{key} must be a list of numbers, as {list(old)}')
        cfg.merge_from_dict({key: value})
    except _Refused as error:
        raise InputError(f'--cfg-options {option}: {error}') from error
    except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f'--cfg-options {option}: cannot be applied to this config ({error})') from error


class _Refused(Exception):
    """A key or a value that cannot be used."""


def _descend(cfg: 'Config', steps: list[str]) -> tuple[Any, list[str]]:
    """Return the innermost existing dictionary or list on the way to a key, and the steps from it to the key."""
    value: Any = cfg._cfg_dict
    for i, step in enumerate(steps):
        path = '.'.join(steps[:i])
        if isinstance(value, list | tuple):
            if not re.fullmatch(r'[0-9]{1,9}', step) or int(step) >= len(value):
                raise _Refused(f'cannot be applied, {path} has the entries 0 to {len(value) - 1}')
        elif not isinstance(value, dict):
            raise _Refused(f'cannot be applied, {path} is {_WORDS.get(_kind(value), "no dictionary")}')
        elif step not in value or (not i and step not in (accepted(cfg, '') or ())):
            _check_key(cfg, value, steps[: i + 1], steps[i + 1 :])
        exists, inner = _item(value, step)
        if i == len(steps) - 1 or not exists or inner is None:
            return value, steps[i:]
        value = inner
    return value, []


def _item(parent: Any, step: str) -> tuple[bool, Any]:
    if isinstance(parent, dict):
        return step in parent, parent.get(step)
    return True, parent[int(step)]


def _check_key(cfg: 'Config', parent: dict, steps: list[str], rest: list[str]) -> None:
    """Refuse a new key that nothing reads, and the name of a variable of the config file."""
    path, key = '.'.join(steps[:-1]), steps[-1]
    known = dict.fromkeys(parent) if path == 'default_hooks' and rest and rest != ['type'] else accepted(cfg, path)
    if key == 'launcher' and not path:
        raise _Refused('use --launcher')
    if known is not None and key not in known:
        if key in parent:
            places = ', '.join(_places(cfg, key, parent[key], list(known))[:3])
            hint = f'; set it at its place: {places}' if places else ''
            raise _Refused(f"'{key}' is a variable of the config file, nothing reads it afterwards{hint}")
        raise _Refused(f"nothing reads the key '{'.'.join(steps)}'{nearest(key, [*parent, *known])}")
    if known is None and key == '_delete_':
        raise _Refused("'_delete_' is possible in config files only")


def _places(cfg: 'Config', name: str, value: Any, sections: list[str]) -> list[str]:
    """Return the keys of this name and value in the sections that are read."""

    def within(part: Any, path: str) -> typing.Iterator[str]:
        for key, inner in part.items() if isinstance(part, dict) else enumerate(part):
            if key == name and inner == value:
                yield f'{path}.{key}'
            if isinstance(inner, dict | list | tuple):
                yield from within(inner, f'{path}.{key}')

    return [place for section in sections for place in within(cfg.get(section) or {}, section) if cfg.get(section)]


# --- values ---


def parse(text: str) -> Any:
    """Return the value of a text: a number, True, False, None, text, or a list or tuple of values in brackets.

    Values with commas between them are a list. Quotes make text of anything.
    """
    text = text.strip()
    if text.startswith(('{', 'dict(')):
        raise _Refused('a dictionary cannot be given; set its keys one by one, as key.name=value')
    if text.startswith(tuple(_CLOSING)) or ',' in text:
        items = _split(text)
        return _value(text) if len(items) == 1 else [_value(item) for item in items if item.strip()]
    return _value(text)


def _split(text: str) -> list[str]:
    """Split at the commas that are neither in brackets nor in quotes."""
    items, start, previous, quote = [], 0, ',', ''
    closing: list[str] = []
    for i, character in enumerate(text):
        if quote:
            quote = '' if character == quote else quote
        elif character in '\'"' and previous in '[(,':
            quote = character
        elif character in _CLOSING:
            closing.append(_CLOSING[character])
        elif character in _CLOSING.values():
            if not closing or closing.pop() != character:
                raise _Refused('the brackets do not match')
        elif character == ',' and not closing:
            items.append(text[start:i])
            start = i + 1
        previous = previous if character.isspace() else character
    if closing or quote:
        raise _Refused('the brackets or quotes do not match')
    return [*items, text[start:]]


def _value(text: str) -> Any:
    text = text.strip()
    if text[:1] in _CLOSING and text[-1:] == _CLOSING[text[0]]:
        items = [_value(item) for item in _split(text[1:-1]) if item.strip()]
        return items if text[0] == '[' else tuple(items)
    if len(text) > 1 and text[0] in '\'"' and text[-1] == text[0]:
        return text[1:-1]
    if _INT.fullmatch(text):
        if len(text) > 19:
            raise _Refused(f'{text} is too large')
        return int(text)
    if _FLOAT.fullmatch(text):
        number = float(text)
        if number - number != 0:
            raise _Refused(f'{text} is not a finite number')
        return number
    if text.lower() in ('true', 'false'):
        return text.lower() == 'true'
    return None if text == 'None' else text


def _convert(text: str, allowed: set[str] | None) -> Any:
    """Return the value of a text as one of the allowed kinds."""
    if allowed == {'str'} or allowed == {'str', 'none'}:
        return None if text.strip() == 'None' and 'none' in allowed else _unquote(text.strip())
    value = parse(text)
    kind = _kind(value)
    if allowed is None or kind in allowed or (kind == 'int' and 'float' in allowed):
        return value
    if kind == 'float' and 'int' in allowed and value.is_integer():
        return int(value)
    if 'str' in allowed and kind != 'none':
        return _unquote(text.strip())
    named = allowed - {'int'} if 'float' in allowed else allowed
    words = ' or '.join(_WORDS[name] for name in _WORDS if name in named)
    raise _Refused(f'must be {words}, not {_WORDS[kind]}')


def _unquote(text: str) -> str:
    return text[1:-1] if len(text) > 1 and text[0] in '\'"' and text[-1] == text[0] else text


def _kinds_allowed(exists: bool, old: Any, parameter: inspect.Parameter | None, key: str) -> set[str] | None:
    """Return the kinds of values that may replace an old one; None for any.

    They are the kind of the old value, and those that the constructor names or has as its default.
    """
    annotated = _annotated(parameter.annotation) if parameter else None
    allowed = set(annotated or ())
    if parameter and parameter.default is not parameter.empty:
        allowed |= _similar_kinds(parameter.default)
        if annotated is None and parameter.default is None and (not exists or old is None):
            return None
    if exists and old is not None:
        allowed |= _similar_kinds(old, exact=annotated is not None)
        if annotated is None and key in ('in_channels', 'in_index'):
            allowed |= {'list', 'int'}  # one number, or one per level
    elif annotated is None and not allowed - {'none'}:
        return None
    return allowed or None


def _similar_kinds(value: Any, exact: bool = False) -> set[str]:
    kind = _kind(value)
    alike = {'str': {'str', 'none'}, 'list': {'list', 'none'}, 'dict': {'dict', 'none'}}
    if not exact:
        alike |= {'int': {'int', 'float'}, 'float': {'int', 'float'}}
    return alike.get(kind, {kind})


def _annotated(annotation: Any) -> set[str] | None:
    """Return the kinds of an annotation; None if it says nothing."""
    if annotation in (None, type(None)):
        return {'none'}
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        kinds = [_annotated(part) for part in typing.get_args(annotation)]
        return None if None in kinds else set().union(*(part for part in kinds if part is not None))
    if origin is typing.Literal:
        return {_kind(value) for value in typing.get_args(annotation)}
    kind = origin or annotation
    if not isinstance(kind, type) or kind is inspect.Parameter.empty or kind is object:
        return None
    if kind is float:
        return {'int', 'float'}
    for base, name in ((bool, 'bool'), (int, 'int'), (str, 'str'), (dict, 'dict')):
        if issubclass(kind, base):
            return {name}
    return {'list'} if issubclass(kind, list | tuple) or kind in (Sequence, typing.Iterable) else None


def _kind(value: Any) -> str:
    for kind, name in ((bool, 'bool'), (int, 'int'), (float, 'float'), (str, 'str'), (dict, 'dict')):
        if isinstance(value, kind):
            return name
    return 'none' if value is None else 'list' if isinstance(value, list | tuple) else 'other'


def _is_list_of_texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(item, str) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
