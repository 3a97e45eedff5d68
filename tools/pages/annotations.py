"""Measure time and memory to check and index a large COCO file, and the memory of each data-loading worker."""

import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from multiprocessing import get_context
from pathlib import Path

from repvit_dense.benchmark.settings import positive_int
from repvit_dense.files import write_text
from repvit_dense.options import option
from tools.pages import options as shared

HEIGHT, WIDTH = 480, 640  # of every image, in pixels
CLASSES = 80
OBJECTS_PER_IMAGE = 8  # on average
CORNERS = 10  # vertices of a polygon
WORKERS = 2
SAMPLES_PER_WORKER = 20  # read from the index by every worker


@dataclass(kw_only=True)
class Options:
    """Options of the page."""

    objects: int = option(positional=True, type=positive_int, metavar='OBJECTS', help='objects in the COCO file')
    json: Path | None = shared.json_option()


def run(options: Options) -> int:
    """Measure a generated file and print the report."""
    report = measure(options.objects)
    print(to_text(report))
    if options.json:
        write_text(options.json, json.dumps(report, indent=2) + '\n')
    return 0


def measure(objects: int) -> dict:
    """Measure a temporary file with `objects` objects.

    Returns:
        The results of `measure_file`, `objects`, and `file`, the size of the file in GiB.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'truth.json')
        generate(path, objects)
        return {'objects': objects, 'file': path.stat().st_size / 2**30, **measure_file(path)}


def to_text(report: dict) -> str:
    """Return one line each for the check, the index and the memory of a worker."""
    lines = [f'{report["objects"]} objects in a file of {report["file"]:.2f} GiB']
    for task in ('check', 'index'):
        cost = report[task]
        lines.append(
            f'{task}: {cost["seconds"]:.1f} s ({cost["cpu_seconds"]:.1f} s of CPU time), '
            f'{cost["peak"]:.2f} GiB at the peak, {cost["retained"]:.2f} GiB afterwards'
        )
    return '\n'.join([*lines, f'each data-loading worker: {report["worker"]["private"]:.3f} GiB of private memory'])


def generate(path: Path, objects: int = 1_000_000) -> None:
    """Write a COCO file with polygons, and empty image files in the folder `images` beside it.

    Args:
        path: the COCO file.
        objects: number of objects; there are an eighth as many images.
    """
    draw, folder = random.Random(0), path.parent / 'images'
    folder.mkdir(parents=True, exist_ok=True)
    count = objects // OBJECTS_PER_IMAGE
    names = [f'{number:012}.jpg' for number in range(1, count + 1)]
    for name in names:
        (folder / name).touch()
    with path.open('w') as file:
        categories = [{'id': number, 'name': f'class {number}'} for number in range(1, CLASSES + 1)]
        records = [
            {'id': number, 'file_name': name, 'height': HEIGHT, 'width': WIDTH} for number, name in enumerate(names, 1)
        ]
        file.write(f'{{"categories": {json.dumps(categories)}, "images": {json.dumps(records)}, "annotations": [')
        for number in range(1, objects + 1):
            file.write((',\n' if number > 1 else '') + json.dumps(_annotation(draw, number, draw.randint(1, count))))
        file.write(']}')


def _annotation(draw: random.Random, number: int, image: int) -> dict:
    width, height = draw.uniform(8, 200), draw.uniform(8, 200)
    left, top = draw.uniform(0, WIDTH - width), draw.uniform(0, HEIGHT - height)
    corners = [
        round(start + length * draw.random(), 2)
        for _ in range(CORNERS)
        for start, length in ((left, width), (top, height))
    ]
    return {
        'id': number,
        'image_id': image,
        'category_id': draw.randint(1, CLASSES),
        'bbox': [round(value, 2) for value in (left, top, width, height)],
        'area': round(width * height / 2, 3),
        'iscrowd': 0,
        'segmentation': [corners],
    }


def measure_file(path: Path) -> dict[str, dict[str, float]]:
    """Check and index a file written by `generate`, each in a new process.

    Returns:
        For 'check' and 'index': `seconds`, `cpu_seconds`, and `peak` and `retained`, the memory in GiB during and after
        the task, beyond that of the imports. For 'worker', a data-loading process that has read samples: `private`, its
        unshared memory in GiB, beyond that of a worker without a data set.
    """
    results: dict[str, dict[str, float]] = {}
    for task in (_check, _index):
        with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as process:
            results |= process.submit(task, path).result()
    return results


def _check(path: Path) -> dict:
    from repvit_dense.data import checks

    classes = [f'class {number}' for number in range(1, CLASSES + 1)]
    with _measured() as cost:
        checks.instances(path, path.parent / 'images', classes, masks=True)
    return {'check': cost}


def _index(path: Path) -> dict:
    from mmdet.datasets import CocoDataset

    classes = tuple(f'class {number}' for number in range(1, CLASSES + 1))
    arguments = {'ann_file': str(path), 'data_prefix': {'img': str(path.parent / 'images')}, 'pipeline': []}
    without_data = _private_memory_of_workers([{}] * SAMPLES_PER_WORKER)
    with _measured() as cost:
        data = CocoDataset(metainfo={'classes': classes}, filter_cfg={'filter_empty_gt': True}, **arguments)
    return {'index': cost, 'worker': {'private': _private_memory_of_workers(data) - without_data}}


@contextmanager
def _measured() -> Iterator[dict]:
    cost: dict[str, float] = {}
    before, start = _memory('Rss'), (time.perf_counter(), time.process_time())
    with redirect_stdout(StringIO()):
        yield cost
    cost['seconds'], cost['cpu_seconds'] = time.perf_counter() - start[0], time.process_time() - start[1]
    cost['peak'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 - before
    cost['retained'] = _memory('Rss') - before


def _private_memory_of_workers(data) -> float:
    """Return the largest private memory of `WORKERS` forked data-loading processes, in GiB."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        _MemoryProbe(data), batch_size=1, num_workers=WORKERS, multiprocessing_context='fork', collate_fn=list
    )
    return max(memory for (memory,) in loader)


class _MemoryProbe:
    """A data set that returns the private memory of its process in GiB after reading a sample of another one."""

    def __init__(self, data):
        self.data = data

    def __len__(self) -> int:
        return WORKERS * SAMPLES_PER_WORKER

    def __getitem__(self, number: int) -> float:
        _ = self.data[number * 37 % len(self.data)]
        return _memory('Private_Clean') + _memory('Private_Dirty')


def _memory(key: str) -> float:
    """Return the sum of a key of Linux's smaps_rollup for this process, in GiB."""
    lines = Path('/proc/self/smaps_rollup').read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(f'{key}:')) / 2**20
