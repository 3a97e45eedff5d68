"""Check the images themselves: whether the loaders can read them, and whether the annotations give their size.

All images of a data set are checked, by their headers; see `image_header`. Threads read them, because a network disk
takes longer to answer than the header takes to parse. The sizes are remembered in the user's cache folder.
"""

import hashlib
import json
import os
import sys
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from repvit_dense.data.checks.report import Finding, Report, findings_of, is_first_process
from repvit_dense.data.reading import loaded_header, read_pixels
from repvit_dense.errors import InputError, printable
from repvit_dense.files import read_bytes, replacing
from repvit_dense.image_header import Header, read_header
from repvit_dense.memory import no_collector

THREADS = 16
BATCH = 128  # files that a thread reads before it reports
REMEMBERED = 1000  # fewer images than that are read as fast as the cache
FORMAT = 1  # of the cache file

Outcome = Header | InputError


def examine(report: Report, turned: bool = True) -> Report:
    """Return the report of a data set with the findings about its images added.

    Images that do not exist are left out, because the report names them already. In a distributed job only the first
    process of each machine reads the images.

    Args:
        report: the report, whose `images` are checked.
        turned: the data set loads its images with the EXIF orientation applied.
    """
    if not report.images or not is_first_process():
        return report
    headers = read_headers(image.path for image in report.images)
    masks = read_headers((image.mask for image in report.images if image.mask), _mask_header)
    names = {image.path: image.name for image in report.images}
    undecoded = [
        name for finding in report.findings if 'cannot be decoded' in finding.message for name in finding.offenders
    ]
    named = {name.partition(': ')[0] for name in undecoded}
    unreadable = (
        f'{names.get(path, path)}: {_reason(path, outcome)}'
        for path, outcome in [*headers.items(), *masks.items()]
        if isinstance(outcome, InputError) and path not in named
    )
    findings = findings_of('error', '{} image files cannot be read', unreadable)
    sized: list[Sized] = []
    for image in report.images:
        header, mask = headers.get(image.path), masks.get(image.mask)
        sizes = [image.size, mask.stored if isinstance(mask, Header) else None]
        if isinstance(header, Header):
            header = header if turned else Header(*header.stored)
            sized += [(image.name, size, header) for size in sizes if size]
    return report._replace(findings=[*report.findings, *findings, *_size_findings(sized)])


Sized = tuple[str, tuple[float, float], Header]  # name of an image, the size in its annotations, its header


def _size_findings(images: list[Sized]) -> list[Finding]:
    """Find images whose size differs from that in the annotations, and those on which EXIF leaves a doubt."""
    turned = [entry for entry in images if entry[2].stored != entry[2].size]
    ignored = [entry for entry in turned if entry[1] == entry[2].stored]
    others = [entry for entry in images if entry[1] not in (entry[2].stored, entry[2].size)]
    names = (f'{name}: {_text(size)}, loaded as {_text(header.size)}' for name, size, header in ignored)
    message = (
        '{} images are turned by their EXIF orientation when they are loaded, but the annotations give the stored '
        'size, so boxes and masks may lie on other pixels. If they fit the stored image, remove the EXIF orientation '
        'from the files (exiftool -Orientation= FILES); if they fit the image as it is shown, correct the size'
    )
    findings = findings_of('error', message, names)
    names = (f'{name}: {_text(size)}, loaded as {_text(header.size)}' for name, size, header in others)
    message = (
        '{} images have another size than the annotations give, so boxes and masks may lie on other pixels. Were they '
        'resized, rotated or replaced after the annotation? Use the annotated images, or annotations made for these'
    )
    findings += findings_of('error', message, names)
    if not turned:
        message = (
            '{} images are turned or mirrored by their EXIF orientation when they are loaded; their size does not show '
            'whether boxes and masks fit the image as it is shown, which is assumed'
        )
        findings += findings_of('warning', message, (name for name, _, header in images if header.orientation > 1))
    return findings


def _reason(path: str, error: InputError) -> str:
    text = str(error).removeprefix(f'{printable(path)}: ')
    for words in ('cannot be read as an image (', 'cannot be read ('):
        if text.startswith(words):
            return text.removeprefix(words).removesuffix(')')
    return text


def _text(size: tuple[float, float]) -> str:
    return f'{size[0]}x{size[1]}'


def _mask_header(path: str) -> Header:
    """Return the size of a mask; the loader reads masks with Pillow, which decides in case of a doubt."""
    header = read_header(path)
    if header.doubt:
        read_pixels(Path(path))
    return header


def read_headers(paths: Iterable[str], read: Callable[[str], Header] = loaded_header) -> dict[str, Outcome]:
    """Return the size of each image, or the error of reading it; files that do not exist are left out.

    Args:
        paths: the files.
        read: reads one file whose header leaves a doubt.
    """
    from tqdm import tqdm

    paths = list(dict.fromkeys(paths))
    remembered = _Memory(paths[0]) if len(paths) >= REMEMBERED else None
    known = remembered.files if remembered else {}
    outcomes: dict[str, Outcome] = {}
    decoding = threading.Semaphore(os.cpu_count() or 1)  # each decoded image takes memory

    def read_batch(start: int) -> list:
        batch = paths[start : start + BATCH]
        return [(path, *_read(path, known.get(path), read, decoding)) for path in batch]

    news: dict[str, list[int]] = {}
    with (
        tqdm(total=len(paths), desc='reading image sizes', delay=2, leave=False, disable=None) as bar,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        for results in pool.map(read_batch, range(0, len(paths), BATCH)):
            bar.update(len(results))
            outcomes.update((path, outcome) for path, outcome, _ in results if outcome)
            news.update((path, entry) for path, _, entry in results if entry)
    if remembered and news:
        remembered.add(news)
    return outcomes


def _read(
    path: str, known: list[int] | None, read: Callable[[str], Header], decoding: threading.Semaphore
) -> tuple[Outcome | None, list[int] | None]:
    """Return the size of an image, the error, or None if there is no file; then the entry to remember, if any.

    An entry consists of size and time of the file, width, height and orientation of the image.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  thousands of Path objects take seconds
        state = [status.st_size, status.st_mtime_ns]
        if known and known[:2] == state:
            return Header(*known[2:]), None  # type: ignore[arg-type]
        header = read_header(path)
        if not header.doubt:
            return header, [*state, *header.size, header.orientation]
        with decoding:
            return read(path), None
    except InputError as error:
        return error, None
    except (OSError, ValueError) as error:
        if isinstance(error, FileNotFoundError) and not os.path.islink(path):  # noqa: PTH114
            return None, None
        return InputError(f'{path}: cannot be read ({getattr(error, "strerror", None) or error})'), None


class _Memory:
    """The sizes of images in a file of the user's cache folder, which may be damaged or read-only."""

    def __init__(self, first: str):
        folder = Path(first).absolute().parent
        name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:24]
        self.file = cache_folder() / 'images' / f'{name}.json'
        self.files: dict[str, list[int]] = {}
        with suppress(OSError, ValueError, RecursionError), no_collector():
            content = json.loads(read_bytes(self.file))
            files = content.get('files') if isinstance(content, dict) and content.get('format') == FORMAT else None
            if isinstance(files, dict):
                self.files = {path: known for path, known in files.items() if _is_sound(known)}

    def add(self, files: dict[str, list[int]]) -> None:
        """Remember further files; a process that does so at the same time may win."""
        content = {'format': FORMAT, 'files': {**self.files, **files}}
        with suppress(OSError):
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.file) as partial:
                partial.write_text(json.dumps(content))


def _is_sound(known: object) -> bool:
    return isinstance(known, list) and len(known) == 5 and all(type(number) is int for number in known)


def cache_folder() -> Path:
    """Return this package's folder among the user's caches, which need not exist."""
    if os.environ.get('XDG_CACHE_HOME'):
        return Path(os.environ['XDG_CACHE_HOME'], 'repvit_dense')
    home = os.path.expanduser('~')  # noqa: PTH111  unlike Path.home it raises no error
    below = {'darwin': 'Library/Caches', 'win32': 'AppData/Local'}.get(sys.platform, '.cache')
    return Path(home, below, 'repvit_dense')
