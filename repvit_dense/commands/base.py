"""Options and steps that several commands share."""

import argparse
import dataclasses
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.commands.launcher import check_launcher
from repvit_dense.commands.names import check_names, stands_for_model
from repvit_dense.config import devices
from repvit_dense.errors import InputError, shorten
from repvit_dense.files import check_writable, is_folder
from repvit_dense.options import image_size, name_of, option, whole_number

if TYPE_CHECKING:
    from mmengine.config import Config

CONFIG = 'config file, name of a packaged config, or work dir'
CHECKPOINT = 'checkpoint file or URL, or a work dir for its best checkpoint, else its last'


@dataclasses.dataclass
class ModelOptions:
    """Name a model and its data."""

    config: str | Path = option(help=CONFIG, positional=True)
    _: dataclasses.KW_ONLY
    backbone: str | None = option(None, metavar='NAME', help='replace the backbone by another one of the catalogue')
    data: str | Path | None = option(
        None,
        metavar='NAME|PATH',
        help='replace the data: coco, coco-panoptic, ade20k, cityscapes, voc, shapes, or a folder',
    )
    cfg_options: list[str] | None = option(
        None, nargs='+', metavar='KEY=VALUE', help='change values of the config, e.g. train_cfg.max_epochs=1'
    )
    offline: bool = option(
        False, help='open no connection; without published weights in a cache, training starts from random ones'
    )
    verbose: bool = option(False, help='show everything that is logged, and the notices of other libraries')


@dataclasses.dataclass
class DataOptions(ModelOptions):
    """Say how the data is read."""

    _: dataclasses.KW_ONLY
    ignore_index: int | None = option(
        None,
        type=whole_number(0, 254),
        metavar='N',
        help='leave out the pixels of semantic masks that have this value, as those of value 255',
    )


@dataclasses.dataclass
class RunOptions(DataOptions):
    """Say how train and test run."""

    _: dataclasses.KW_ONLY
    work_dir: str | Path | None = option(
        None, metavar='DIR', help='folder for everything that is written (work_dirs/CONFIG)'
    )
    seed: int | None = option(None, type=whole_number(0, 2**32 - 1), metavar='N', help='random seed')
    deterministic: bool = option(False, help='use deterministic algorithms only')
    launcher: str = option('none', choices=('none', 'pytorch', 'slurm', 'mpi'), help='how the processes were started')
    device: str | None = option(None, metavar='DEVICE', help='cpu, cuda, cuda:1, ... (default: a GPU if there is one)')
    batch: int | None = option(
        None, type=whole_number(1, 65_536), metavar='N', help='images per process and step (default: of the config)'
    )
    size: int | tuple[int, int] | None = option(
        None,
        type=image_size,
        metavar='N|WxH',
        help='size of the images in pixels; segmentors that crop: of the crops (default: of the config)',
    )
    workers: int | None = option(
        None, type=whole_number(0, 1024), metavar='N', help='processes that load data (default: of the config)'
    )
    local_rank: int = option(
        0, type=whole_number(0, 65_535), flags=('--local_rank', '--local-rank'), help=argparse.SUPPRESS
    )


def open_config(
    options: ModelOptions, work_dir: str | Path | None, change: Callable[['Config'], None] | None = None
) -> 'Config':
    """Load the config that the options name and apply their changes.

    A work dir or a checkpoint file stands for the config that it was trained with; that one is parsed, not executed.

    Args:
        options: config, backbone, data and changes.
        work_dir: folder for converted data; None for the one of the config.
        change: makes further changes; those of `--cfg-options` come later.

    Raises:
        InputError: there is no such config, or a change does not fit it.
    """
    from repvit_dense import config
    from repvit_dense.config.editing import ignore_value

    data = None if options.data is None else str(options.data)
    folder = None if work_dir is None else str(work_dir)
    cfg = config.load(options.config, options.cfg_options, options.backbone, data, folder, change)
    config.check_sections(cfg)
    ignore_index = getattr(options, 'ignore_index', None)
    if ignore_index is not None:
        ignore_value(cfg, ignore_index)
    return cfg


def open_run_config(options: RunOptions, change: Callable[['Config'], None]) -> 'Config':
    """Return the config of a training or a test, with the options of both applied; `change` applies further ones."""
    check_names(options)
    check_launcher(options.launcher, options.local_rank)
    os.environ.setdefault('LOCAL_RANK', str(options.local_rank))
    _check_given_once(options)
    devices.check(options.device, options.launcher)
    folder = options.work_dir
    if folder is None and stands_for_model(options.config):
        # A resumed training writes beside its checkpoints; any other run there would overwrite its config and data.
        resumed = getattr(options, 'resume', None) and is_folder(options.config)
        folder = options.config if resumed else default_work_dir(options)
    cfg = open_config(options, folder, change)
    cfg.work_dir = cfg.get('work_dir') or default_work_dir(options)
    check_writable(cfg.work_dir)
    cfg.launcher = options.launcher
    randomness = {'seed': options.seed, 'deterministic': options.deterministic or None}
    randomness = {key: value for key, value in randomness.items() if value is not None}
    cfg.randomness = {'seed': None, **cfg.get('randomness', {}), **randomness}
    if cfg.randomness.get('deterministic'):
        os.environ.setdefault('CUBLAS_WORKSPACE_CONFIG', ':4096:8')  # deterministic matrix products on a GPU need it
    return cfg


# Keys of the config that have an option of their own, which would be ignored or override the key.
OPTIONS_OF_KEYS = {
    'work_dir': 'work_dir',
    'randomness.seed': 'seed',
    'randomness.deterministic': 'deterministic',
    'load_from': 'resume',
    'weights': 'weights',
    'train_cfg.max_epochs': 'epochs',
    'train_cfg.max_iters': 'iters',
    'train_dataloader.batch_size': 'batch',
    'train_dataloader.num_workers': 'workers',
    'optim_wrapper.optimizer.lr': 'lr',
}


def _check_given_once(options: RunOptions) -> None:
    """Refuse an option whose value `--cfg-options` gives too."""
    for text in options.cfg_options or ():
        name = OPTIONS_OF_KEYS.get(text.partition('=')[0])
        value = getattr(options, name, None) if name else None
        if value is not None and value is not False and value != 'auto':
            field = next(field for field in dataclasses.fields(options) if field.name == name)
            raise InputError(f'--cfg-options {text}: {name_of(field)} sets the same; give one of the two')


def default_work_dir(options: ModelOptions) -> str:
    """Return one folder per config, backbone and data, so that runs do not overwrite each other's checkpoints."""
    names = [options.config, options.backbone, options.data]
    return str(Path('work_dirs', '--'.join(_title(Path(name)) for name in names if name)))


def _title(path: Path) -> str:
    return Path(os.path.abspath(path)).name if is_folder(path) else path.stem  # noqa: PTH100  links stay


def checkpoint_of(options: ModelOptions, checkpoint: str | Path | None) -> str:
    """Return the checkpoint to load: the one named, or that of the work dir or checkpoint that stands for the config.

    Raises:
        InputError: no checkpoint is named, or the work dir has none.
    """
    from repvit_dense.checkpoints.work_dir import find_checkpoint

    if checkpoint is None and not stands_for_model(options.config):
        raise InputError(f'{options.config}: a config has no weights; name a checkpoint file or a work dir after it')
    return find_checkpoint(str(checkpoint or options.config))


def check_checkpoint(cfg: 'Config') -> None:
    """Check the checkpoint of a run now: a bad one would stop the run only after model and data are built.

    Raises:
        InputError: it cannot be read, or was trained on other classes than the data has.
    """
    from repvit_dense.checkpoints.reading import read
    from repvit_dense.config import check_trained_classes

    if cfg.get('load_from'):
        check_trained_classes(cfg, read(cfg.load_from, 'meta'))


@contextmanager
def preparing(started: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Report an error while a run is being built as one of its config.

    Args:
        started: whether the run has begun; later errors are faults of something else.
    """
    try:
        yield
    except (InputError, MemoryError, OSError):
        raise
    except Exception as error:
        if _is_interrupted(error):
            raise KeyboardInterrupt from error
        if hasattr(error, 'exit_code') or started():
            raise
        text = shorten(' '.join(str(error.args[0] if error.args else error).split()), 1000)
        raise InputError(f'the run cannot be built from this config ({type(error).__name__}: {text})') from error


def _is_interrupted(error: BaseException | None) -> bool:
    """Return whether Ctrl-C is the reason of an error; mmengine turns it into another while it formats a config."""
    while error and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def keep_memory() -> AbstractContextManager[None]:
    """Return a context that reuses freed memory while the CPU computes; it does nothing if there is a GPU."""
    import torch

    from repvit_dense.memory import keep_freed_memory

    return nullcontext() if torch.cuda.is_available() else keep_freed_memory()
