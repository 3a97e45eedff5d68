"""Collect what a work dir records about a training, and store it as a row of results/NAME.csv. Nothing is guessed."""

import csv
import fcntl
import hashlib
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from repvit_dense.errors import InputError
from repvit_dense.files import write_text
from repvit_dense.screen import say
from tools.pages.results_table import TRAININGS, Data, Training

FOLDER = Path('results')
# Columns before and after the scores. An empty cell was not recorded.
FIRST = ('model', 'split', 'config', 'backbone', 'weights', 'seed', 'iterations', 'cpu_minutes', 'parameters')
LAST = ('processor', 'instructions', 'threads', 'python', 'torch', 'repvit_dense', 'recipe', 'command')
CLASSES = ('model', 'seed', 'class')
DATA_KEY = re.compile(r'\.dataset\.(?!.*pipeline)')  # the data may lie elsewhere and have other suffixes
LOGGED = {'instructions': 'CPU capability usage', 'torch': 'PyTorch', 'python': 'Python'}

Row = dict[str, Any]


# --- from a work dir ---


def describe(folder: Path) -> Row:
    """Return all columns of a finished training but its model, split and scores.

    They come from the provenance in its last checkpoint, else from its config and its log.

    Raises:
        InputError: the folder holds no training, or one that has not ended.
    """
    from repvit_dense.checkpoints import provenance
    from repvit_dense.checkpoints.reading import read
    from repvit_dense.config.dumped import from_work_dir, written_config
    from repvit_dense.config.structure import backbone_name
    from repvit_dense.engine.same_run import settings

    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        raise InputError(f'{folder}: no checkpoint in this folder; name the work dir of a training')
    meta = read(checkpoint, 'meta')['meta']
    cfg = from_work_dir(folder)
    _check_finished(folder, meta, cfg.train_cfg)
    record = provenance.of_checkpoint({'meta': meta}) or {}
    hardware, versions = record.get('hardware') or {}, record.get('versions') or {}
    seconds = record.get('cpu_seconds')
    recipe = {key: value for key, value in settings(cfg.to_dict()).items() if not DATA_KEY.search(key)}
    return {
        'config': record.get('config') or written_config(folder).stem,
        'backbone': record.get('backbone') or backbone_name(cfg.model),
        'weights': (record.get('initial_weights') or {}).get('name') or _initial_weights(cfg),
        'seed': meta.get('seed'),
        'iterations': meta.get('iter'),
        'cpu_minutes': None if seconds is None else round(seconds / 60, 1),
        'parameters': record.get('parameters') or _count_parameters(cfg),
        'processor': hardware.get('processor'),
        'threads': hardware.get('threads'),
        'repvit_dense': versions.get('repvit_dense'),
        'recipe': hashlib.sha256(json.dumps(recipe, sort_keys=True, default=str).encode()).hexdigest()[:12],
        'command': re.sub(r'(?<=\s)(\.\./)+\S*/', '.../', record.get('command') or ''),
        **_from_log(folder),
    }


def last_checkpoint(folder: Path) -> Path | None:
    """Return the last checkpoint of a work dir; None if there is none yet."""
    from repvit_dense.checkpoints.work_dir import last_checkpoint

    checkpoint = last_checkpoint(folder)
    return Path(checkpoint) if checkpoint else None


def recorded_seconds(folder: Path) -> float | None:
    """Return the CPU seconds up to the last checkpoint; 0 without one, None if they are not recorded."""
    from repvit_dense.checkpoints import provenance
    from repvit_dense.checkpoints.reading import read

    checkpoint = last_checkpoint(folder)
    if checkpoint is None:
        return 0.0
    return (provenance.of_checkpoint(read(checkpoint, 'meta')) or {}).get('cpu_seconds')


def _check_finished(folder: Path, meta: Mapping, length: Mapping) -> None:
    unit = 'iter' if length.get('max_iters') else 'epoch'
    planned, done = length.get(f'max_{unit}s'), meta.get(unit)
    if isinstance(planned, int) and isinstance(done, int) and done < planned:
        raise InputError(
            f'{folder}: the training has not ended, {done} of {planned} {unit}s are done; finish it with '
            f'repvit-dense train {folder} --resume'
        )


def _initial_weights(cfg: Any) -> str:
    from repvit_dense.checkpoints.provenance import without_folders

    init = cfg.model.backbone.get('init_cfg') or {}
    return without_folders(str(cfg.get('weights') or init.get('checkpoint') or 'random'))


def _count_parameters(cfg: Any) -> int:
    from repvit_dense.model import build_model

    return sum(parameter.numel() for parameter in build_model(cfg).parameters())


def _from_log(folder: Path) -> dict[str, str | None]:
    """Return the entries of `LOGGED` from the environment that the last start logged."""
    logs = sorted(folder.glob('*/*.log'))
    text = logs[-1].read_text('utf-8', 'replace')[:20_000] if logs else ''
    found = {key: re.search(rf'^[\s-]*{label}: (\S+)', text, re.M) for key, label in LOGGED.items()}
    return {key: match[1] if match else None for key, match in found.items()}


def identify(row: Row, trainings: Sequence[Training], folder: Path) -> Training:
    """Return the training of the table that a work dir holds, by config, backbone and initial weights.

    A single candidate may have been trained with a config of another name; a note says so.

    Raises:
        InputError: none fits, or several do.
    """
    start = row['backbone'], row['weights'] != 'random'
    fitting = [training for training in trainings if start == (training.backbone, training.pretrained)]
    if len(trainings) == len(fitting) == 1 and row['config'] != fitting[0].config:
        say(
            f'{folder}: the config is {row["config"]}, not {fitting[0].config}; make sure that both are the same recipe'
        )
        return fitting[0]
    fitting = [training for training in fitting if training.config == row['config']]
    subject = f'{folder}: {row["config"]} on {row["backbone"]} from {row["weights"]} weights'
    if not fitting:
        raise InputError(
            f'{subject} is none of {", ".join(t.name for t in trainings)}; see tools/pages/results_table.py'
        )
    if len(fitting) > 1:
        raise InputError(f'{subject} may be {" or ".join(t.name for t in fitting)}; say which: --only NAME')
    return fitting[0]


# --- the files ---


@contextmanager
def locked(folder: Path, text: str) -> Iterator[int]:
    """Let one process at a time work in a folder; a second one says `text` and waits.

    Yields:
        a descriptor; a child process that inherits it keeps the folder locked until it ends.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(text)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def read(data: Data) -> list[Row]:
    """Return the rows of a data set, in the order of the table and the seeds.

    Raises:
        InputError: the file is not one that `add` wrote.
    """
    return _read(FOLDER / f'{data.name}.csv', {*FIRST, *LAST})


def read_classes(data: Data) -> list[Row]:
    """Return the scores per class of a data set: a row per training and class."""
    return _read(FOLDER / f'{data.name}_classes.csv', {*CLASSES})


def add(training: Training, row: Row, result: Mapping) -> None:
    """Add the row of a training and its scores per class; an earlier row of the same seed is replaced, with a note.

    Args:
        training: of the table.
        row: as from `describe`.
        result: content of `scores.json`.
    """
    row = {'model': training.name, 'split': training.split, **row}
    scores = {name: round(float(value), 4) for name, value in result['scores'].items()}
    key = training.name, str(row['seed'])
    with locked(FOLDER, f'{FOLDER}: waiting for another process that writes there'):
        before, classes = ([*read(training.data)], [*read_classes(training.data)])
        others = [each for each in before if (each['model'], each['seed']) != key]
        for old in before:
            if old not in others:
                name = training.metrics[-1].name
                say(f'{training.name}, seed {row["seed"]}: {name} was {old.get(name)}, is now {scores.get(name)}')
        _write(FOLDER / f'{training.data.name}.csv', [*others, {**row, **scores}], FIRST, LAST)
        others = [each for each in classes if (each['model'], each['seed']) != key]
        new = [{'model': key[0], 'seed': key[1], **_rounded(each)} for each in result.get('classes') or ()]
        if others or new:
            _write(FOLDER / f'{training.data.name}_classes.csv', [*others, *new], CLASSES, ())


def _rounded(values: Mapping) -> Row:
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in values.items()}


def _read(path: Path, required: set[str]) -> list[Row]:
    if not path.exists():
        return []
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text('utf-8')), strict=True))
        names = [training.name for training in TRAININGS]
        for row in rows:
            if required - row.keys() or None in row or None in row.values():
                raise ValueError(
                    f'it lacks columns or cells: {", ".join(sorted(required - row.keys())) or row["model"]}'
                )
            if row['model'] not in names:
                raise ValueError(f"it names the training '{row['model']}', which is not in the table")
            int(row['seed'])
    except (csv.Error, ValueError) as error:
        raise InputError(f'{path}: cannot be used ({error}); mend or delete it') from error
    return sorted(rows, key=lambda row: (names.index(row['model']), int(row['seed'])))


def _write(path: Path, rows: list[Row], first: Sequence[str], last: Sequence[str]) -> None:
    """Write rows as CSV; the columns between the first and the last are the scores."""
    names = [training.name for training in TRAININGS]
    rows = sorted(rows, key=lambda row: (names.index(row['model']), int(row['seed'])))
    scores = [name for name in dict.fromkeys(name for row in rows for name in row) if name not in {*first, *last}]
    text = io.StringIO()
    writer = csv.DictWriter(text, [*first, *scores, *last], lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())
