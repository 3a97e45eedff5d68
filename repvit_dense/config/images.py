"""Count the images that a config trains on, and read the sizes of some, without loading the data set."""

import itertools
import statistics
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from repvit_dense.config.structure import one_line
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config

SAMPLE = 64  # images whose size is read


class Images(NamedTuple):
    """The training images of a config.

    Attributes:
        number: images that training goes through in one epoch.
        size: their width and height in pixels, medians over a sample; None if no image can be read.
    """

    number: int
    size: tuple[int, int] | None


def training_images(cfg: 'Config', largest: float = float('inf')) -> Images | None:
    """Return the training images of a config; None if they cannot be counted, because they are no local files.

    Images that the data set leaves out (without objects, too small) are not counted.

    Args:
        cfg: the config.
        largest: bytes of annotations that are read at most; None is returned for more.
    """
    embedded = cfg.get('embedded_data')
    dataset = (cfg.get('train_dataloader') or {}).get('dataset')
    if not dataset:
        return None
    if embedded and not Path(embedded.get('root', '')).is_dir():  # drawn when the training starts
        return Images(embedded.get('num_train', 0), tuple(embedded.get('size', (256, 256))))
    try:
        number, sizes = _count(dataset, largest)
    except (InputError, OSError, KeyError, TypeError, ValueError, AttributeError):  # the check of the data says more
        return None
    return Images(number, _median(sizes)) if number else None


def why_uncounted(cfg: 'Config') -> str:
    """Return the reason that `training_images` gives None."""
    try:
        number, _ = _count((cfg.get('train_dataloader') or {}).get('dataset') or {}, float('inf'))
    except OSError as error:
        return f'{error.filename}: {error.strerror}'
    except Exception as error:  # a file of any content
        return one_line(error)
    return '' if number else 'there are none'


def epoch_length(cfg: 'Config', processes: int = 1, largest: float = float('inf')) -> int | None:
    """Return the number of iterations of one epoch; None if the images cannot be counted."""
    images = training_images(cfg, largest)
    batch = (cfg.get('train_dataloader') or {}).get('batch_size')
    return -(-images.number // (batch * processes)) if images and batch else None


def _count(dataset: dict, largest: float) -> tuple[int, list[tuple[int, int]]]:
    if 'datasets' in dataset:
        parts = [_count(part, largest) for part in dataset['datasets']]
        return sum(number for number, _ in parts), list(itertools.chain(*(sizes for _, sizes in parts)))
    if 'dataset' in dataset:
        number, sizes = _count(dataset['dataset'], largest)
        return number * dataset.get('times', 1), sizes
    root, prefix = Path(dataset.get('data_root') or ''), dataset.get('data_prefix') or {}
    folder = root / (prefix.get('img') or prefix.get('img_path') or '')
    file = root / dataset['ann_file'] if dataset.get('ann_file') else None
    if file and file.suffix == '.json':
        if file.stat().st_size > largest:
            raise ValueError('too large')
        filters = {} if dataset.get('test_mode') else dataset.get('filter_cfg') or {}
        return _coco(file, file.stat().st_mtime_ns, filters.get('filter_empty_gt', False), filters.get('min_size') or 0)
    if not file and folder == Path():
        raise ValueError('a data set of another kind')
    suffix = dataset.get('img_suffix', '.jpg')
    if file:
        names = [line.strip() for line in file.read_text().splitlines() if line.strip()]
        return len(names), _sizes(folder / f'{name}{suffix}' for name in names)
    if not folder.is_dir():
        raise FileNotFoundError(2, 'not found', str(folder))
    paths = sorted(folder.rglob(f'*{suffix}'))
    return len(paths), _sizes(paths)


@lru_cache(maxsize=8)
def _coco(file: Path, changed: int, filter_empty: bool, min_size: int) -> tuple[int, list[tuple[int, int]]]:
    """Return number and sizes of the images of COCO annotations; `changed` (the file's time) is for the cache."""
    from repvit_dense.data.reading import read_json

    content = read_json(file)
    labelled = {entry.get('image_id') for entry in content['annotations'] if entry.get('segments_info', True)}
    images = [
        image
        for image in content['images']
        if (image.get('id') in labelled or not filter_empty)
        and min(image.get('width') or min_size, image.get('height') or min_size) >= min_size
    ]
    sizes = [(image['width'], image['height']) for image in images if image.get('width') and image.get('height')]
    return len(images), sizes


def _sizes(paths: Iterable[Path]) -> list[tuple[int, int]]:
    return list(_read_sizes(list(paths)))


def _read_sizes(paths: list[Path]) -> Iterator[tuple[int, int]]:
    from repvit_dense.image_header import read_header

    for path in paths[:: max(1, len(paths) // SAMPLE)][:SAMPLE]:
        try:
            yield read_header(path).size
        except InputError:
            continue


def _median(sizes: list[tuple[int, int]]) -> tuple[int, int] | None:
    """Return the size of the image in the middle of all, ordered by its longer side."""
    if not sizes:
        return None
    middle = statistics.median_low(max(size) for size in sizes)
    return next(tuple(size) for size in sizes if max(size) == middle)  # type: ignore[return-value]
