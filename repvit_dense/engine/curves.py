"""Draw the losses and scores of a training."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from repvit_dense.engine.analysis.figures import label, new_figure, save
from repvit_dense.engine.analysis.report import write_rows
from repvit_dense.engine.per_class import rows

# Scores that mmseg and mmdet report in percent; all others are between 0 and 1.
IN_PERCENT = ('mIoU', 'PQ')
FEW = 60  # points that are shown, of a line
MANY, SMOOTHED = 200, 100  # points of a line that is smoothed, over this part of it on either side


@HOOKS.register_module()
class DenseCurvesHook(Hook):
    """A hook that draws losses and scores into the work directory and logs the path of the best checkpoint.

    The scores per class of the last validation are in `per_class.csv`.
    """

    priority = 'LOWEST'

    def after_val_epoch(self, runner, metrics=None) -> None:
        """Write the scores per class."""
        classes = rows(runner)
        if classes and is_main_process():
            write_rows(classes, Path(runner.work_dir, 'per_class.csv'))

    def after_train(self, runner) -> None:
        """Draw the curves and log the paths."""
        if not is_main_process():
            return
        for line in summarize(Path(runner.work_dir), runner.message_hub.runtime_info):
            runner.logger.info(line, extra={'screen': True})


def summarize(work_dir: Path, runtime_info: dict) -> list[str]:
    """Draw the curves; return log lines with their path, or the error, and with the path of the best checkpoint."""
    try:
        lines = [f'Curves: {draw_curves(work_dir)}']
    except Exception as error:  # the training is complete without them
        lines = [f'Curves: cannot be drawn ({type(error).__name__}: {error})']
    best = runtime_info.get('best_ckpt')
    if best:
        lines.append(f'Best checkpoint: {best} (score {runtime_info["best_score"]:.3f})')
    return lines


def read_scalars(work_dir: Path) -> tuple[list[dict], list[dict]]:
    """Return the logged losses and the logged validation scores, over all starts, one dictionary per step.

    `iter` is the iteration, of scores too: mmengine logs them with the epoch as their step if a config asks for it.
    If a later start repeats steps of an earlier one, the records of the later start are used. Incomplete lines, which a
    killed process leaves, are ignored.
    """
    losses: list[dict] = []
    scores: list[dict] = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        records = [record for line in path.read_text('utf-8', 'replace').splitlines() if (record := _read_record(line))]
        _count_in_iterations(records)
        for earlier, new in (
            (losses, [record for record in records if 'loss' in record]),
            (scores, [record for record in records if 'loss' not in record]),
        ):
            if new:
                earlier[:] = [record for record in earlier if record['iter'] < new[0]['iter']] + new
    return losses, scores


def _read_record(line: str) -> dict | None:
    """Return the record in a line of a log, or None if the line is incomplete."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict):
        return None
    return record if isinstance(record.get('iter' if 'loss' in record else 'step'), int) else None


def _count_in_iterations(records: list[dict]) -> None:
    """Set the iteration of the scores in the log of one start.

    A step below the iteration of an earlier line is an epoch.
    """
    by_epoch, last, rates = False, 0, [1.0]
    for record in records:
        if 'loss' in record:
            last = record['iter']
            rates += [record['iter'] / record['epoch']] if record.get('epoch') else []
        else:
            by_epoch |= record['step'] < last
    for record in records:
        if 'loss' not in record:
            record['iter'] = round(record['step'] * max(rates)) if by_epoch else record['step']


def draw_curves(work_dir: Path) -> Path:
    """Write `curves.png`: losses, validation scores and learning rate over iterations; return its path."""
    losses, scores = read_scalars(work_dir)
    figure = new_figure((10, 9))
    axes = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    _draw_losses(axes[0], losses)
    _draw_scores(axes[1], scores)
    rates = [(record['iter'], record['lr']) for record in losses if 'lr' in record]
    _plot(axes[2], rates, color='0.3')
    axes[2].set(xlabel='iteration', ylabel='learning rate', ylim=(0, None))
    axes[2].ticklabel_format(axis='y', scilimits=(-3, 3))
    end = max((record['iter'] for record in losses + scores), default=1)
    axes[2].set_xlim(0, 1.02 * max(end, 1))
    axes[2].locator_params(axis='x', integer=True)
    for each in axes:
        each.grid(alpha=0.3)
        if each.get_legend_handles_labels()[0]:
            each.legend(fontsize='small', loc='upper left', bbox_to_anchor=(1, 1))  # beside the lines
    path = work_dir / 'curves.png'
    save(figure, path)
    return path


def _draw_losses(axes, losses: list[dict]) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter

    for name in sorted({key for record in losses for key in record if _is_main_loss(key)}):
        points = [(record['iter'], record[name]) for record in losses if name in record]
        _plot(axes, points, name=label(name), linewidth=2 if name == 'loss' else 1)
    values = [record['loss'] for record in losses]
    spread = bool(values) and min(values) > 0 and max(values) > 8 * min(values)
    axes.set(ylabel='loss (running mean)', yscale='log' if spread else 'linear')
    if spread:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter('{x:g}')
        axes.yaxis.set_minor_formatter(NullFormatter())
    else:
        axes.set_ylim(bottom=0)


def _draw_scores(axes, scores: list[dict]) -> None:
    highest = 0.0
    for name in sorted({key for record in scores for key in record if _is_main_score(key)}):
        scale = 0.01 if name.endswith(IN_PERCENT) else 1
        points = [(record['iter'], record[name] * scale) for record in scores if name in record]
        best = max(value for _, value in points)
        highest = max(highest, best)
        axes.plot(
            *zip(*points, strict=True), label=f'{label(name)}: best {best:.3f}', marker='o', markersize=4, clip_on=False
        )
    axes.set(ylabel='validation score', ylim=(0, 1 if highest > 0.4 or not highest else 1.2 * highest))


def _plot(axes, points: Sequence[tuple[int, float]], name: str | None = None, **style) -> None:
    """Draw a line; show the points of a short one, and smooth a long one."""
    if not points:
        return
    x, y = map(np.array, zip(*points, strict=True))
    (line,) = axes.plot(x, y, label=name, marker='o' if len(x) <= FEW else None, markersize=4, **style)
    if len(x) > MANY and name:
        line.set(alpha=0.25, linewidth=1, label=None)
        axes.plot(x, _smooth(y, len(x) // SMOOTHED), label=name, **{'color': line.get_color(), **style})


def _smooth(values: np.ndarray, width: int) -> np.ndarray:
    """Return the mean over `width` values on either side, of fewer at the ends."""
    sums = np.concatenate([[0], np.cumsum(values)])
    position = np.arange(len(values))
    left, right = np.maximum(position - width, 0), np.minimum(position + width + 1, len(values))
    return (sums[right] - sums[left]) / (right - left)


def _is_main_loss(key: str) -> bool:
    """Return whether a loss is the sum or one of its parts, but not of an earlier decoder layer.

    mmseg prefixes the name of the head.
    """
    return key.removeprefix('decode.').removeprefix('aux.').startswith('loss')


def _is_main_score(key: str) -> bool:
    return key.endswith(('mAP', 'mAP_50', *IN_PERCENT))
