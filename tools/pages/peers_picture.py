"""Draw the chart of docs/peers.md: latency over multiply-accumulates, one point per backbone."""

import math
import re
from collections.abc import Sequence
from pathlib import Path

from repvit_dense.files import replacing

# Prefix of a backbone name -> family; a longer prefix stands before a shorter one that it contains.
FAMILIES = {
    **{'repvit': 'RepViT', 'mobilenet': 'MobileNet', 'shufflenet': 'ShuffleNet', 'mobilevitv2': 'MobileViTv2'},
    **{'mobilevit': 'MobileViT', 'efficientformerv2': 'EfficientFormerV2', 'efficientformer': 'EfficientFormer'},
    **{'fastvit': 'FastViT', 'mobileone': 'MobileOne', 'poolformer': 'PoolFormer', 'edgevit': 'EdgeViT'},
    **{'mobile_former': 'Mobile-Former', 'pvtv2': 'PVTv2', 'pvt': 'PVT', 'swin': 'Swin', 'mvitv2': 'MViTv2'},
    **{'vit': 'ViT', 'resnet': 'ResNet', 'efficientnet': 'EfficientNet', 'efficientvit': 'EfficientViT'},
    **{'ghostnet': 'GhostNet', 'repghostnet': 'RepGhost', 'fasternet': 'FasterNet', 'starnet': 'StarNet'},
    **{'hgnet': 'HGNet', 'convnext': 'ConvNeXt', 'inception_next': 'InceptionNeXt', 'swiftformer': 'SwiftFormer'},
    **{'edgenext': 'EdgeNeXt'},
}
MARKERS = 'osD^vP'
THROUGHPUTS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # of the dashed lines, in GMAC/s
DISTANCES = (8, 14, 22, 32, 44)  # of a label from its point, in points (1/72 inch)
DIRECTIONS = (0, 180, 90, 270, 45, 135, 225, 315)  # of a label from its point, in degrees


def family(name: str) -> tuple[str, str]:
    """Split a backbone name into its family and its variant."""
    prefix = next(prefix for prefix in FAMILIES if name.startswith(prefix))
    return FAMILIES[prefix], re.sub(r'(?<=\d)_(?=\d)', '.', name.removeprefix(prefix).strip('_')).replace('_', ' ')


def draw(rows: Sequence[dict], path: Path) -> None:
    """Draw the latency of the exported backbones over their multiply-accumulates.

    Args:
        rows: the rows of one head from `peers.to_rows`; failed ones are skipped.
        path: image file.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(12, 9), layout='constrained')
    families: dict[str, list[tuple[float, float, str]]] = {}
    for row in rows:
        if 'error' not in row:
            title, variant = family(row['backbone'])
            families.setdefault(title, []).append((row['backbone_macs'] / 1e9, 1000 * row['alone'], variant))
    colours = {title: pyplot.cm.tab20(i * 2 % 20 + i // 10 % 2) for i, title in enumerate(FAMILIES.values())}
    for i, (title, points) in enumerate(sorted(families.items())):
        x, y, _ = zip(*points, strict=True)
        marker = MARKERS[i % len(MARKERS)]
        axis.scatter(x, y, s=48, color=colours[title], marker=marker, label=title, edgecolor='black', linewidth=0.4)
    axis.set(xscale='log', yscale='log', xlabel='GMACs of the backbone', ylabel='exported, ms')
    _draw_throughputs(axis)
    axis.grid(alpha=0.2)
    axis.legend(fontsize='small', ncols=2, loc='best')
    figure.canvas.draw()  # sets the pixel coordinates that the labels are placed in
    _label(figure, axis, [(*point, colours[title]) for title, points in families.items() for point in points])
    with replacing(path) as partial:
        figure.savefig(partial, dpi=110)
    pyplot.close(figure)


def _draw_throughputs(axis) -> None:
    """Draw dashed lines of equal GMAC/s inside the current limits."""
    from matplotlib import ticker

    (left, right), (low, high) = axis.get_xlim(), axis.get_ylim()
    for value in THROUGHPUTS:
        x, y = right, 1000 * right / value
        if y > high:
            x, y = high * value / 1000, high
        if x <= left or y <= low:
            continue
        axis.plot([left, x], [1000 * left / value, y], color='grey', linewidth=0.8, linestyle='--', zorder=0)
        alignment = {'ha': 'left', 'va': 'center'} if x == right else {'ha': 'center', 'va': 'bottom'}
        axis.text(x, y, f' {value} GMAC/s ', color='grey', fontsize='small', **alignment)
    axis.set(xlim=(left, right), ylim=(low, high))
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        side.set_major_formatter(ticker.FormatStrFormatter('%g'))
        side.set_minor_formatter(ticker.NullFormatter())


def _label(figure, axis, points: Sequence[tuple]) -> None:
    """Write each label at the nearest free position around its point, or omit it; the table has all names.

    Args:
        points: x, y, text and colour of each point.
    """
    from matplotlib.text import Text
    from matplotlib.transforms import Bbox

    renderer, frame = figure.canvas.get_renderer(), axis.bbox
    pixels = axis.transData.transform([point[:2] for point in points])
    occupied = [Bbox.from_bounds(x - 5, y - 5, 10, 10) for x, y in pixels]
    occupied.append(axis.get_legend().get_window_extent(renderer))
    angles = [math.radians(degrees) for degrees in DIRECTIONS]
    offsets = [(length * math.cos(angle), length * math.sin(angle)) for length in DISTANCES for angle in angles]
    for x, y, text, colour in points:
        for dx, dy in offsets:
            note = _annotate(axis, text, (x, y), (dx, dy), colour)
            note.update_positions(renderer)
            box = Text.get_window_extent(note, renderer)
            is_inside = all(frame.contains(*corner) for corner in (box.min, box.max))
            if is_inside and not any(box.overlaps(other) for other in occupied):
                occupied.append(box)
                break
            note.remove()


def _annotate(axis, text: str, point: tuple[float, float], offset: tuple[float, float], colour):
    """Write a label at an offset in points, with a line to its point if it is far."""
    dx, dy = offset
    return axis.annotate(
        text,
        point,
        offset,
        textcoords='offset points',
        ha='center' if abs(dx) < 1 else 'left' if dx > 0 else 'right',
        va='center' if abs(dy) < 1 else 'bottom' if dy > 0 else 'top',
        fontsize=8,
        arrowprops={'arrowstyle': '-', 'color': colour, 'linewidth': 0.6} if math.hypot(dx, dy) > 15 else None,
    )
