"""What was measured, as a table and as a picture."""

from pathlib import Path

from repvit_dense.files import replacing


def to_text(report: dict) -> str:
    """Times in milliseconds; a column for every part that some subject has."""
    size = '{batch}x3x{size[0]}x{size[1]}'.format(**report)
    form = f'{report["device"]}, {report["precision"]}{", compiled" if report["compiled"] else ""}'
    lines = [f'{size}, {form}, {report["threads"]} threads, {report["rounds"]} rounds, torch {report["torch"]}']
    for what in dict.fromkeys(row['measurement'] for row in report['rows']):
        lines += ['', *_table([row for row in report['rows'] if row['measurement'] == what])]
    return '\n'.join(lines)


def _table(rows: list[dict]) -> list[str]:
    parts = list(dict.fromkeys(part for row in rows for part in row['parts']))
    extra = [key for key in COLUMNS if any(key in row for row in rows)]
    cells = [[rows[0]['measurement'], 'ms', 'min', 'max', 'speed-up', *parts, *(COLUMNS[key][0] for key in extra)]]
    for row in rows:
        times = [f'{1000 * row[key]:.1f}' for key in ('median', 'min', 'max')]
        own = [f'{1000 * row["parts"][part]:.1f}' if part in row['parts'] else '-' for part in parts]
        more = [COLUMNS[key][1](row[key]) if key in row else '-' for key in extra]
        cells.append([row['subject'], *times, f'{row["speedup"]:.2f}x', *own, *more])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        '  '.join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in cells
    ]


COLUMNS = {
    'params': ('M params', lambda count: f'{count / 1e6:.2f}'),
    'macs': ('GMACs', lambda count: f'{count / 1e9:.2f}'),
    'saved_bytes': ('saved MiB', lambda size: f'{size / 2**20:.1f}'),
    'peak_bytes': ('peak MiB', lambda size: f'{size / 2**20:.1f}'),
    'share': ('waiting for data', lambda share: f'{share:.0%}'),
}


def draw(report: dict, path: Path) -> None:
    """A bar per subject for each measurement: medians, by part where there are parts, and the range of the rounds."""
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    names = list(dict.fromkeys(row['measurement'] for row in report['rows']))
    figure, axes = pyplot.subplots(
        len(names), 1, figsize=(9, 0.9 + 0.5 * len(report['rows']) + 0.6 * len(names)), squeeze=False
    )
    for axis, name in zip(axes[:, 0], names, strict=True):
        _bars(axis, [row for row in report['rows'] if row['measurement'] == name])
        axis.set_title(name, loc='left')
        axis.set_xlabel('milliseconds')
    figure.tight_layout()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)
    pyplot.close(figure)


def _bars(axis, rows: list[dict]) -> None:
    parts = list(dict.fromkeys(part for row in rows for part in row['parts'])) or ['whole']
    for place, row in enumerate(rows):
        left = 0.0
        own = row['parts'] or {'whole': row['median']}
        for index, part in enumerate(parts):
            width = 1000 * own.get(part, 0.0)
            label = part if place == 0 else None
            axis.barh(place, width, left=left, color=f'C{index}', label=label)
            left += width
        low, high = (1000 * row[key] for key in ('min', 'max'))
        axis.plot([low, high], [place, place], color='black', linewidth=1)
    axis.set_yticks(range(len(rows)), [row['subject'] for row in rows])
    axis.invert_yaxis()
    if len(parts) > 1:
        axis.legend(fontsize='small')
