"""`repvit-dense test`: evaluate a checkpoint or an artifact."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.commands.base import (
    CHECKPOINT,
    RunOptions,
    check_checkpoint,
    checkpoint_of,
    keep_memory,
    open_run_config,
    stands_for_model,
)
from repvit_dense.errors import InputError
from repvit_dense.options import option

if TYPE_CHECKING:
    from mmengine.config import Config


@dataclasses.dataclass
class Options(RunOptions):
    """Options of `test`."""

    checkpoint: str | Path | None = option(None, positional=True, nargs='?', help=CHECKPOINT)
    _: dataclasses.KW_ONLY
    artifact: str | Path | None = option(None, metavar='DIR', help='evaluate this artifact instead of a checkpoint')
    threads: int | None = option(None, type=int, metavar='N', help='CPU threads of an artifact')
    deploy: bool = option(False, help='evaluate the fused model')
    show_dir: str | Path | None = option(
        None, metavar='DIR', help='write pictures (ground truth beside prediction) and a page of them'
    )


def run(options: Options) -> dict[str, float]:
    """Evaluate a checkpoint or an artifact.

    Returns:
        the metrics of the config's evaluators, by name.

    Raises:
        InputError: an option, the data, the checkpoint or the artifact cannot be used.
    """
    _check_subject(options)
    cfg = open_run_config(options)
    from repvit_dense.config import check, prepare_data

    if not options.artifact:
        cfg.load_from, cfg.resume = checkpoint_of(options, options.checkpoint), False
        check_checkpoint(cfg)
        cfg.model.backbone.pop('init_cfg', None)  # the checkpoint holds all weights
    if options.deploy:
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), {'type': 'DenseFuseHook'}]
    if options.show_dir:
        cfg.default_hooks.visualization.update(draw=True, test_out_dir=str(Path(options.show_dir).absolute()))
    if options.artifact:
        from repvit_dense.exporting import evaluate

        evaluate.check(cfg, options.artifact)
    prepare_data(cfg)
    check(cfg, ('test',))
    if options.artifact:
        evaluate.use_artifact(cfg, options.artifact, options.threads)

    from repvit_dense.engine.runner import DenseRunner

    with keep_memory():
        metrics = DenseRunner.from_cfg(cfg).test()
    if options.show_dir:
        print(f'Page: {_write_page(options, Path(options.show_dir), cfg, metrics)}')
    return metrics


def _check_subject(options: Options) -> None:
    """Refuse anything but exactly one checkpoint or artifact, and options of the other kind."""
    subjects = [options.checkpoint, options.artifact, stands_for_model(options.config) or None]
    if sum(subject is not None for subject in subjects) != 1:
        raise InputError('name a checkpoint, or an artifact (--artifact DIR); one of the two')
    if options.artifact and options.deploy:
        raise InputError('--deploy: an artifact is fused already; leave it out')
    if options.threads and not options.artifact:
        raise InputError('--threads goes with --artifact; for a checkpoint set OMP_NUM_THREADS')


def _write_page(options: Options, show_dir: Path, cfg: 'Config', metrics: dict[str, float]) -> Path:
    from repvit_dense.page import write_page

    folder = show_dir.absolute()
    curves = Path(cfg.load_from).absolute().parent / 'curves.png' if cfg.load_from else None
    pictures = sorted(folder.glob('*.png')) + sorted(folder.glob('*.jpg'))
    title = Path(options.config).stem
    return write_page(folder, title, pictures, 'Ground truth (left) beside prediction (right)', metrics, curves)
