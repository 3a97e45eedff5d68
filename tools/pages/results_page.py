"""Write the generated section of docs/results.md from results/*.csv."""

import re
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path

from repvit_dense.errors import InputError
from repvit_dense.files import write_text
from tools.pages import results_rows, results_training
from tools.pages.results_rows import Row
from tools.pages.results_table import DATA, SEEDS, TRAININGS, Data, Metric, Training

FILE = Path('docs', 'results.md')
BEGIN, END = '<!-- generated: results on photographs -->', '<!-- end of results on photographs -->'
NOT_MEASURED = 'not measured'
SAME_RECIPE = ('iterations', 'recipe', 'parameters')  # columns that are the same for all seeds
INTRODUCTION = (
    '## Photographs',
    '',
    'Every row is a training by the public command, repeated with other seeds: mean, and in brackets the smallest and',
    'the largest value. CPU minutes are those of one training with its validations, summed over the cores. Budgets and',
    'targets were set before the trainings; a target is compared with the mean. All scores of all trainings are in',
    '[results/](../results), one row each. `make results` trains what is not measured yet, one training at a time, and',
    'writes this section from the rows.',
)


def write() -> None:
    """Replace the section between its marks in the page.

    Raises:
        InputError: the page has no marks, or rows of one training do not fit each other.
    """
    text = FILE.read_text('utf-8') if FILE.is_file() else ''
    if len(re.findall(f'{BEGIN}.*?{END}', text, re.DOTALL)) != 1:
        raise InputError(f'{FILE}: needs the lines {BEGIN} and {END}, once; the section goes between them')
    before, _, rest = text.partition(BEGIN)
    write_text(FILE, f'{before}{BEGIN}\n\n{section()}\n\n{END}{rest.partition(END)[2]}')


def section() -> str:
    """Return the section: a part per data set."""
    return '\n\n'.join(['\n'.join(INTRODUCTION), *(part(data) for data in DATA)])


def part(data: Data) -> str:
    """Return the part of a data set: scores, published results, scores per class, pictures, commands."""
    trainings = [training for training in TRAININGS if training.data is data]
    rows = {training.name: _rows_of(training) for training in trainings}
    blocks = [
        f'### {data.title}',
        textwrap.fill(data.text, 118, break_long_words=False, break_on_hyphens=False),
        '\n'.join(score_table(trainings, rows)),
        *_missing(trainings, rows),
        *_other_protocols(data),
        *class_table(data, trainings),
        *_pictures(data),
        *_machines(rows),
        '\n'.join(['```text', *(line for training in trainings for line in commands(training, rows)), '```']),
    ]
    return '\n\n'.join(blocks)


def _rows_of(training: Training) -> list[Row]:
    """Return the rows of a training.

    Raises:
        InputError: they were trained with different settings, so their mean would mean nothing.
    """
    rows = [row for row in results_rows.read(training.data) if row['model'] == training.name]
    for column in SAME_RECIPE:
        if len({row[column] for row in rows}) > 1:
            values = ', '.join(f'seed {row["seed"]}: {row[column]}' for row in rows)
            raise InputError(
                f'{results_rows.FOLDER / training.data.name}.csv: the trainings of {training.name} differ in {column} '
                f'({values}); delete the rows of the old ones and train them again'
            )
    return rows


# --- scores ---


def score_table(trainings: Sequence[Training], rows: dict[str, list[Row]]) -> list[str]:
    """Return the table of scores, with published results that are comparable below."""
    titles = list(dict.fromkeys(metric.title for training in trainings for metric in training.metrics))
    head = ['model', 'starts from', 'parameters', *titles, 'target', 'seeds', 'CPU minutes (budget)', 'source']
    lines = [_cells(head), '|---' * len(head) + '|']
    for training in trainings:
        mine, by_title = rows[training.name], {metric.title: metric for metric in training.metrics}
        lines.append(
            _cells(
                [
                    f'**{training.title}**',
                    _weights(training, mine),
                    f'{int(mine[0]["parameters"]) / 1e6:.2f} M' if mine and mine[0]['parameters'] else '',
                    *(spread(by_title[title], mine) if title in by_title else '' for title in titles),
                    '; '.join(_targets(training, rows)),
                    ', '.join(row['seed'] for row in mine) or 'none',
                    _minutes(training, mine),
                    f'this project, {training.split} images',
                ]
            )
        )
    for other in trainings[0].data.published:
        if other.comparable:
            size = f'{other.parameters} M' if other.parameters else ''
            scores = [other.scores.get(title, '') for title in titles]
            lines.append(_cells([other.name, other.protocol, size, *scores, '', '', '', other.source]))
    return lines


def _cells(cells: Sequence[str]) -> str:
    return f'| {" | ".join(cells)} |'


def _weights(training: Training, rows: list[Row]) -> str:
    if not training.pretrained:
        return 'random'
    return ', '.join(['ImageNet', *dict.fromkeys(f'`{row["weights"]}`' for row in rows)])


def _values(metric: Metric, rows: list[Row]) -> list[float]:
    return [float(row[metric.name]) for row in rows if row.get(metric.name)]


def spread(metric: Metric, rows: list[Row]) -> str:
    """Return mean and range of a score; one value is said to be of a single seed."""
    values = _values(metric, rows)
    if len(values) < 2:
        return f'{metric.text(values[0])} (single seed)' if values else NOT_MEASURED
    return f'{metric.text(statistics.mean(values))} ({metric.text(min(values))} to {metric.text(max(values))})'


def _targets(training: Training, rows: dict[str, list[Row]]) -> list[str]:
    """Return each target of a training, and whether it was reached."""
    mine = rows[training.name]
    texts = [text for metric in training.metrics if (text := _target(metric, mine, rows))]
    if training.largest:
        size = int(mine[0]['parameters']) / 1e6 if mine and mine[0]['parameters'] else None
        reached = NOT_MEASURED if size is None else 'met' if size <= training.largest else 'missed'
        texts.append(f'at most {training.largest} M parameters: {reached}')
    return texts


def _target(metric: Metric, mine: list[Row], rows: dict[str, list[Row]]) -> str:
    values = _values(metric, mine)
    if metric.near:
        text = f'{metric.title} within {metric.margin} of {metric.near}'
        other = _values(metric, rows[metric.near])
        bound = statistics.mean(other) - metric.margin if other else None
    elif metric.target is not None:
        text, bound = f'{metric.title} ≥ {metric.text(metric.target)}', metric.target
    else:
        return ''
    if not values or bound is None:
        return f'{text}: {NOT_MEASURED}'
    lack = bound - statistics.mean(values)
    return f'{text}: {"met" if lack <= 1e-9 else f"missed by {metric.text(lack)}"}'


def _minutes(training: Training, rows: list[Row]) -> str:
    values = [float(row['cpu_minutes']) for row in rows if row['cpu_minutes']]
    if not rows:
        return f'{NOT_MEASURED} ({training.budget})'
    if not values:
        return f'not recorded ({training.budget})'
    ends = sorted({f'{min(values):.0f}', f'{max(values):.0f}'}, key=int)
    return f'{" to ".join(ends)} ({training.budget})'


def _missing(trainings: Sequence[Training], rows: dict[str, list[Row]]) -> list[str]:
    """Return a sentence about the seeds without a row."""
    lacking = []
    for training in trainings:
        seeds = [str(seed) for seed in SEEDS if str(seed) not in {row['seed'] for row in rows[training.name]}]
        if seeds:
            lacking.append(f'{training.title}, seed{"s" if len(seeds) > 1 else ""} {", ".join(seeds)}')
    return [f'Not measured: {"; ".join(lacking)}.'] if lacking else []


def _other_protocols(data: Data) -> list[str]:
    others = [other for other in data.published if not other.comparable]
    if not others:
        return []
    lines = [
        'Published under other protocols, not comparable:',
        '',
        '| model | score | protocol | source |',
        '|---' * 4 + '|',
    ]
    for other in others:
        scores = ', '.join(f'{title} {score}' for title, score in other.scores.items())
        lines.append(_cells([other.name, scores, other.protocol, other.source]))
    return ['\n'.join(lines)]


def class_table(data: Data, trainings: Sequence[Training]) -> list[str]:
    """Return a table of the score of each class, the mean over the seeds."""
    rows = results_rows.read_classes(data) if data.class_score else []
    measured = [training for training in trainings if any(row['model'] == training.name for row in rows)]
    if not measured:
        return []
    decimals = 1 if data.class_score == 'IoU' else 3
    lines = [_cells([f'{data.class_score}, mean', *(training.title for training in measured)])]
    lines.append('|---' * (1 + len(measured)) + '|')
    for name in dict.fromkeys(row['class'] for row in rows):
        cells = [name]
        for training in measured:
            mine = [row for row in rows if (row['model'], row['class']) == (training.name, name)]
            values = [float(row[data.class_score]) for row in mine if row.get(data.class_score)]
            cells.append(f'{statistics.mean(values):.{decimals}f}' if values else NOT_MEASURED)
        lines.append(_cells(cells))
    return ['\n'.join(lines)]


# --- pictures, machines, commands ---


def _pictures(data: Data) -> list[str]:
    name = f'results-{data.name}.jpg'
    if not (FILE.parent / 'img' / name).is_file():
        return ['No picture yet; `python -m tools.pages results pictures WORK_DIR` draws it.']
    columns = 'photograph, labels, prediction' if data.photographs else 'predictions alone'
    return [f'![predictions on {data.title}: {columns}](img/{name})\n\nImages at even distances: {columns}.']


def _machines(rows: dict[str, list[Row]]) -> list[str]:
    texts = {}
    for row in (row for group in rows.values() for row in group):
        threads = f'{row["threads"]} thread{"s" if row["threads"] != "1" else ""}' if row['threads'] else ''
        parts = [row['processor'] or 'processor not recorded', row['instructions'], threads, f'torch {row["torch"]}']
        texts[', '.join(part for part in parts if part)] = True
    return [f'Trained on: {"; ".join(texts)}.'] if texts else []


def commands(training: Training, rows: dict[str, list[Row]]) -> list[str]:
    """Return the commands of a training and of its test; the recorded ones, else those that `run` would run."""
    lines = [f'# {training.title}']
    mine = rows[training.name]
    recorded = next((row['command'] for row in mine if row['command']), None)
    if mine and not recorded:
        lines[0] += ' (the command was not recorded; this is the one of the table)'
    seed = int(mine[0]['seed']) if mine else SEEDS[0]
    folder = results_training.work_dir(training, seed)
    lines.append(recorded or results_training.command_line(results_training.train_words(training, seed)))
    return [*lines, results_training.command_line(results_training.test_words(training, folder))]
