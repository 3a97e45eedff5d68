"""Load a config by path or name and apply the options of a command."""

import difflib
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.config.dumped import from_text, from_work_dir
from repvit_dense.config.editing import set_backbone, set_dataset
from repvit_dense.config.schedule import set_epochs
from repvit_dense.config.structure import one_line
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config

CHECKPOINT_SUFFIXES = ('.pth', '.pt')
PACKAGE = Path(__file__).parents[1]
# In a checkout configs/ lies beside the package; in an installed wheel inside it.
CONFIG_FOLDERS = (PACKAGE.parent / 'configs', PACKAGE / '.mim' / 'configs')


def load(
    path: str | Path,
    options: list[str] | None = None,
    backbone: str | None = None,
    data: str | None = None,
    work_dir: str | None = None,
    epochs: int | None = None,
) -> 'Config':
    """Read a config file and apply the options of a command.

    Args:
        path: path of the file, the name of a packaged config, or a work dir or checkpoint for the config that it was
            trained with, which is parsed without executing it.
        options: `key=value` pairs, applied last.
        backbone: name of another backbone, see `set_backbone`.
        data: name or folder of another data set, see `set_dataset`.
        work_dir: output folder of the run, also for converted annotations.
        epochs: another length of the training, see `set_epochs`.

    Raises:
        InputError: the file is missing or cannot be read, an option is not `key=value`, or a name is unknown.
    """
    cfg = _read(Path(path))
    if work_dir:
        cfg.work_dir = work_dir
    if backbone:
        set_backbone(cfg, backbone)
    if data:
        set_dataset(cfg, data)
    if epochs is not None:
        set_epochs(cfg, epochs)
    for option in options or ():
        apply_option(cfg, option)
    return cfg


def _read(path: Path) -> 'Config':
    """Return the config of a file, a packaged name, a work dir or a checkpoint."""
    if path.is_dir():
        return from_work_dir(path)
    if path.suffix in CHECKPOINT_SUFFIXES and path.is_file():
        return _from_checkpoint(path)
    file = find(path)
    from mmengine.config import Config  # takes seconds to import; a mistyped name is refused before

    try:
        return Config.fromfile(file)
    except Exception as error:  # a config is Python and may raise anything
        raise InputError(f'{file}: cannot read this config: {type(error).__name__}: {error}') from error


def _from_checkpoint(path: Path) -> 'Config':
    from repvit_dense.checkpoints.reading import read

    meta = read(path).get('meta')
    text = meta.get('config_text') if isinstance(meta, dict) else None
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
        if candidate.is_file():
            return candidate
    raise InputError(f'{path}: no such config file. Packaged ones: {", ".join(names())}')


def names() -> list[str]:
    """Return the names of the packaged configs."""
    return sorted({file.stem for folder in CONFIG_FOLDERS for file in folder.glob('*.py')})


def apply_option(cfg: 'Config', option: str) -> None:
    """Apply one `key=value` of `--cfg-options`.

    Raises:
        InputError: it is not `key=value`, or the config has no such key.
    """
    from mmengine.config import DictAction

    key, equals, value = option.partition('=')
    if not key or not equals:
        raise InputError(f"--cfg-options takes key=value pairs, such as train_cfg.max_epochs=1; got '{option}'")
    section = key.partition('.')[0]
    similar = difflib.get_close_matches(section, cfg, n=1, cutoff=0.8)
    if section not in cfg and similar:
        raise InputError(f"--cfg-options {option}: this config has no '{section}'; did you mean '{similar[0]}'?")
    # mmengine's parser of lists drops spaces, which a path may contain.
    parse = DictAction._parse_iterable if set(value) & set('[](),') else DictAction._parse_int_float_bool
    try:
        cfg.merge_from_dict({key: parse(value.strip('\'"'))})
    except (AssertionError, KeyError, TypeError) as error:
        raise InputError(f'--cfg-options {option}: cannot be applied to this config ({one_line(error)})') from error
