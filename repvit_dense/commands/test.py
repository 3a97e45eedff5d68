"""`repvit-dense test`: evaluate a checkpoint or an artifact."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense import plugin
from repvit_dense.commands.base import (
    CHECKPOINT,
    RunOptions,
    check_checkpoint,
    checkpoint_of,
    keep_memory,
    open_run_config,
    preparing,
)
from repvit_dense.commands.names import stands_for_model
from repvit_dense.compat.device import on_device
from repvit_dense.errors import InputError
from repvit_dense.files import check_writable
from repvit_dense.options import option, whole_number

if TYPE_CHECKING:
    from mmengine.config import Config


@dataclasses.dataclass
class Options(RunOptions):
    """Options of `test`."""

    checkpoint: str | Path | None = option(None, positional=True, nargs='?', help=CHECKPOINT)
    _: dataclasses.KW_ONLY
    artifact: str | Path | None = option(
        None, metavar='DIR', help='evaluate this artifact, or packaged model (nuclei), instead of a checkpoint'
    )
    threads: int | None = option(None, type=whole_number(1, 1024), metavar='N', help='CPU threads of an artifact')
    deploy: bool = option(False, help='evaluate the fused model')
    split: str | None = option(
        None, choices=('train', 'val', 'test'), help='evaluate this split (default: val, or test if there is no val)'
    )
    show_dir: str | Path | None = option(
        None,
        metavar='DIR',
        help='write pictures of all images (ground truth beside prediction), and everything else, here',
    )


def run(options: Options) -> dict[str, float]:
    """Evaluate a checkpoint or an artifact.

    Returns:
        the metrics of the config's evaluators, by name.

    Raises:
        InputError: an option, the data, the checkpoint or the artifact cannot be used.
    """
    _check_subject(options)
    from repvit_dense import config
    from repvit_dense.config.splits import use_split

    split = ''

    def change(cfg: 'Config') -> None:
        nonlocal split
        split = use_split(cfg, options.split)
        _apply(options, cfg)

    cfg = open_run_config(options, change)

    if not options.artifact:
        cfg.load_from, cfg.resume = checkpoint_of(options, options.checkpoint), False
    is_checked = config.check_data_early(cfg, ('test',))
    plugin.load()
    config.check_settings(cfg, ('test',))
    if not options.artifact:
        check_checkpoint(cfg)
        cfg.model.backbone.pop('init_cfg', None)  # the checkpoint holds all weights
    if options.deploy:
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), {'type': 'DenseFuseHook'}]
    _add_analysis(options, cfg, split)
    if options.artifact:
        from repvit_dense.exporting import evaluate

        evaluate.check(cfg, options.artifact)
    if not is_checked:
        config.prepare_data(cfg)
        config.check_data(cfg, ('test',))
    if options.artifact:
        evaluate.use_artifact(cfg, options.artifact, options.threads)

    from repvit_dense.engine.runner import DenseRunner

    with on_device(options.device), keep_memory():
        with preparing():
            runner = DenseRunner.from_cfg(cfg)
        metrics = runner.test()
    page = next(hook.page for hook in runner.hooks if type(hook).__name__ == 'DenseAnalysisHook')
    if page:
        print(f'Page: {page}')
    return metrics


def _apply(options: Options, cfg: 'Config') -> None:
    from repvit_dense.config.presets import set_loaders
    from repvit_dense.config.sizes import set_size

    if options.size is not None:
        set_size(cfg, options.size)
    set_loaders(cfg, ('val', 'test'), options.batch, options.workers)


def _check_subject(options: Options) -> None:
    """Refuse anything but exactly one checkpoint or artifact, and options of the other kind."""
    subjects = [options.checkpoint, options.artifact, stands_for_model(options.config) or None]
    if sum(subject is not None for subject in subjects) != 1:
        raise InputError('name a checkpoint, or an artifact (--artifact DIR); one of the two')
    if options.artifact and options.deploy:
        raise InputError('--deploy: an artifact is fused already; leave it out')
    if options.artifact and (options.device or options.size):
        raise InputError('--device and --size go with a checkpoint; an artifact has a size and runs on the CPU')
    if options.threads is not None and not options.artifact:
        raise InputError('--threads goes with --artifact; for a checkpoint set OMP_NUM_THREADS')
    if options.show_dir:
        check_writable(options.show_dir)


def _add_analysis(options: Options, cfg: 'Config', split: str) -> None:
    """Let the test write its scores and their analysis."""
    folder = Path(options.show_dir or Path(cfg.work_dir, split)).absolute()
    subject = f'{options.artifact or cfg.load_from} on {split}{", fused" if options.deploy else ""}'
    if options.show_dir:
        visualization = {'type': 'DensePicturesHook', 'draw': True, 'test_out_dir': str(folder)}
        cfg.default_hooks.visualization = visualization
    title = f'{Path(options.config).stem} on {split}'
    cfg.default_hooks.analysis = {
        'type': 'DenseAnalysisHook',
        'folder': str(folder),
        'title': title,
        'subject': subject,
        'split': split,
    }
