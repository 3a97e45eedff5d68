"""A COCO file of a million objects: seconds and memory to check it and to index it, and memory of each worker."""

import json
import random
import resource
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from multiprocessing import get_context
from pathlib import Path

HEIGHT, WIDTH = 480, 640  # of every image, in pixels
CLASSES = 80
OBJECTS = 8  # in an image, on average
CORNERS = 10  # of an outline
WORKERS = 2
EXAMPLES = 20  # that every worker takes from the index


def report(objects: int) -> dict:
    """What `measure` finds of a file that is thrown away, and its size in GiB."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'truth.json')
        generate(path, objects)
        return {'objects': objects, 'file': path.stat().st_size / 2**30, **measure(path)}


def to_text(report: dict) -> str:
    """A line each for the check, the index and a worker."""
    lines = [f'{report["objects"]} objects in a file of {report["file"]:.2f} GiB']
    for task in ('check', 'index'):
        spent = report[task]
        lines.append(
            f'{task}: {spent["seconds"]:.1f} s ({spent["cpu_seconds"]:.1f} s of CPU time), '
            f'{spent["peak"]:.2f} GiB at the peak, {spent["kept"]:.2f} GiB afterwards'
        )
    return '\n'.join([*lines, f'each data-loading worker: {report["worker"]["own"]:.3f} GiB of its own'])


def generate(path: Path, objects: int = 1_000_000) -> None:
    """Write a COCO file of so many objects with outlines, in an eighth as many images, and empty files for these.

    The folder of the images, `images`, lies beside it.
    """
    draw, folder = random.Random(0), path.parent / 'images'
    folder.mkdir(parents=True, exist_ok=True)
    count = objects // OBJECTS
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


def measure(path: Path) -> dict[str, dict[str, float]]:
    """Check and index what `generate` wrote, each in a process of its own.

    Returns:
        of 'check' and 'index': `seconds`, `cpu_seconds`; `peak` and `kept`, the memory meanwhile and afterwards in GiB,
        beyond that of the imports. Of 'worker', a data-loading process that has read examples: `own`, the memory in GiB
        that it holds for itself alone, beyond one without a data set.
    """
    found = {}
    for task in (_check, _index):
        with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as fresh:
            found |= fresh.submit(task, path).result()
    return found


def _check(path: Path) -> dict:
    from repvit_dense.data import checks

    classes = [f'class {number}' for number in range(1, CLASSES + 1)]
    with _measured() as spent:
        checks.instances(path, path.parent / 'images', classes, masks=True)
    return {'check': spent}


def _index(path: Path) -> dict:
    from mmdet.datasets import CocoDataset

    classes = tuple(f'class {number}' for number in range(1, CLASSES + 1))
    arguments = {'ann_file': str(path), 'data_prefix': {'img': str(path.parent / 'images')}, 'pipeline': []}
    bare = _own_memory_of_workers([{}] * EXAMPLES)
    with _measured() as spent:
        data = CocoDataset(metainfo={'classes': classes}, filter_cfg={'filter_empty_gt': True}, **arguments)
    return {'index': spent, 'worker': {'own': _own_memory_of_workers(data) - bare}}


@contextmanager
def _measured() -> Iterator[dict]:
    spent, before, start = {}, _memory('Rss'), (time.perf_counter(), time.process_time())
    with redirect_stdout(StringIO()):
        yield spent
    spent['seconds'], spent['cpu_seconds'] = time.perf_counter() - start[0], time.process_time() - start[1]
    spent['peak'] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20 - before
    spent['kept'] = _memory('Rss') - before


def _own_memory_of_workers(data) -> float:
    """The most that one of `WORKERS` forked data-loading processes holds for itself alone, in GiB."""
    from torch.utils.data import DataLoader

    loader = DataLoader(
        _Probed(data), batch_size=1, num_workers=WORKERS, multiprocessing_context='fork', collate_fn=list
    )
    return max(own for (own,) in loader)


class _Probed:
    """Memory of the process that was asked for an example, after it was made."""

    def __init__(self, data):
        self.data = data

    def __len__(self) -> int:
        return WORKERS * EXAMPLES

    def __getitem__(self, number: int) -> float:
        _ = self.data[number * 37 % len(self.data)]
        return _memory('Private_Clean') + _memory('Private_Dirty')


def _memory(key: str) -> float:
    """This process's memory of a kind that Linux tells apart, in GiB."""
    lines = Path('/proc/self/smaps_rollup').read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(f'{key}:')) / 2**20
