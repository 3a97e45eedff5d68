"""Show the results of a benchmark as a table and as a bar chart."""

from pathlib import Path

from repvit_dense.files import replacing

# Row keys besides the times -> column title and format.
EXTRA_COLUMNS = {
    'params': ('M params', lambda count: f'{count / 1e6:.2f}'),
    'macs': ('GMACs', lambda count: f'{count / 1e9:.2f}'),
    'saved_bytes': ('saved MiB', lambda size: f'{size / 2**20:.1f}'),
    'peak_bytes': ('peak MiB', lambda size: f'{size / 2**20:.1f}'),
    'share': ('waiting for data', lambda share: f'{share:.0%}'),
}


def to_text(results: dict) -> str:
    """Return one table per measurement, with times in milliseconds and a column for every part any subject has.

    Args:
        results: the return value of `benchmark.measure`.
    """
    size = '{batch}x3x{size[0]}x{size[1]}'.format(**results)
    precision = f'{results["precision"]}{", compiled" if results["compiled"] else ""}'
    threads, rounds, version = (results[key] for key in ('threads', 'rounds', 'torch'))
    lines = [f'{size}, {results["device"]}, {precision}, {threads} threads, {rounds} rounds, torch {version}']
    for measurement in dict.fromkeys(row['measurement'] for row in results['rows']):
        lines += ['', *_table([row for row in results['rows'] if row['measurement'] == measurement])]
    return '\n'.join(lines)


def _table(rows: list[dict]) -> list[str]:
    parts = list(dict.fromkeys(part for row in rows for part in row['parts']))
    extra = [key for key in EXTRA_COLUMNS if any(key in row for row in rows)]
    titles = [rows[0]['measurement'], 'ms', 'min', 'max', 'speed-up', *parts, *(EXTRA_COLUMNS[key][0] for key in extra)]
    cells = [titles]
    for row in rows:
        times = [f'{1000 * row[key]:.1f}' for key in ('median', 'min', 'max')]
        part_times = [f'{1000 * row["parts"][part]:.1f}' if part in row['parts'] else '-' for part in parts]
        extra_cells = [EXTRA_COLUMNS[key][1](row[key]) if key in row else '-' for key in extra]
        cells.append([row['subject'], *times, f'{row["speedup"]:.2f}x', *part_times, *extra_cells])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        '  '.join([line[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True))])
        for line in cells
    ]


def draw(results: dict, path: Path) -> None:
    """Draw one bar per subject and measurement: the median, split into parts, with the range of the rounds.

    Args:
        results: the return value of `benchmark.measure`.
        path: image file; its suffix sets the format.
    """
    import matplotlib

    matplotlib.use('Agg')
    from matplotlib import pyplot

    names = list(dict.fromkeys(row['measurement'] for row in results['rows']))
    figure, axes = pyplot.subplots(
        len(names), 1, figsize=(9, 0.9 + 0.5 * len(results['rows']) + 0.6 * len(names)), squeeze=False
    )
    for axis, name in zip(axes[:, 0], names, strict=True):
        _draw_bars(axis, [row for row in results['rows'] if row['measurement'] == name])
        axis.set_title(name, loc='left')
        axis.set_xlabel('milliseconds')
    figure.tight_layout()
    with replacing(path) as partial:
        figure.savefig(partial, dpi=120)
    pyplot.close(figure)


def _draw_bars(axis, rows: list[dict]) -> None:
    parts = list(dict.fromkeys(part for row in rows for part in row['parts'])) or ['whole']
    for height, row in enumerate(rows):
        left = 0.0
        seconds = row['parts'] or {'whole': row['median']}
        for index, part in enumerate(parts):
            width = 1000 * seconds.get(part, 0.0)
            axis.barh(height, width, left=left, color=f'C{index}', label=part if height == 0 else None)
            left += width
        axis.plot([1000 * row['min'], 1000 * row['max']], [height, height], color='black', linewidth=1)
    axis.set_yticks(range(len(rows)), [row['subject'] for row in rows])
    axis.invert_yaxis()
    if len(parts) > 1:
        axis.legend(fontsize='small')
