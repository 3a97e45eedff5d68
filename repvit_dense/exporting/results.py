"""The result of an export, and the table that the command prints."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from repvit_dense.screen import columns


class ExportResult(NamedTuple):
    """One exported artifact.

    Attributes:
        target: name of the format.
        folder: folder of the artifact.
        seconds: time to write it.
        megabytes: size of the folder.
        parity: agreement with PyTorch, as text.
        milliseconds: latency of one batch; None if the artifact cannot run on this machine.
        speedup: latency of the unfused model in PyTorch divided by that of the artifact; None likewise.
        failures: differences beyond the tolerance, non-empty only with `no_verify`.
    """

    target: str
    folder: Path
    seconds: float
    megabytes: float
    parity: str
    milliseconds: float | None
    speedup: float | None
    failures: list[str]


def make_result(target: str, folder: Path, seconds: float, certificate: dict) -> ExportResult:
    """Summarise a written artifact and its certificate, see `certify.certify`."""
    size = sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / 1e6
    times = certificate.get('milliseconds')
    latency = times['artifact'] if times else None
    speedup = times['pytorch_unfused'] / latency if times else None
    failures = certificate.get('failures', [])
    return ExportResult(target, folder, seconds, size, _parity(certificate), latency, speedup, failures)


def _parity(certificate: dict) -> str:
    agreement = certificate.get('agreement')
    if agreement is None:
        return 'not run here'
    if 'pixels' in agreement:
        return f'{agreement["pixels"]:.3%} of pixels'
    if not agreement['detections']:
        return 'no detections to compare'
    return f'{agreement["matched"]:.1%} of {agreement["detections"]} detections'


def print_table(results: Sequence[ExportResult]) -> None:
    """Print a table with one line per artifact; print nothing without artifacts."""
    if not results:
        return
    cells = [('artifact', 'MB', 'seconds', 'agrees with PyTorch', 'ms (faster than PyTorch)')]
    for result in results:
        latency = '-' if result.milliseconds is None else f'{result.milliseconds:.1f} ({result.speedup:.1f}x)'
        numbers = f'{result.megabytes:.1f}', f'{result.seconds:.1f}'
        cells.append((str(result.folder), *numbers, result.parity, latency))
    print(columns(cells))
