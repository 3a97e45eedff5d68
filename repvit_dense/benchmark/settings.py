"""Options of `repvit-dense benchmark`; imports nothing heavy."""

from dataclasses import dataclass
from pathlib import Path

from repvit_dense.errors import InputError
from repvit_dense.files import check_writable, is_folder
from repvit_dense.options import option, whole_number

MEASUREMENTS = ('inference', 'training', 'startup', 'loading')
PRECISIONS = ('fp32', 'bf16')
positive_int = whole_number(1, 65_536)
CHARTS = ('.png', '.svg', '.pdf', '.jpg')
MAX_PIXELS = 1_000_000_000  # of a batch: 12 GB


@dataclass(kw_only=True)
class BenchmarkSettings:
    """Subjects to measure and how to measure them."""

    subjects: list[str] = option(
        [],
        positional=True,
        nargs='*',
        metavar='SUBJECT',
        help='a backbone (m1_1, timm:repvit_m1_1), a config (repvit_segformer_ade20k, or with another backbone: '
        'repvit_maskrcnn_coco@resnet50), the folder of an artifact, or a packaged model (nuclei)',
    )
    against: str | None = option(
        None, metavar='SUBJECT', help='baseline of the speed-ups; by default the first subject'
    )
    what: list[str] = option(['inference'], nargs='+', choices=MEASUREMENTS, help='measurements to take')
    batch: int = option(2, type=positive_int, metavar='N', help='batch size')
    size: tuple[int, int] = option(
        (512, 512), nargs=2, type=positive_int, metavar=('H', 'W'), help='height and width of the input in pixels'
    )
    rounds: int = option(7, type=positive_int, metavar='N', help='timed rounds; every round runs each subject once')
    threads: int | None = option(
        None, type=whole_number(1, 1024), metavar='N', help="number of CPU threads; by default PyTorch's own choice"
    )
    device: str = option('cpu', help='device in PyTorch notation: cpu, cuda, cuda:1, ...')
    precision: str = option('fp32', choices=PRECISIONS, help='fp32, or bf16 with autocast')
    compile: bool = option(False, help='run through torch.compile')
    json: Path | None = option(None, type=Path, metavar='FILE', help='also write all results to a JSON file')
    plot: Path | None = option(None, type=Path, metavar='FILE', help='also draw the times as a bar chart')


def check(settings: BenchmarkSettings) -> None:
    """Refuse a batch that is too large and files that cannot be written, before anything is measured.

    Raises:
        InputError: names the option.
    """
    height, width = settings.size
    if settings.batch * height * width > MAX_PIXELS:
        raise InputError(
            f'--batch {settings.batch} --size {height} {width}: more than {MAX_PIXELS:,} pixels; choose smaller ones'
        )
    for name, file in (('json', settings.json), ('plot', settings.plot)):
        if file is None:
            continue
        if not is_folder(file.parent):
            raise InputError(f'--{name} {file}: there is no directory {file.parent}')
        if is_folder(file):
            raise InputError(f'--{name} {file}: is a folder; name a file')
        if name == 'plot' and file.suffix.lower() not in CHARTS:
            raise InputError(f'--plot {file}: the name must end in {", ".join(CHARTS)}')
        check_writable(file)
