"""Results where people would rather look: a picture of the run's curves, a page of predictions."""

import html
import json
import os
from pathlib import Path
from urllib.parse import quote

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class ReportHook(Hook):
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
    for name in sorted({key for record in losses for key in record if key.startswith('loss')}):
        points = [(record['iter'], record[name]) for record in losses if name in record]
        above.plot(*zip(*points, strict=True), label=name, linewidth=2 if name == 'loss' else 1)
    above.set(ylabel='loss (running mean)', yscale='log')
    per_epoch = _iterations_per_epoch(losses)
    for name in sorted({key for record in scores for key in record if _is_main_score(key)}):
        points = [(record['step'] * per_epoch, record[name]) for record in scores if name in record]
        below.plot(*zip(*points, strict=True), label=name, marker='o')
    below.set(xlabel='iteration', ylabel='validation score', ylim=(0, 1))
    below.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (above, below):
        axes.grid(alpha=0.3)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize='small', loc='upper left', bbox_to_anchor=(1, 1))  # beside the lines, not over them
    path = work_dir / 'curves.png'
    partial = path.with_suffix('.partial.png')
    figure.savefig(partial, dpi=120)
    plt.close(figure)
    partial.replace(path)
    return path


def _is_main_score(key: str) -> bool:
    return key.endswith(('mAP', 'mAP_50', 'mIoU', 'PQ'))


def _iterations_per_epoch(losses: list[dict]) -> float:
    """Scores are logged by epoch where training is; 1 where it is not."""
    rates = [record['iter'] / record['epoch'] for record in losses if record.get('epoch')]
    return max(rates, default=1)


def write_page(folder: Path, title: str, metrics: dict[str, float], pictures: list[Path], curves: Path | None) -> Path:
    """Write `index.html` into `folder`: the scores, the curves, and every picture (ground truth beside prediction)."""

    def image(path: Path) -> str:
        link = html.escape(quote(os.path.relpath(path, folder).replace(os.sep, '/')))
        return f'<figure><img src="{link}" loading="lazy"><figcaption>{html.escape(path.stem)}</figcaption></figure>'

    rows = ''.join(f'<tr><td>{html.escape(k)}</td><td>{v:.3f}</td></tr>' for k, v in metrics.items())
    parts = [
        '<!doctype html><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f'<title>{html.escape(title)}</title>',
        '<style>body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:80rem;padding:0 1rem}'
        'table{border-collapse:collapse}td{border:1px solid #ccc;padding:.2rem .6rem}figure{margin:0}'
        'img{width:100%;image-rendering:auto}figcaption{color:#666;font-size:.8rem}'
        '.grid{display:grid;gap:1rem;grid-template-columns:repeat(auto-fill,minmax(22rem,1fr))}'
        '.curves{max-width:48rem}</style>',
        f'<h1>{html.escape(title)}</h1><h2>Scores</h2><table>{rows}</table>',
    ]
    if curves and curves.exists():
        parts.append(f'<h2>Training</h2><div class="curves">{image(curves)}</div>')
    if pictures:
        parts.append('<h2>Ground truth (left) beside prediction (right)</h2>')
        parts.append(f'<div class="grid">{"".join(image(path) for path in pictures)}</div>')
    path = folder / 'index.html'
    partial = folder / 'index.html.partial'
    partial.write_text('\n'.join(parts))
    partial.replace(path)
    return path
