"""Count parameters and multiply-accumulates of every backbone of the catalogue for `repvit-dense list backbones`."""

from dataclasses import dataclass
from pathlib import Path

from repvit_dense import catalogue
from repvit_dense.benchmark.subjects import BackboneSubject
from repvit_dense.benchmark.workload import Workload
from repvit_dense.files import write_text
from tools.pages import options as shared

WORKLOAD = Workload(1, (512, 512), 'cpu', 'fp32', False)
HEAD = '''"""Parameters in millions and GMACs of every fused backbone for one image of 512x512 pixels.

Written by `python -m tools.pages sizes repvit_dense/catalogue_sizes.py`.
"""

SIZES = {
'''


@dataclass(kw_only=True)
class Options:
    """Options of the page."""

    out: Path = shared.file_option('../repvit_dense/catalogue_sizes.py')


def run(options: Options) -> int:
    """Count and write; takes some minutes."""
    write_text(options.out, to_text({name: measure(name) for name in catalogue.BACKBONES}))
    return 0


def measure(name: str) -> tuple[float, float]:
    """Return parameters in millions and GMACs of a fused backbone."""
    counts = BackboneSubject(name, WORKLOAD).inference()[-1].counts
    return round(counts['params'] / 1e6, 2), round(counts['macs'] / 1e9, 2)


def to_text(sizes: dict[str, tuple[float, float]]) -> str:
    """Return the source code of the table."""
    return HEAD + ''.join(f'    {name!r}: {counts},\n' for name, counts in sizes.items()) + '}\n'
