"""Run one page: `python -m tools.pages NAME ...` from the root of the repository."""

import dataclasses
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType

from repvit_dense.benchmark.workload import check_device, cpu_threads
from repvit_dense.cli import Parser, add_options
from repvit_dense.errors import InputError

# Module of this package -> line of --help. A module defines the dataclass `Options` and `run(options) -> int`.
PAGES = {
    'targets': "compare speed and memory with this repository's targets (make bench)",
    'model_zoo': 'docs/model_zoo.md: every head on several backbones',
    'peers': 'docs/peers.md: every backbone under the same two heads',
    'peers_learning': 'docs/peers.md, last section: a few backbones trained for minutes',
    'ladder': 'docs/ladder.md: every rung from MobileNetV3 to RepViT',
    'growth': 'docs/growth.md: cost over pixels, batch size and width',
    'export_table': 'docs/deploy.md, table: every head in every format',
    'results': 'docs/results.md, section on photographs: train, collect and publish (make results)',
    'sizes': 'repvit_dense/catalogue_sizes.py: parameters and GMACs of every backbone',
    'pretrained': 'repvit_dense/pretrained: export a trained model into the package, with its floors and its card',
    'annotations': 'time and memory to check and index a large COCO file',
}


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the command line and run the page.

    Returns:
        0; 2 for an unusable option, or if a part of the page could not be measured.
    """
    argv = sys.argv[1:] if argv is None else [str(word) for word in argv]
    parser = Parser(
        prog='python -m tools.pages', description='Write a page of docs/, or check the targets of this repository.'
    )
    pages = parser.add_subparsers(dest='page', required=True, metavar='PAGE')
    for name, text in PAGES.items():
        page = pages.add_parser(name, help=text, description=text)
        page.set_defaults(parser=page)
        if [name] == argv[:1]:  # importing the others would only take time
            add_options(page, import_module(f'tools.pages.{name}').Options)
    values = vars(parser.parse_args(argv))
    module = import_module(f'tools.pages.{values["page"]}')
    try:
        names = {field.name for field in dataclasses.fields(module.Options)}
        return run(module, module.Options(**{name: value for name, value in values.items() if name in names}))
    except InputError as error:
        print(f'error: {error}', file=sys.stderr)
        return 2


def run(module: ModuleType, options: object) -> int:
    """Check device and folders, set the number of threads, and run a page.

    Raises:
        InputError: an option cannot be used; nothing was measured.
    """
    for path in vars(options).values():
        if isinstance(path, Path) and not path.parent.is_dir():
            raise InputError(f'{path}: there is no directory {path.parent}')
    check_device(getattr(options, 'device', 'cpu'))
    with cpu_threads(getattr(options, 'threads', None)):
        return module.run(options)


if __name__ == '__main__':
    sys.exit(main())
