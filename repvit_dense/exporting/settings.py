"""Settings of an export, declared once for the command line and for Python."""

import dataclasses
from pathlib import Path

from repvit_dense.artifact.targets import DYNAMIC, PRECISIONS, TARGETS
from repvit_dense.errors import InputError
from repvit_dense.options import option, whole_number


@dataclasses.dataclass(kw_only=True)
class ExportSettings:
    """Settings of `export_all`.

    A single format may be given as a string; `dynamic` takes `'batch'`, `'size'`, `'batch,size'` or a tuple of these.

    Raises:
        InputError: no format, an unknown name in `dynamic`, or `calibration` without int8.
    """

    to: list[str] = option(
        [],
        required=True,
        help=f'one or more of {", ".join(TARGETS)}',
        nargs='+',
        choices=tuple(TARGETS),
        metavar='FORMAT',
    )
    out: Path = option(Path('exported'), help='folder that the artifacts are written to', type=Path, metavar='DIR')
    size: tuple[int, int] | None = option(
        None,
        help='input height and width in pixels, multiples of 32; by default the size that the test pipeline produces',
        nargs=2,
        type=whole_number(1, 100_000),
        metavar=('H', 'W'),
    )
    batch: int = option(1, help='batch size', type=whole_number(1, 100_000), metavar='N')
    dynamic: tuple[str, ...] = option((), help='axes of any length: batch, size, or batch,size', metavar='AXES')
    precision: str = option('fp32', help='precision of weights and layers', choices=PRECISIONS)
    max_detections: int | None = option(
        None,
        help="limit on detections per image, at most the config's own limit",
        type=whole_number(1, 100_000),
        metavar='N',
    )
    calibration: int | None = option(
        None, help='training images that calibrate int8, by default 100', type=whole_number(1, 1000), metavar='N'
    )
    no_verify: bool = option(False, help='accept the artifact even if its outputs differ from those of the model')

    def __post_init__(self):
        self.to = list(dict.fromkeys([self.to] if isinstance(self.to, str) else self.to))
        if not self.to:
            raise InputError(f'--to: name one or more of {", ".join(TARGETS)}')
        self.out = Path(self.out)
        self.size = tuple(self.size) if self.size else None
        axes = self.dynamic.split(',') if isinstance(self.dynamic, str) else self.dynamic
        self.dynamic = tuple(dict.fromkeys(axis for axis in axes if axis))
        unknown = [axis for axis in self.dynamic if axis not in DYNAMIC]
        if unknown:
            raise InputError(f"--dynamic: unknown axis '{unknown[0]}'; known: {', '.join(DYNAMIC)}")
        if self.calibration is not None and self.precision != 'int8':
            raise InputError(f'--calibration {self.calibration}: only --precision int8 is calibrated')
