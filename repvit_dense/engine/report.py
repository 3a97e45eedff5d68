"""Results where people would rather look: a picture of the run's curves, pictures of predictions."""

import json
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from repvit_dense.files import replacing

# Scores that mmseg and mmdet give in percent; all others lie between 0 and 1.
IN_PERCENT = ('mIoU', 'PQ')


@HOOKS.register_module()
class DensePicturesHook(Hook):
    """While testing, write a picture of every image, ground truth beside prediction.

    It takes the place of mmseg's SegVisualizationHook, which can write into the log folder only. Its arguments have the
    names that they have in mmdet's DetVisualizationHook, so a command need not know which of the two a config has.

    Args:
        draw: whether to draw at all.
        test_out_dir: folder to write into; a picture has the name of its image.
    """

    def __init__(self, draw: bool = False, test_out_dir: str | None = None):
        self.folder = Path(test_out_dir) if draw else None

    def after_test_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        import mmcv

        for sample in outputs if self.folder else ():
            image = mmcv.imread(sample.img_path, channel_order='rgb')
            path = self.folder / Path(sample.img_path).name
            runner.visualizer.add_datasample(path.stem, image, sample.cpu(), out_file=str(path))


@HOOKS.register_module()
class DenseReportHook(Hook):
    """Draw losses and scores over iterations into the work directory, and say where the best checkpoint lies."""

    priority = 'LOWEST'

    def after_train(self, runner) -> None:
        if not is_main_process():
            return
        for line in summarize(Path(runner.work_dir), runner.message_hub.runtime_info):
            runner.logger.info(line)


def summarize(work_dir: Path, runtime_info: dict) -> list[str]:
    lines = [f'Curves: {draw_curves(work_dir)}']
    best = runtime_info.get('best_ckpt')
    if best:
        lines.append(f'Best checkpoint: {best} (score {runtime_info["best_score"]:.3f})')
    return lines


def read_scalars(work_dir: Path) -> tuple[list[dict], list[dict]]:
    """Losses and validation scores that the run logged, over all its starts, in order: one dict per logged step.

    What an earlier start logged beyond the point where a later one began was given up: the later records stand.
    """
    losses, scores = [], []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for kept, new in (
            (losses, [record for record in records if 'loss' in record]),
            (scores, [record for record in records if 'loss' not in record]),
        ):
            if new:
                kept[:] = [record for record in kept if record.get('step', 0) < new[0].get('step', 0)] + new
    return losses, scores


def draw_curves(work_dir: Path) -> Path:
    """Write `curves.png`: losses above, validation scores below, both over iterations."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot as plt
    from matplotlib.ticker import MaxNLocator

    losses, scores = read_scalars(work_dir)
    figure, (above, below) = plt.subplots(2, 1, figsize=(10, 8), sharex=True, layout='constrained')
    for name in sorted({key for record in losses for key in record if _is_main_loss(key)}):
        points = [(record['iter'], record[name]) for record in losses if name in record]
        above.plot(*zip(*points, strict=True), label=name, linewidth=2 if name == 'loss' else 1)
    above.set(ylabel='loss (running mean)', yscale='log')
    per_epoch = _iterations_per_epoch(losses)
    for name in sorted({key for record in scores for key in record if _is_main_score(key)}):
        scale = 0.01 if name.endswith(IN_PERCENT) else 1
        points = [(record['step'] * per_epoch, record[name] * scale) for record in scores if name in record]
        below.plot(*zip(*points, strict=True), label=name, marker='o')
    below.set(xlabel='iteration', ylabel='validation score', ylim=(0, 1))
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (above, below):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize='small', loc='upper left', bbox_to_anchor=(1, 1))  # beside the lines, not over them
    path = work_dir / 'curves.png'
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)
    plt.close(figure)
    return path


def _is_main_loss(key: str) -> bool:
    """The whole and its parts; not those of a decoder's earlier layers. mmseg puts the name of the head before them."""
    return key.removeprefix('decode.').removeprefix('aux.').startswith('loss')


def _is_main_score(key: str) -> bool:
    return key.endswith(('mAP', 'mAP_50', *IN_PERCENT))


def _iterations_per_epoch(losses: list[dict]) -> float:
    """Scores are logged by epoch where training is; 1 where it is not."""
    rates = [record['iter'] / record['epoch'] for record in losses if record.get('epoch')]
    return max(rates, default=1)
