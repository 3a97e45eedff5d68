"""Record the state that a package could change in other libraries, and list the differences between two records.

Tests load it with `runpy.run_path`, also in processes of their own. mmengine must be imported before `take`.
"""

import multiprocessing
import os
import signal
import sys
import types
import warnings

# Libraries whose classes are compared attribute by attribute, not only by identity.
LIBRARIES = ('mmcv', 'mmdet', 'mmengine', 'mmseg', 'multiprocessing', 'pycocotools', 'torch', 'torchvision')
MISSING = object()


def take() -> dict:
    """Return the state: label -> {key: object}. It holds references to all objects, so identities stay comparable."""
    return {'module': dict(sys.modules), 'attribute': _attributes(), 'registry': _registry(), 'setting': _settings()}


def changes(before: dict, after: dict) -> list[str]:
    """Return one line per addition, replacement and removal, sorted."""
    lines = []
    for label, old in before.items():
        new = after[label]
        for key in old.keys() | new.keys():
            was, now = old.get(key, MISSING), new.get(key, MISSING)
            if was is now or (label == 'setting' and was == now) or _is_submodule(label, key, now):
                continue
            if label == 'attribute' and key.partition(':')[0] not in before['module']:
                continue  # the module itself is new
            verb = 'adds' if was is MISSING else 'removes' if now is MISSING else 'replaces'
            lines.append(f'{verb} {label} {key}' + (f' by {now!r}' if verb == 'replaces' else ''))
    return sorted(lines)


def _is_submodule(label: str, key: str, value: object) -> bool:
    """Return whether an attribute exists because a submodule was imported."""
    return (
        label == 'attribute' and isinstance(value, types.ModuleType) and sys.modules.get(key.replace(':', '.')) is value
    )


def _attributes() -> dict:
    state = {}
    for name, module in list(sys.modules.items()):
        if not isinstance(module, types.ModuleType) or name in ('__main__', '__mp_main__'):
            continue
        for attribute, value in list(vars(module).items()):
            if attribute == '__warningregistry__':  # Python's record of the warnings of a module
                continue
            state[f'{name}:{attribute}'] = value
            if name.partition('.')[0] in LIBRARIES and issubclass(type(value), type) and value.__module__ == name:
                state.update((f'{name}:{attribute}.{key}', member) for key, member in vars(value).items())
    return state


def _registry() -> dict:
    from mmengine import registry

    state = {}
    waiting = [value for value in vars(registry).values() if isinstance(value, registry.Registry)]
    while waiting:
        root = waiting.pop()
        state.update((f'{root.scope} {root.name}: {key}', entry) for key, entry in root.module_dict.items())
        waiting += root.children.values()
    return state


def _settings() -> dict:
    import torch
    from mmengine.runner import CheckpointLoader

    return {
        **{f'sys.meta_path[{type(finder).__module__}]': finder for finder in sys.meta_path},
        **{f'os.environ[{key}]': value for key, value in os.environ.items()},
        **{f'_config[{key}]': value for key, value in multiprocessing.current_process()._config.items()},
        **{f'CheckpointLoader[{key}]': value for key, value in CheckpointLoader._schemes.items()},
        **{f'handler of {number!r}': signal.getsignal(number) for number in signal.valid_signals()},
        'sys.path': list(sys.path),
        'warnings.filters': list(warnings.filters),
        'start method': multiprocessing.get_start_method(allow_none=True),
        'threads': torch.get_num_threads(),
        'dtype': torch.get_default_dtype(),
        'deterministic': torch.are_deterministic_algorithms_enabled(),
        'random state': torch.get_rng_state().sum().item(),
    }
