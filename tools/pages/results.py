"""Train on photographs by the public commands, collect the scores, and write them into docs/results.md.

    python -m tools.pages results run             train what has no row in results/*.csv yet
    python -m tools.pages results add WORK_DIR    add a training that was run by hand
    python -m tools.pages results page            write the section of docs/results.md
    python -m tools.pages results pictures WORK_DIR    draw predictions for docs/img

`results_table` lists the trainings. `run` can be killed at any moment and continues when it is called again.
"""

import signal
import sys
from dataclasses import MISSING, dataclass, fields
from pathlib import Path

from repvit_dense.errors import InputError
from repvit_dense.options import option, positive_number, whole_number
from repvit_dense.screen import say
from tools.pages import options as shared
from tools.pages import results_page, results_pictures, results_rows, results_training
from tools.pages.results_table import SEEDS, TRAININGS, Training, select

# Action -> options that go with it.
ACTIONS = {
    'run': {'only', 'seed', 'data_root', 'threads'},
    'add': {'paths', 'only', 'threads', 'cpu_minutes'},
    'page': set(),
    'pictures': {'paths', 'only'},
}


@dataclass(kw_only=True)
class Options:
    """Options of the page."""

    action: str = option(positional=True, choices=tuple(ACTIONS), help='run, add, page or pictures')
    paths: list[str] = option([], positional=True, nargs='*', metavar='WORK_DIR', help='folders of finished trainings')
    only: list[str] | None = option(
        None, nargs='+', metavar='NAME', help=f'data sets or trainings: {", ".join(t.name for t in TRAININGS)}'
    )
    seed: list[int] = option(
        list(SEEDS), nargs='+', type=whole_number(0, 2**32 - 1), metavar='N', help='seeds to train'
    )
    data_root: Path = option(
        results_training.DATA_ROOT, type=Path, metavar='DIR', help='folder that holds the data sets'
    )
    threads: int | None = shared.threads_option()
    cpu_minutes: float | None = option(
        None, type=positive_number, metavar='N', help='measured CPU time of a training whose checkpoint has none'
    )


def run(options: Options) -> int:
    """Run an action; return 2 if a training failed.

    Raises:
        InputError: an option or a work dir cannot be used.
    """
    _check(options)
    trainings = select(options.only)
    if options.action == 'run':
        return train(trainings, options)
    if options.action == 'page':
        results_page.write()
        return 0
    for path in map(Path, options.paths):
        row = results_rows.describe(path)
        training = results_rows.identify(row, trainings, path)
        if options.action == 'pictures':
            say(f'Written: {results_pictures.write(training, path)}')
            continue
        if row['cpu_minutes'] is None:
            row['cpu_minutes'] = options.cpu_minutes
        try:
            results_training.add(training, path, row, options.threads)
        except results_training.Failed as error:
            raise InputError(str(error)) from error
    return 0


def _check(options: Options) -> None:
    """Refuse options that the action would ignore, and folders that are missing."""
    for field in fields(options):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
        if field.name not in {'action', *ACTIONS[options.action]} and getattr(options, field.name) != default:
            name = 'WORK_DIR' if field.name == 'paths' else f'--{field.name.replace("_", "-")}'
            raise InputError(f'{name}: does not go with {options.action}')
    if 'paths' in ACTIONS[options.action] and not options.paths:
        raise InputError(f'{options.action}: name the work dirs of finished trainings')
    if options.cpu_minutes and len(options.paths) > 1:
        raise InputError('--cpu-minutes: goes with one work dir')
    for path in options.paths:
        if not Path(path).is_dir():
            raise InputError(f'{path}: there is no such folder')


def train(trainings: list[Training], options: Options) -> int:
    """Run the trainings without a row, one at a time, every model with the first seed before any with the second.

    Raises:
        InputError: data are missing, or the rows cannot be read; nothing was trained.
    """
    done = {(row['model'], int(row['seed'])) for training in trainings for row in results_rows.read(training.data)}
    missing = [(t, seed) for seed in options.seed for t in trainings if (t.name, seed) not in done]
    _check_data([training for training, _ in missing], options.data_root)
    failures = []
    handler = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        for training, seed in missing:
            try:
                results_training.run_training(training, seed, options.data_root, options.threads)
            except (InputError, results_training.Failed) as error:
                say(f'{training.name}, seed {seed}: {error}')
                failures.append(f'{training.name}, seed {seed}')
    except KeyboardInterrupt:
        say('Stopped. The next call continues.')
        return 128 + signal.SIGINT
    finally:
        signal.signal(signal.SIGTERM, handler)
    say(
        f'{len(missing) - len(failures)} trained, {len(failures)} failed{": " if failures else ""}{"; ".join(failures)}'
    )
    return 2 if failures else 0


def _check_data(trainings: list[Training], root: Path) -> None:
    folders = {training.data.name: root / training.data.folder for training in trainings}
    absent = [f'{folder} ({name})' for name, folder in folders.items() if not folder.is_dir()]
    if absent:
        raise InputError(
            f'{", ".join(absent)}: there is no such folder. docs/data.md says where the data come from; --data-root '
            'names another place, --only leaves a data set out'
        )
