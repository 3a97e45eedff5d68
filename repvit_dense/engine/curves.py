"""Draw the losses and scores of a training."""

import json
from pathlib import Path

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from repvit_dense.files import replacing

# Scores that mmseg and mmdet report in percent; all others are between 0 and 1.
IN_PERCENT = ('mIoU', 'PQ')


@HOOKS.register_module()
class DenseCurvesHook(Hook):
    """A hook that draws losses and scores into the work directory and logs the path of the best checkpoint."""

    priority = 'LOWEST'

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

    If a later start repeats steps of an earlier one, the records of the later start are used. Incomplete lines, which a
    killed process leaves, are ignored.
    """
    losses: list[dict] = []
    scores: list[dict] = []
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        records = [record for line in path.read_text('utf-8', 'replace').splitlines() if (record := _read_record(line))]
        for earlier, new in (
            (losses, [record for record in records if 'loss' in record]),
            (scores, [record for record in records if 'loss' not in record]),
        ):
            if new:
                earlier[:] = [record for record in earlier if record.get('step', 0) < new[0].get('step', 0)] + new
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


def draw_curves(work_dir: Path) -> Path:
    """Write `curves.png`: losses above, validation scores below, both over iterations; return its path."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    losses, scores = read_scalars(work_dir)
    figure = Figure(figsize=(10, 8), layout='constrained')
    above, below = figure.subplots(2, 1, sharex=True)
    for name in sorted({key for record in losses for key in record if _is_main_loss(key)}):
        points = [(record['iter'], record[name]) for record in losses if name in record]
        above.plot(*zip(*points, strict=True), label=_escape(name), linewidth=2 if name == 'loss' else 1)
    above.set(ylabel='loss (running mean)', yscale='log')
    per_epoch = _iterations_per_epoch(losses)
    for name in sorted({key for record in scores for key in record if _is_main_score(key)}):
        scale = 0.01 if name.endswith(IN_PERCENT) else 1
        points = [(record['step'] * per_epoch, record[name] * scale) for record in scores if name in record]
        below.plot(*zip(*points, strict=True), label=_escape(name), marker='o')
    below.set(xlabel='iteration', ylabel='validation score', ylim=(0, 1))
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (above, below):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize='small', loc='upper left', bbox_to_anchor=(1, 1))  # beside the lines
    path = work_dir / 'curves.png'
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)
    return path


def _escape(name: str) -> str:
    """Return a name in which matplotlib finds no formula."""
    return name.replace('$', r'\$')


def _is_main_loss(key: str) -> bool:
    """Return whether a loss is the sum or one of its parts, but not of an earlier decoder layer.

    mmseg prefixes the name of the head.
    """
    return key.removeprefix('decode.').removeprefix('aux.').startswith('loss')


def _is_main_score(key: str) -> bool:
    return key.endswith(('mAP', 'mAP_50', *IN_PERCENT))


def _iterations_per_epoch(losses: list[dict]) -> float:
    """Return the factor from the step of a score to iterations: scores are logged by epoch if training is by epoch."""
    rates = [record['iter'] / record['epoch'] for record in losses if record.get('epoch')]
    return max(rates, default=1)
