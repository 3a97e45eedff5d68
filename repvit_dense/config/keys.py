"""The keys that something reads, for every dictionary of a config."""

import inspect
from typing import TYPE_CHECKING, Any

from repvit_dense import plugin
from repvit_dense.checkpoints.provenance import DECLARED
from repvit_dense.config.arguments import (
    DEFAULT_TYPES,
    REGISTRIES,
    SPLITS,
    TAKEN_OUT,
    find,
    names_read,
    parts,
    signature,
)
from repvit_dense.config.structure import scope
from repvit_dense.errors import InputError, nearest

if TYPE_CHECKING:
    from mmengine.config import Config

Parameters = dict[str, inspect.Parameter | None]

# Read from the config itself, not through the arguments of the runner.
READ_ELSEWHERE = (
    *('compile', 'find_unused_parameters', 'sync_bn', 'model_wrapper_cfg', 'embedded_data', 'weights'),
    'provenance',
    *('activation_checkpointing', 'efficient_conv_bn_eval'),
)
LOADER_KEYS = (
    *('dataset', 'sampler', 'batch_sampler', 'collate_fn', 'worker_init_fn'),
    *('num_batch_per_epoch', 'disable_subprocess_warning'),
)
FIXED = {
    'auto_scale_lr': ('enable', 'base_batch_size'),
    'env_cfg': ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'),
    'env_cfg.mp_cfg': ('mp_start_method', 'opencv_num_threads'),
    'provenance': DECLARED,
    'optim_wrapper.clip_grad': ('type', 'max_norm', 'norm_type', 'error_if_nonfinite', 'foreach', 'clip_value'),
}


def accepted(cfg: 'Config', path: str) -> Parameters | None:
    """Return the keys that may stand in the dictionary at a path, with their parameters as far as these are known.

    None if this cannot be said before the model is built.
    """
    section, _, rest = path.partition('.')
    if not path or not rest or section not in REGISTRIES:
        return _untyped(cfg, path)
    try:
        part = next((part for part in parts(cfg, section) if part.path == path), None)
    except InputError:  # is reported when the parts are checked
        return None
    if part is None:
        return _untyped(cfg, path)
    if part.kind is None:
        return None
    return _of_class(part.kind, section)


def check_keys(cfg: 'Config') -> None:
    """Refuse keys that nothing reads in the dictionaries that are no parts, such as a data loader.

    Raises:
        InputError: names the key and the most similar one.
    """
    constructor = (cfg.get('optim_wrapper') or {}).get('constructor')
    if constructor is not None:
        find(constructor, 'optim_wrapper.constructor', scope(cfg), ('OPTIM_WRAPPER_CONSTRUCTORS',))
    loaders = [f'{split}_dataloader' for split in SPLITS]
    for path in (
        *FIXED,
        *loaders,
        'embedded_data',
        'randomness',
        'optim_wrapper.paramwise_cfg',
        'train_cfg',
        'val_cfg',
        'test_cfg',
    ):
        value: Any = cfg
        for key in path.split('.'):
            value = value.get(key) if hasattr(value, 'get') else None
        known = accepted(cfg, path) if isinstance(value, dict) else None
        for key in value if known is not None else ():
            if known is not None and key not in known:
                raise InputError(f'{path}.{key}: nothing reads this key{nearest(str(key), known)}')


def _untyped(cfg: 'Config', path: str) -> Parameters | None:
    if path in DEFAULT_TYPES or path in ('train_cfg', 'val_cfg', 'test_cfg', 'model'):
        return _section(cfg, path)
    if path in FIXED:
        return dict.fromkeys(FIXED[path])
    if path in ('', 'randomness'):
        plugin.load()
        from mmengine.runner import Runner

        function: Any = Runner.set_randomness if path else Runner.__init__
        parameters = dict(inspect.signature(function).parameters)
        return {name: parameters.get(name) for name in (*parameters, *(() if path else READ_ELSEWHERE))}
    if path == 'embedded_data':
        from repvit_dense.data import shapes

        return dict(signature(shapes.generate).parameters)
    if path.endswith('_dataloader'):
        from torch.utils.data import DataLoader

        return {**signature(DataLoader).parameters, **dict.fromkeys(LOADER_KEYS)}
    if path == 'optim_wrapper.paramwise_cfg':
        name = cfg.optim_wrapper.get('constructor') or 'DefaultOptimWrapperConstructor'
        kind = find(name, 'optim_wrapper.constructor', scope(cfg), ('OPTIM_WRAPPER_CONSTRUCTORS',))
        return dict.fromkeys(names_read((kind,), r'\w*paramwise_cfg'))
    if path.startswith('optim_wrapper.paramwise_cfg.custom_keys.'):
        return dict.fromkeys(('lr_mult', 'decay_mult'))
    if path.startswith(('model.train_cfg', 'model.test_cfg')):
        return dict.fromkeys(names_read(_kinds(cfg, 'model')))
    if path.endswith(('_prefix', '.filter_cfg')):
        return dict.fromkeys(names_read(_kinds(cfg, path.partition('.')[0]), r'\w*(?:cfg|prefix)'))
    return None


def _section(cfg: 'Config', section: str) -> Parameters | None:
    """Return the keys of a section whose `type` may be left out."""
    part = cfg.get(section) or {}
    names = {
        'train_cfg': ('EpochBasedTrainLoop', 'IterBasedTrainLoop'),
        'val_cfg': ('ValLoop',),
        'test_cfg': ('TestLoop',),
    }
    chosen = [part.get('type') or DEFAULT_TYPES.get(section)]
    if chosen == [None]:
        chosen = [*names.get(section, ())]
    known: Parameters = {'by_epoch': None} if 'type' not in part and section == 'train_cfg' else {}
    for name in chosen:
        keys = _of_class(find(name, section, scope(cfg), REGISTRIES[section]), section)
        if keys is None:
            return None
        known |= keys
    return known


def _of_class(kind: Any, section: str) -> Parameters | None:
    known = signature(kind)
    if known.is_open:
        return None
    return {**known.parameters, **dict.fromkeys((*TAKEN_OUT.get(section, ()), 'type', '_scope_'))}


def _kinds(cfg: 'Config', section: str) -> tuple[Any, ...]:
    try:
        return tuple(dict.fromkeys(part.kind for part in parts(cfg, section) if part.kind is not None))
    except InputError:
        return ()
