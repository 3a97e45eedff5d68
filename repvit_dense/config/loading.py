"""Load a config by path or name and apply the options of a command."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.artifact import pretrained
from repvit_dense.config import source
from repvit_dense.config.cfg_options import apply_options
from repvit_dense.config.dumped import from_text, from_work_dir
from repvit_dense.config.editing import forget_data, set_backbone, set_dataset, training_folders
from repvit_dense.config.source import CONFIG_FOLDERS
from repvit_dense.config.values import check_sections
from repvit_dense.errors import InputError, nearest
from repvit_dense.files import is_file, is_folder

if TYPE_CHECKING:
    from mmengine.config import Config

CHECKPOINT_SUFFIXES = ('.pth', '.pt', '.safetensors')


def load(
    path: str | Path,
    options: list[str] | None = None,
    backbone: str | None = None,
    data: str | None = None,
    work_dir: str | None = None,
    change: Callable[['Config'], None] | None = None,
) -> 'Config':
    """Read a config file and apply the options of a command.

    Args:
        path: path of the file, the name of a packaged config, or a work dir or checkpoint for the config that it was
            trained with, which is parsed without executing it.
        options: `key=value` pairs, applied last.
        backbone: name of another backbone, see `set_backbone`.
        data: name or folder of another data set, see `set_dataset`.
        work_dir: output folder of the run, also for converted annotations.
        change: makes further changes, after those of backbone and data and before those of `options`.

    Raises:
        InputError: the file is missing or cannot be read, an option is not `key=value`, or a name is unknown.
    """
    cfg = _read(Path(path))
    if backbone or data or change:
        check_sections(cfg)
    if work_dir:
        cfg.work_dir = work_dir
    if backbone:
        set_backbone(cfg, backbone)
    if data:
        set_dataset(cfg, data)
    if change:
        change(cfg)
    _apply_options(cfg, options or [])
    return cfg


def _apply_options(cfg: 'Config', options: list[str]) -> None:
    """Apply options; with other data, what the config states about its data goes unless an option states it."""
    if not isinstance(cfg.get('provenance'), dict):
        apply_options(cfg, options)
        return
    before = training_folders(cfg)
    apply_options(cfg, options)
    if training_folders(cfg) != before:
        forget_data(cfg, [option.partition('=')[0] for option in options])


def _read(path: Path) -> 'Config':
    """Return the config of a file, a packaged name, a work dir or a checkpoint."""
    if is_folder(path):
        return from_work_dir(path)
    if path.suffix in CHECKPOINT_SUFFIXES and is_file(path):
        return _from_checkpoint(path)
    return source.read(find(path))


def _from_checkpoint(path: Path) -> 'Config':
    from repvit_dense.checkpoints.reading import read

    meta = read(path, 'meta').get('meta')
    text = meta.get('config_text', meta.get('cfg')) if isinstance(meta, dict) else None  # mmengine writes `cfg` now
    if not isinstance(text, str):
        raise InputError(f'{path}: no config in this checkpoint; name its config, then the checkpoint')
    return from_text(text, path)


def find(path: str | Path) -> Path:
    """Return the config file at this path, else the packaged one of this name, with or without `configs/` and `.py`.

    Raises:
        InputError: there is no such file.
    """
    path = Path(path)
    candidates = [path]
    if path.parent in (Path(), Path('configs')):  # a mistyped path to another folder must not find a packaged config
        candidates += [folder / name for folder in CONFIG_FOLDERS for name in (path.name, f'{path.name}.py')]
    for candidate in candidates:
        if is_file(candidate):
            return candidate
    if os.path.lexists(path) and not is_folder(path):
        raise InputError(f'{path}: not a config; it is no regular file')
    hint = nearest(path.name, [*names(), *pretrained.NAMES])
    raise InputError(f'{path}: no such config file. Packaged ones: {", ".join(names())}{hint}')


def names() -> list[str]:
    """Return the names of the packaged configs."""
    return sorted({file.stem for folder in CONFIG_FOLDERS for file in folder.glob('*.py')})
