"""The picture of docs/peers.md: what a multiplication costs, backbone by backbone."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from repvit_dense.files import replacing

# How names of a family begin, the longer ones first where one begins another.
FAMILIES = {
    **{'repvit': 'RepViT', 'mobilenet': 'MobileNet', 'shufflenet': 'ShuffleNet', 'mobilevitv2': 'MobileViTv2'},
    **{'mobilevit': 'MobileViT', 'efficientformerv2': 'EfficientFormerV2', 'efficientformer': 'EfficientFormer'},
    **{'fastvit': 'FastViT', 'mobileone': 'MobileOne', 'poolformer': 'PoolFormer', 'edgevit': 'EdgeViT'},
    **{'mobile_former': 'Mobile-Former', 'pvtv2': 'PVTv2', 'pvt': 'PVT', 'swin': 'Swin', 'mvitv2': 'MViTv2'},
    **{'vit': 'ViT', 'resnet': 'ResNet'},
}
MARKERS = 'osD^vP'
THROUGHPUTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of the dashed lines, in GMAC/s


def family(name: str) -> tuple[str, str]:
    """The family of a backbone, and which of the family it is."""
    start = next(start for start in FAMILIES if name.startswith(start))
    return FAMILIES[start], re.sub(r'(?<=\d)_(?=\d)', '.', name.removeprefix(start).strip('_')).replace('_', ' ')


def draw(rows: Sequence[dict], path: Path) -> None:
    """Milliseconds of the exported backbones over their multiplications."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(12, 9), layout='constrained')
    points, rows = {}, [row for row in rows if 'error' not in row]
    for row in rows:
        title, which = family(row['backbone'])
        points.setdefault(title, []).append((row['backbone_macs'] / 1e9, 1000 * row['alone'], which))
    colours = {title: pyplot.cm.tab20(i * 2 % 20 + i // 10) for i, title in enumerate(FAMILIES.values())}
    for i, (title, own) in enumerate(sorted(points.items())):
        x, y, _ = zip(*own, strict=True)
        marker = MARKERS[i % len(MARKERS)]
        axis.scatter(x, y, s=48, color=colours[title], marker=marker, label=title, edgecolor='black', linewidth=0.4)
    axis.set(xscale='log', yscale='log', xlabel='GMACs of the backbone', ylabel='exported, ms')
    _draw_throughputs(axis)
    axis.grid(alpha=0.2)
    axis.legend(fontsize='small', ncols=2, loc='best')
    figure.canvas.draw()  # where labels fit is decided in pixels
    _label(figure, axis, [(*point, colours[title]) for title, own in points.items() for point in own])
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110)
    pyplot.close(figure)


def _draw_throughputs(axis) -> None:
    """Dashed lines on which a multiplication costs the same, inside the limits that the points have set."""
    from matplotlib import ticker

    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    for value in THROUGHPUTS:
        x, y = right, 1000 * right / value
        if y > high:
            x, y = high * value / 1000, high
        if x <= left or y <= low:
            continue
        axis.plot([left, x], [1000 * left / value, y], color='grey', linewidth=0.8, linestyle='--', zorder=0)
        text = {'ha': 'left', 'va': 'center'} if x == right else {'ha': 'center', 'va': 'bottom'}
        axis.text(x, y, f' {value} GMAC/s ', color='grey', fontsize='small', **text)
    axis.set(xlim=(left, right), ylim=(low, high))
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        side.set_major_formatter(ticker.FormatStrFormatter('%g'))
        side.set_minor_formatter(ticker.NullFormatter())


def _label(figure, axis, points: Sequence[tuple]) -> None:
    """Each label at the first place around its point, nearest first, where nothing is yet."""
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    renderer, frame = figure.canvas.get_renderer(), axis.bbox
    pixels = axis.transData.transform([point[:2] for point in points])
    taken = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in pixels]
    taken.append(axis.get_legend().get_window_extent(renderer))
    turns = [math.radians(degrees) for degrees in (0, 180, 90, 270, 45, 135, 225, 315)]
    places = [(far * math.cos(turn), far * math.sin(turn)) for far in (8, 14, 22, 32, 44) for turn in turns]
    for x, y, text, colour in points:
        for across, up in places:
            across_at = 'center' if abs(across) < 1 else 'left' if across > 0 else 'right'
            up_at = 'center' if abs(up) < 1 else 'bottom' if up > 0 else 'top'
            far = math.hypot(across, up) > 15
            note = axis.annotate(
                text,
                (x, y),
                (across, up),
                textcoords='offset points',
                ha=across_at,
                va=up_at,
                fontsize=8,
                arrowprops={'arrowstyle': '-', 'color': colour, 'linewidth': 0.6} if far else None,
            )
            note.update_positions(renderer)
            box = Text.get_window_extent(note, renderer)
            inside = all(frame.contains(*corner) for corner in (box.min, box.max))
            if inside and not any(box.overlaps(other) for other in taken):
                break
            note.remove()
        else:  # only the marker, which the table beside the picture names
            continue
        taken.append(box)
