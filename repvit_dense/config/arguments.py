"""Find the class of each part of a config, and the arguments that this class accepts."""

import ast
import functools
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from repvit_dense import plugin
from repvit_dense.config.structure import one_line, scope
from repvit_dense.errors import InputError, nearest

if TYPE_CHECKING:
    from mmengine.config import Config

SPLITS = ('train', 'val', 'test')
# Key of the config -> the registries of its parts.
REGISTRIES = {
    'model': ('MODELS', 'TASK_UTILS', 'WEIGHT_INITIALIZERS'),
    **{f'{split}_dataloader': ('DATASETS', 'TRANSFORMS', 'DATA_SAMPLERS', 'FUNCTIONS') for split in SPLITS},
    **{f'{split}_evaluator': ('METRICS', 'EVALUATOR', 'TASK_UTILS') for split in SPLITS},
    **{f'{split}_cfg': ('LOOPS',) for split in SPLITS},
    'optim_wrapper': ('OPTIM_WRAPPERS', 'OPTIMIZERS', 'OPTIM_WRAPPER_CONSTRUCTORS'),
    'param_scheduler': ('PARAM_SCHEDULERS',),
    'default_hooks': ('HOOKS',),
    'custom_hooks': ('HOOKS', 'TRANSFORMS', 'MODELS'),
    'visualizer': ('VISUALIZERS', 'VISBACKENDS'),
    'log_processor': ('LOG_PROCESSORS',),
}
# Key of a part -> its registry, if the key says it.
BY_KEY = {
    **dict.fromkeys(('dataset', 'datasets'), 'DATASETS'),
    **dict.fromkeys(('pipeline', 'transforms'), 'TRANSFORMS'),
    **dict.fromkeys(('sampler', 'batch_sampler'), 'DATA_SAMPLERS'),
    **{'optimizer': 'OPTIMIZERS', 'metrics': 'METRICS', 'vis_backends': 'VISBACKENDS', 'default_hooks': 'HOOKS'},
}
LISTS_OF_PARTS = (
    *('datasets', 'pipeline', 'transforms', 'custom_hooks', 'metrics', 'param_scheduler', 'vis_backends'),
    *('val_evaluator', 'test_evaluator'),
)
NEEDS_TYPE = (*LISTS_OF_PARTS, 'dataset', 'sampler', 'optimizer', 'default_hooks')
DEFAULT_TYPES = {'optim_wrapper': 'OptimWrapper', 'visualizer': 'Visualizer', 'log_processor': 'LogProcessor'}
# Keys that the runner takes out before it calls the class.
TAKEN_OUT = {
    'optim_wrapper': ('constructor', 'optimizer', 'paramwise_cfg'),
    'param_scheduler': ('convert_to_iter_based', 'epoch_length'),
    **dict.fromkeys(('default_hooks', 'custom_hooks'), ('priority',)),
    'nms': ('class_agnostic', 'split_thr', 'iou_thr'),
}
SUPPLIED = (
    *('boxes', 'scores', 'dets', 'iou_threshold'),
    *('save_dir', 'dataloader', 'dataset', 'evaluator', 'optimizer', 'params', 'runner', 'sampler', 'batch_size'),
)


# Keys of dictionaries with names of classes or parameters, or with a `type` of their own.
NO_PARTS = ('metainfo', 'paramwise_cfg', 'clip_grad', 'on_trace_ready')


class Part(NamedTuple):
    """A dictionary with a `type`.

    Attributes:
        path: keys and indices that lead to it, joined by dots.
        content: the dictionary.
        kind: the class or function; None for a `type` in a model that is in no registry, such as that of `nms`.
    """

    path: str
    content: dict
    kind: Any


def parts(cfg: 'Config', section: str) -> Iterator[Part]:
    """Yield every part of a section; see `REGISTRIES` for the sections.

    Raises:
        InputError: a part has no `type`, or its `type` is not registered.
    """
    if isinstance(cfg.get(section), dict | list | tuple):
        yield from _within(cfg[section], section, section, scope(cfg), REGISTRIES[section])


def _within(value: Any, path: str, key: str, library: str, registries: tuple[str, ...]) -> Iterator[Part]:
    if isinstance(value, list | tuple):
        for i, item in enumerate(value):
            if key in LISTS_OF_PARTS and not (isinstance(item, dict | list | tuple) or callable(item)):
                raise InputError(f'{path}.{i} = {item!r}: must be a dictionary with a type')
            yield from _within(item, f'{path}.{i}', key, library, registries)
    elif isinstance(value, dict) and key not in NO_PARTS:
        name = value.get('type') or DEFAULT_TYPES.get(path)
        if name is not None:
            likely = BY_KEY.get(key)
            yield Part(path, value, _find(name, path, library, (likely,) if likely in registries else registries))
            if str(name).startswith('Albu'):  # its transforms are those of albumentations
                return
        elif (
            path in ('model', *DEFAULT_TYPES) or key in NEEDS_TYPE and path not in ('default_hooks', 'param_scheduler')
        ):
            raise InputError(f'{path}: has no type')
        for inner, item in value.items():
            yield from _within(item, f'{path}.{inner}', key if path == 'default_hooks' else inner, library, registries)


def _find(name: Any, path: str, library: str, registries: tuple[str, ...]) -> Any:
    """Return the class or function of a part; None for a part of the model that is found in another way."""
    if isinstance(name, str) and registries == REGISTRIES['model'] and path != 'model':
        return look_up(name, library, registries)[0]
    return find(name, path, library, registries)


def find(name: Any, path: str, library: str, registries: tuple[str, ...]) -> Any:
    """Return the class or function of this name.

    Raises:
        InputError: the name is not registered; the message names the most similar one.
    """
    if not isinstance(name, str):
        if callable(name):
            return name
        raise InputError(f'{path}.type = {name!r}: must be the name of a class')
    kind, known = look_up(name, library, registries)
    if kind is None:
        kinds = ' or '.join(registry.lower().replace('_', ' ') for registry in registries)
        place = path if path.endswith('constructor') else f'{path}.type'
        raise InputError(f"{place} = '{name}': not registered among the {kinds}{nearest(name, known)}")
    return kind


@functools.cache
def look_up(name: str, library: str, registries: tuple[str, ...]) -> tuple[Any, tuple[str, ...]]:
    """Return the class or function of this name, or None and all names in the registries."""
    known: list[str] = []
    for registry_name in registries:
        registry: Any = _registry(library, registry_name)
        try:
            kind = registry.get(name)
        except Exception:  # a name with dots makes mmengine import modules, which may raise anything
            kind = None
        if kind is not None:
            return kind, ()
        while registry is not None:
            known += registry.module_dict
            registry = registry.parent
    return None, tuple(known)


@functools.cache
def _registry(library: str, name: str) -> Any:
    plugin.load()
    import mmengine.registry

    try:
        module = import_module(f'{library}.registry')
        for part in ('datasets', 'engine', 'evaluation', 'models', 'visualization'):
            import_module(f'{library}.{part}')  # registers its classes
    except (ImportError, ValueError) as error:
        raise InputError(f"default_scope = '{library}': must be 'mmdet' or 'mmseg' ({error})") from error
    return getattr(module, name, None) or getattr(mmengine.registry, name)


class Signature(NamedTuple):
    """The arguments that a class or function accepts.

    Attributes:
        parameters: name -> parameter.
        required: names of the parameters of the class itself that have no default.
        is_open: other names may be accepted too.
    """

    parameters: dict[str, inspect.Parameter]
    required: tuple[str, ...]
    is_open: bool


@functools.cache
def signature(kind: Any) -> Signature:
    """Return the arguments of a class, including those it passes to its bases as `**kwargs`."""
    parameters: dict[str, inspect.Parameter] = {}
    required: list[str] = []
    bases = (
        [vars(base)['__init__'] for base in kind.__mro__ if '__init__' in vars(base)]
        if inspect.isclass(kind)
        else [kind]
    )
    for i, function in enumerate(bases):
        if function is object.__init__:
            break
        try:
            own = list(inspect.signature(function).parameters.values())[inspect.isclass(kind) :]
        except (TypeError, ValueError):  # written in C
            return Signature(parameters, tuple(required), True)
        for parameter in own:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                parameters.setdefault(parameter.name, parameter)
                required += [parameter.name] if i == 0 and parameter.default is parameter.empty else []
        others = next((parameter.name for parameter in own if parameter.kind is parameter.VAR_KEYWORD), None)
        if others is None:
            return Signature(parameters, tuple(required), False)
        goes_to = _destination(function, others)
        if goes_to == 'nowhere':
            break
        if goes_to == 'elsewhere':
            known = _receiver(kind)
            return Signature({**parameters, **known}, tuple(required), not known)
    return Signature(parameters, tuple(required), False)


def _receiver(kind: Any) -> dict[str, inspect.Parameter]:
    """Return the arguments that a hook of mmengine accepts as `**kwargs` for something else."""
    from mmengine.hooks import CheckpointHook, EMAHook
    from mmengine.model import ExponentialMovingAverage, MomentumAnnealingEMA
    from mmengine.runner import Runner

    if kind is CheckpointHook:
        return dict(inspect.signature(Runner.save_checkpoint).parameters)
    if kind is EMAHook:
        return {**signature(ExponentialMovingAverage).parameters, **signature(MomentumAnnealingEMA).parameters}
    return {}


def _destination(function: Any, name: str) -> str:
    """Return where `**name` of a constructor goes: to the constructor of a 'base', 'nowhere' or 'elsewhere'."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, SyntaxError, TypeError):
        return 'elsewhere'
    uses = [node for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == name]
    passed = [
        keyword.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == '__init__'
        for keyword in node.keywords
        if keyword.arg is None
    ]
    if not uses:
        return 'nowhere'
    return 'base' if all(use in passed for use in uses) else 'elsewhere'


def check_arguments(cfg: 'Config', sections: Sequence[str] = tuple(REGISTRIES)) -> None:
    """Refuse a `type` that is not registered, and arguments that its class does not accept or lacks.

    Of `model` only the `type` is checked here: `building` builds it.

    Raises:
        InputError: names the place and the most similar class or argument.
    """
    from mmengine.registry import init_default_scope

    init_default_scope(scope(cfg))
    for section in sections:
        for part in parts(cfg, section):
            if part.path.endswith('.nms'):
                _check_nms(part)
            elif section != 'model' and part.kind is not None:
                _bind(part, section)
                _try(part)


def _bind(part: Part, section: str) -> None:
    accepted = signature(part.kind)
    name = getattr(part.kind, '__name__', str(part.kind))
    names = (*accepted.parameters, *TAKEN_OUT.get(section, ()), 'type', '_scope_')
    for key in part.content:
        if not accepted.is_open and key not in names:
            raise InputError(f'{part.path}.{key}: {name} has no such argument{nearest(key, names)}')
    missing = [key for key in accepted.required if key not in part.content and key not in SUPPLIED]
    if missing and not part.path.endswith(('collate_fn', 'worker_init_fn')):  # the data loader supplies them
        raise InputError(f'{part.path}: {name} needs the argument {", ".join(missing)}')


def _check_nms(part: Part) -> None:
    """Refuse a non-maximum suppression that mmcv does not have; it evaluates the `type` as Python."""
    module = import_module('mmcv.ops.nms')  # `mmcv.ops.nms` itself is the function
    kinds = {name: getattr(module, name) for name in ('nms', 'soft_nms', 'nms_match', 'nms_quadri', 'nms_rotated')}
    name = part.content['type']
    if name not in kinds:
        raise InputError(f'{part.path}.type = {name!r}: must be one of {", ".join(kinds)}')
    _bind(part._replace(kind=kinds[name]), 'nms')


def _try(part: Part) -> None:
    """Build a transform or an optimizer, which takes no time, to see whether it accepts its values."""
    import torch
    from mmcv.transforms import BaseTransform

    first: list[Any] = []
    if not inspect.isclass(part.kind) or not issubclass(part.kind, BaseTransform | torch.optim.Optimizer):
        return
    if issubclass(part.kind, torch.optim.Optimizer):
        first = [[torch.nn.Parameter(torch.zeros(1))]]
    try:
        part.kind(*first, **{key: value for key, value in part.content.items() if key not in ('type', '_scope_')})
    except (AssertionError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        text = one_line(error) or type(error).__name__
        raise InputError(f'{part.path}: {part.kind.__name__} cannot be built ({text})') from error
    except Exception:  # noqa: S110  a package that is missing here, or a GPU: said when the run builds it
        pass


@functools.cache
def names_read(kinds: tuple[Any, ...], variable: str = r'\w*cfg') -> frozenset[str]:
    """Return the keys that the modules of classes and their bases read from dictionaries of these variables."""
    bases = {base for kind in kinds for base in getattr(kind, '__mro__', (kind,))}
    modules = {base.__module__ for base in bases} - {'builtins', 'torch.nn.modules.module'}
    reads = (
        rf'{variable}\)?(?:\.get\(|\.pop\(|\[)\s*[\'"](\w+)[\'"]',  # cfg.get('name'), cfg['name']
        rf'{variable}\.(\w+)',
        rf'[\'"](\w+)[\'"] (?:not )?in [\w.]*{variable}',
    )
    pattern = re.compile('|'.join(reads))
    names: set[str] = set()
    for module in modules & sys.modules.keys():
        try:
            source = inspect.getsource(sys.modules[module])
        except (OSError, TypeError):
            continue
        names.update(name for groups in pattern.findall(source) for name in groups if name)
    return frozenset(names)
