"""COCO panoptic: `annotations/panoptic_{train,val,test}*.json`, each beside a folder of that name with PNG files."""

from pathlib import Path

from repvit_dense.data.annotations import class_names, note_test, optional_test
from repvit_dense.data.lookup import image_folder, split_of
from repvit_dense.data.reading import read_coco
from repvit_dense.data.source import SPLITS, Source, panoptic_metainfo
from repvit_dense.errors import InputError

TASKS: tuple[str, ...] = ('panoptic',)
EXPECTED = (
    'annotations/panoptic_train*.json and annotations/panoptic_val*.json, each beside a folder of that name with the '
    'PNG files (COCO panoptic)'
)


def recognise(root: Path) -> bool:
    """Return whether the folder has a panoptic annotation file."""
    return bool(_files(root))


def read(root: Path, task: str, store: Path) -> Source:
    """Return the data set; nothing is written to `store`."""
    from repvit_dense.data.checks.coco_panoptic import check_things  # imports numpy

    splits: dict[str, dict] = {}
    contents: dict[str, dict] = {}
    notes: list[str] = []
    for split in SPLITS:
        splits[split], contents[split] = _read_split(root, split)
    file = Path(splits['train']['ann_file'])
    things = tuple(c['name'] for c in contents['train']['categories'] if c.get('isthing'))
    check_things(file, contents['train']['categories'], list(things))
    classes = class_names(file, contents['train'])
    if any(split_of(path.stem) == 'test' for path in _files(root)):
        with optional_test(root, notes):
            splits['test'], contents['test'] = _read_split(root, 'test')
            note_test(root, len(contents['test']['images']), notes)
    return Source(
        *('CocoPanopticDataset', classes, len(things), splits['train'], splits['val']),
        metainfo=panoptic_metainfo(things, classes[len(things) :]),
        ann_files=_evaluation(root, 'val', splits['val']),
        notes=tuple(notes),
        test=splits.get('test'),
        test_files=_evaluation(root, 'test', splits['test']) if 'test' in splits else {},
    )


def _read_split(root: Path, split: str) -> tuple[dict, dict]:
    """Return the arguments of the data set class that select a split, and the content of its annotation file."""
    files = [file for file in _files(root) if split_of(file.stem) == split]
    if len(files) != 1:
        raise InputError(
            f'{root}: this config trains panoptic labels, which need one annotations/panoptic_{split}*.json beside '
            f'a folder of that name with the PNG files; there are {len(files)} such files'
        )
    content, maps = read_coco(files[0]), files[0].with_suffix('')
    if not maps.is_dir():
        raise InputError(f'{maps}: not found; the PNG files of {files[0].name} belong there')
    images, number = image_folder(root, files[0], content)
    if number is not None:
        raise InputError(
            f'{files[0]}: its images are in {root / images}, but not under the file names that it lists; leave out '
            f'the first {number} folders of these names and write / for \\'
        )
    prefix = {'img': images, 'seg': maps.relative_to(root).as_posix()}
    return {'data_root': str(root), 'ann_file': str(files[0]), 'data_prefix': prefix}, content


def _evaluation(root: Path, split: str, arguments: dict) -> dict[str, str]:
    files = {'panoptic': arguments['ann_file'], 'maps': str(root / arguments['data_prefix']['seg'])}
    instances = [f for f in sorted(root.glob('annotations/instances*.json')) if split_of(f.stem) == split]
    return {**files, 'instances': str(instances[0])} if instances else files


def _files(root: Path) -> list[Path]:
    return sorted([*root.glob('annotations/panoptic*.json'), *root.glob('panoptic*.json')])
