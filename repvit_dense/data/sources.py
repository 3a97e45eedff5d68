"""What a data set is, by its name or by the path of a folder: classes, files, and how mmdet or mmseg reads them.

A path is recognised by what lies in the folder, for the labels that a config trains:

detection, instance
    * YOLO: a YAML file with `names`, `train`, `val` (`data.yaml`), text files with boxes or polygons.
    * Pascal VOC: `JPEGImages/`, `Annotations/*.xml`, `ImageSets/Main/{train,val}.txt`.
    * COCO: `annotations/*.json` with `train` and `val` in the file names; or one JSON inside each of the image folders
      `train*/` and `val*/` (Roboflow's export); or a single JSON beside its images.
panoptic
    `annotations/panoptic_{train,val}*.json`, each beside a folder of that name with the PNG files.
semantic
    `images/{train,val}*` and `annotations/` (or `masks/`, `labels/`) with the same folders; or `train*/images` and
    `train*/masks`; and the classes in `classes.txt`, one per line, or `classes.json`. A pixel's value is the number of
    its class, 255 is ignored; a JSON object that maps values to names may begin at 1, then 0 is ignored as well.

The classes are those of the files, in the order of the files. Where there is no `val` and only one annotation file, a
tenth of the images is held out for evaluation, chosen by a hash of the file name: the same ones every time, on every
machine; frames of one video may fall on both sides. A test split is not used: evaluation is on `val`. Whatever has to
be written goes to the folder `coco` of the work dir, never to the data.
"""

import colorsys
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from repvit_dense.data import checks, shapes
from repvit_dense.data.reading import images_in
from repvit_dense.errors import InputError
from repvit_dense.files import write_text

TASKS = ('detection', 'instance', 'panoptic', 'semantic')
EMBEDDED = {'root': 'data/shapes', 'seed': 0, 'num_train': 500, 'num_val': 100, 'size': (256, 256)}
SPLITS = ('train', 'val')
HELD_OUT = 10  # one image in this many, where there is no val split

# Annotation files of COCO that hold something else than instances.
NOT_INSTANCES = ('captions', 'image_info', 'panoptic', 'person_keypoints', 'stuff')
MASK_FOLDERS = ('annotations', 'masks', 'labels')


@dataclass(frozen=True)
class Source:
    """A data set as a config needs it.

    Attributes:
        type: class of mmdet (or, for semantic labels, mmseg) that reads it.
        classes: their names, by label; of panoptic labels things before stuff.
        things: how many of them can be counted; all but for panoptic labels.
        train, val: arguments of `type` that say what to read.
        metainfo: argument of `type`; None where it knows its classes and colours by itself.
        ann_files: 'instances', 'panoptic' -> annotation file for evaluation; 'maps' -> folder of panoptic PNG files.
        embedded: arguments of `shapes.generate`, where the data set is drawn before its first use.
        notes: what the user should know.
    """

    type: str
    classes: tuple[str, ...]
    things: int
    train: dict
    val: dict
    metainfo: dict | None = None
    ann_files: dict[str, str] = field(default_factory=dict)
    embedded: dict | None = None
    notes: tuple[str, ...] = ()


def find(data: str, task: str, work_dir: str | os.PathLike) -> Source:
    """The data set of this name, or in this folder, with the labels of a task.

    Args:
        data: a name, or a path; a folder that is called like a data set is written with `./`.
        task: one of `TASKS`.
        work_dir: what has to be converted goes to its folder `coco`.

    Raises:
        InputError: neither, or a data set without these labels; the message says what would do.
    """
    if data in NAMES:
        if task not in NAMES[data]:
            suits = ' and '.join(NAMES[data])
            able = [name for name in NAMES if task in NAMES[name]]
            raise InputError(
                f'--data {data} suits {suits} configs; for this {task} config: {", ".join(able)}, or a path'
            )
        return NAMES[data][task]()
    root = Path(data)
    if not root.is_dir():
        raise InputError(f'--data {data}: no folder, and no data set of this name; known: {", ".join(NAMES)}')
    root, store = root.absolute(), Path(work_dir).absolute() / 'coco'
    if task == 'semantic':
        return _semantic_folder(root)
    if task == 'panoptic':
        return _panoptic_folder(root)
    return _instance_folder(root, store, masks=task == 'instance')


# --- by name ---


def _coco() -> Source:
    from mmdet.datasets import CocoDataset

    return _coco_layout('data/coco/', 'CocoDataset', CocoDataset.METAINFO['classes'])


def _coco_panoptic() -> Source:
    from mmdet.datasets import CocoPanopticDataset

    known = CocoPanopticDataset.METAINFO
    return _coco_panoptic_layout('data/coco/', known['classes'], len(known['thing_classes']))


def _shapes() -> Source:
    classes = shapes.THING_CLASSES
    meta = {'classes': classes, 'palette': palette(len(classes))}
    return _coco_layout(f'{EMBEDDED["root"]}/', 'CocoDataset', classes, metainfo=meta, embedded=EMBEDDED)


def _shapes_panoptic() -> Source:
    things, stuff = shapes.THING_CLASSES, shapes.STUFF_CLASSES
    meta = _panoptic_meta(things, stuff)
    root = f'{EMBEDDED["root"]}/'
    return _coco_panoptic_layout(root, things + stuff, len(things), metainfo=meta, embedded=EMBEDDED)


def _shapes_semantic() -> Source:
    classes = shapes.THING_CLASSES + shapes.STUFF_CLASSES
    meta = {'classes': classes, 'palette': palette(len(classes))}
    root, ends = f'{EMBEDDED["root"]}/', {'img_suffix': '.png', 'seg_map_suffix': '.png'}
    splits = (_masks(root, split, f'annotations/semantic_{split}', **ends) for split in shapes.SPLITS)
    return Source('BaseSegDataset', classes, len(classes), *splits, metainfo=meta, embedded=EMBEDDED)


def _ade20k() -> Source:
    from mmseg.datasets import ADE20KDataset

    root = 'data/ADEChallengeData2016/'
    splits = (_masks(root, f'images/{split}', f'annotations/{split}') for split in ('training', 'validation'))
    return _known_masks('ADE20KDataset', ADE20KDataset, splits)


def _cityscapes() -> Source:
    from mmseg.datasets import CityscapesDataset

    splits = (_masks('data/cityscapes/', f'leftImg8bit/{split}', f'gtFine/{split}') for split in SPLITS)
    return _known_masks('CityscapesDataset', CityscapesDataset, splits)


def _voc() -> Source:
    """With the additional training masks of SBD, as every published result has it."""
    from mmseg.datasets import PascalVOCDataset

    splits = (
        _masks('data/VOCdevkit/VOC2012/', 'JPEGImages', masks, ann_file=f'ImageSets/Segmentation/{split}.txt')
        for split, masks in (('trainaug', 'SegmentationClassAug'), ('val', 'SegmentationClass'))
    )
    return _known_masks('PascalVOCDataset', PascalVOCDataset, splits)


NAMES: dict[str, dict[str, Callable[[], Source]]] = {
    'coco': {'detection': _coco, 'instance': _coco},
    'coco-panoptic': {'panoptic': _coco_panoptic},
    'ade20k': {'semantic': _ade20k},
    'cityscapes': {'semantic': _cityscapes},
    'voc': {'semantic': _voc},
    'shapes': {
        'detection': _shapes,
        'instance': _shapes,
        'panoptic': _shapes_panoptic,
        'semantic': _shapes_semantic,
    },
}


def _coco_layout(root: str, kind: str, classes: tuple[str, ...], **more) -> Source:
    train, val = (
        {'data_root': root, 'ann_file': f'annotations/instances_{split}.json', 'data_prefix': {'img': f'{split}/'}}
        for split in shapes.SPLITS
    )
    return Source(kind, classes, len(classes), train, val, ann_files={'instances': root + val['ann_file']}, **more)


def _coco_panoptic_layout(root: str, classes: tuple[str, ...], things: int, **more) -> Source:
    train, val = (
        {
            'data_root': root,
            'ann_file': f'annotations/panoptic_{split}.json',
            'data_prefix': {'img': f'{split}/', 'seg': f'annotations/panoptic_{split}/'},
        }
        for split in shapes.SPLITS
    )
    files = {
        'panoptic': root + val['ann_file'],
        'maps': root + val['data_prefix']['seg'],
        'instances': f'{root}annotations/instances_{shapes.SPLITS[1]}.json',
    }
    return Source('CocoPanopticDataset', classes, things, train, val, ann_files=files, **more)


def _masks(root: str | Path, images: str | Path, masks: str | Path, **more) -> dict:
    return {'data_root': str(root), 'data_prefix': {'img_path': str(images), 'seg_map_path': str(masks)}, **more}


def _known_masks(kind: str, dataset: type, splits: Iterable[dict]) -> Source:
    classes = tuple(dataset.METAINFO['classes'])
    return Source(kind, classes, len(classes), *splits)


def _panoptic_meta(things: tuple[str, ...], stuff: tuple[str, ...]) -> dict:
    classes = things + stuff
    return {'classes': classes, 'thing_classes': things, 'stuff_classes': stuff, 'palette': palette(len(classes))}


def palette(number: int) -> list[tuple[int, int, int]]:
    """RGB colours 0..255 for so many classes; neighbours differ in hue by the golden angle."""
    hues = (index * 0.381966 % 1 for index in range(number))
    colours = (colorsys.hsv_to_rgb(hue, 0.65, (0.95, 0.7)[index % 2]) for index, hue in enumerate(hues))
    return [tuple(round(255 * value) for value in colour) for colour in colours]


# --- folders with objects ---


def _instance_folder(root: Path, store: Path, masks: bool) -> Source:
    listing = _yolo_listing(root)
    notes = []
    if listing or (root / 'Annotations').is_dir() and (root / 'JPEGImages').is_dir():
        from repvit_dense.data import convert

        contents = convert.yolo(root, listing) if listing else convert.voc(root)
        layout, prefixes = 'YOLO' if listing else 'Pascal VOC', dict.fromkeys(SPLITS, '')
        changed = True
        notes.append(f'{root}: {layout} labels, converted to {store}')
    else:
        files, folders = _coco_files(root)
        contents = {split: checks.read_coco(file) for split, file in files.items()}
        prefixes = {split: _image_folder(root, files[split], contents[split], folders.get(split)) for split in files}
        changed = _drop_placeholder(contents)
    if 'val' not in contents:
        contents['train'], contents['val'] = hold_out(root, contents['train'])
        prefixes['val'], changed = prefixes['train'], True
        number = len(contents['val']['images'])
        notes.append(f'{root}: there is no val split, so {number} images are held out for evaluation')
    if changed:
        files = {split: _write(store / f'{split}.json', contents[split]) for split in SPLITS}
    classes = _classes(files['train'], contents['train'])
    if masks:
        _demand_masks(root, contents['train'])
    train, val = (
        {'data_root': str(root), 'ann_file': str(files[split]), 'data_prefix': {'img': prefixes[split]}}
        for split in SPLITS
    )
    meta = {'classes': classes, 'palette': palette(len(classes))}
    evaluation = {'instances': str(files['val'])}
    return Source('CocoDataset', classes, len(classes), train, val, meta, evaluation, notes=tuple(notes))


def _yolo_listing(root: Path) -> Path | None:
    """The YAML file that describes a YOLO data set: `data.yaml`, or the only one there."""
    files = sorted([*root.glob('*.yaml'), *root.glob('*.yml')])
    named = [file for file in files if file.stem == 'data']
    return (named or (files if len(files) == 1 else [None]))[0]


def _split_of(name: str) -> str | None:
    """`instances_train2017` -> 'train'; 'val' also stands for `valid` and `validation`."""
    for word in re.split('[^a-z]+', name.lower()):
        for split in SPLITS:
            if word.startswith(split):
                return split
    return None


def _coco_files(root: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Split -> annotation file, and split -> folder of its images where the layout says so."""
    inside = {}
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        jsons = sorted(folder.glob('*.json'))
        if _split_of(folder.name) and len(jsons) == 1:
            inside.setdefault(_split_of(folder.name), jsons[0])
    if 'train' in inside:
        return inside, {split: file.parent for split, file in inside.items()}
    found = [file for file in sorted(root.glob('annotations/*.json')) if not file.name.startswith(NOT_INSTANCES)]
    found = found or sorted(root.glob('*.json'))
    if len(found) == 1:
        return {'train': found[0]}, {}
    files = {split: _only(root, [f for f in found if _split_of(f.stem) == split], split) for split in SPLITS}
    return files, {}


def _only(root: Path, files: list[Path], split: str) -> Path:
    preferred = [file for file in files if file.name.startswith('instances')]
    files = preferred if len(preferred) == 1 else files
    if len(files) == 1:
        return files[0]
    if files:
        names = ', '.join(file.name for file in files)
        raise InputError(f'{root}: which is the {split} split, {names}? Leave one annotation file per split')
    raise InputError(
        f'{root}: no annotations of a {split} split. Expected are annotations/*{split}*.json (COCO), data.yaml (YOLO), '
        f'Annotations/*.xml and JPEGImages (Pascal VOC), or a single JSON file beside its images'
    )


def _image_folder(root: Path, file: Path, content: dict, folder: Path | None) -> str:
    """Where the file names of a split begin, relative to `root`: the first place that has one of its images."""
    split = _split_of(file.stem)
    below = [base / path.name for base in (root, root / 'images') if base.is_dir() for path in sorted(base.iterdir())]
    named = [path for path in below if split and _split_of(path.name) == split]
    names = [str(image.get('file_name', '')) for image in content['images'][:50]]
    candidates = [folder] if folder else [*named, root / 'images', root, file.parent]
    candidates += [path for path in sorted(root.iterdir()) if path.is_dir()]
    for candidate in candidates:
        if any(name and (candidate / name).is_file() for name in names):
            return candidate.relative_to(root).as_posix()
    raise InputError(
        f'{file}: its images ({", ".join(map(str, names[:3]))}, ...) are in none of '
        f'{", ".join(str(path) for path in dict.fromkeys(candidates))}'
    )


def _drop_placeholder(contents: dict[str, dict]) -> bool:
    """Remove the category without objects that Roboflow puts first (`supercategory` none); whether there was one."""
    used = {a.get('category_id') for content in contents.values() for a in content['annotations']}
    dropped = False
    for content in contents.values():
        kept = [c for c in content['categories'] if c.get('supercategory') != 'none' or c['id'] in used]
        if kept and len(kept) < len(content['categories']):
            content['categories'], dropped = kept, True
    return dropped


def hold_out(root: Path, content: dict) -> tuple[dict, dict]:
    """Part COCO content into training and evaluation: a tenth of the images, at least one, by a hash of their names.

    Raises:
        InputError: fewer than two images.
    """
    images = sorted(content['images'], key=lambda image: hashlib.sha256(str(image.get('file_name')).encode()).digest())
    number = max(1, len(images) // HELD_OUT)
    if number >= len(images):
        raise InputError(f'{root}: there is no val split, and too few images ({len(images)}) to hold one out')
    parts = []
    for part in (images[number:], images[:number]):
        ids = {image.get('id') for image in part}
        of_part = [annotation for annotation in content['annotations'] if annotation.get('image_id') in ids]
        parts.append({**content, 'images': part, 'annotations': of_part})
    return parts[0], parts[1]


def _classes(file: Path, content: dict) -> tuple[str, ...]:
    classes = tuple(category['name'] for category in content['categories'])
    if not classes:
        raise InputError(f'{file}: lists no categories, so there is nothing to train')
    return classes


def _demand_masks(root: Path, content: dict) -> None:
    objects = content['annotations']
    if objects and not any(annotation.get('segmentation') for annotation in objects):
        raise InputError(f'{root}: its objects have boxes but no masks, so it suits detection configs, not this one')


def _write(file: Path, content: dict) -> Path:
    """The processes of a job may do this at once, and none may read half a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_text(file, json.dumps(content))
    return file


# --- folders with panoptic maps ---


def _panoptic_folder(root: Path) -> Source:
    found = sorted([*root.glob('annotations/panoptic*.json'), *root.glob('panoptic*.json')])
    splits, contents, evaluation = {}, {}, {}
    for split in SPLITS:
        files = [file for file in found if _split_of(file.stem) == split]
        if len(files) != 1:
            raise InputError(
                f'{root}: this config trains panoptic labels, which need annotations/panoptic_{split}*.json and a '
                f'folder of that name with the PNG files; {len(files)} such files are there'
            )
        contents[split], maps = checks.read_coco(files[0]), files[0].with_suffix('')
        if not maps.is_dir():
            raise InputError(f'{maps}: not found; the PNG files of {files[0].name} belong there')
        images = _image_folder(root, files[0], contents[split], None)
        prefix = {'img': images, 'seg': maps.relative_to(root).as_posix()}
        splits[split] = {'data_root': str(root), 'ann_file': str(files[0]), 'data_prefix': prefix}
        evaluation |= {'panoptic': str(files[0]), 'maps': str(maps)}
    file = Path(splits['train']['ann_file'])
    things = tuple(c['name'] for c in contents['train']['categories'] if c.get('isthing'))
    checks.check_things(file, contents['train']['categories'], list(things))
    classes = _classes(file, contents['train'])
    instances = [f for f in sorted(root.glob('annotations/instances*.json')) if _split_of(f.stem) == 'val']
    if instances:
        evaluation['instances'] = str(instances[0])
    meta = _panoptic_meta(things, classes[len(things) :])
    return Source('CocoPanopticDataset', classes, len(things), splits['train'], splits['val'], meta, evaluation)


# --- folders with semantic masks ---


def _semantic_folder(root: Path) -> Source:
    classes, reduce_zero_label = _class_list(root)
    splits = []
    for split in SPLITS:
        images, masks = _image_and_mask_folders(root, split)
        suffixes = _suffixes(images, masks)
        folders = (images.relative_to(root), masks.relative_to(root))
        splits.append(_masks(root, *folders, **suffixes, reduce_zero_label=reduce_zero_label))
    meta = {'classes': classes, 'palette': palette(len(classes))}
    return Source('BaseSegDataset', classes, len(classes), *splits, metainfo=meta)


def _class_list(root: Path) -> tuple[tuple[str, ...], bool]:
    """The classes, and whether the value 0 is none of them."""
    file = next((path for path in (root / 'classes.txt', root / 'classes.json') if path.is_file()), None)
    if file is None:
        raise InputError(
            f'{root}: a folder with semantic masks needs its class names in classes.txt, one per line, in the order of '
            "the masks' values"
        )
    text = checks.read_text(file)
    if file.suffix == '.txt':
        names = [line.strip() for line in text.splitlines() if line.strip()]
        values = list(range(len(names)))
    else:
        values, names = _from_json(file, text)
    if not names or len(set(names)) != len(names) or values not in (list(range(len(names))), _from_one(names)):
        raise InputError(f'{file}: expected are different names for the values 0, 1, 2, ... or 1, 2, 3, ...')
    return tuple(names), values == _from_one(names)


def _from_one(names: list[str]) -> list[int]:
    return list(range(1, len(names) + 1))


def _from_json(file: Path, text: str) -> tuple[list[int], list[str]]:
    try:
        listed = json.loads(text)
        pairs = enumerate(listed) if isinstance(listed, list) else sorted((int(v), n) for v, n in listed.items())
        values, names = zip(*pairs, strict=True)
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f'{file}: expected is a list of names, or an object such as {{"0": "road"}}') from error
    return list(values), [str(name) for name in names]


def _image_and_mask_folders(root: Path, split: str) -> tuple[Path, Path]:
    def of_split(folder):
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        return next((path for path in found if path.is_dir() and _split_of(path.name) == split), None)

    folder = of_split(root)
    for kind in MASK_FOLDERS:
        for images, masks in (
            (of_split(root / 'images'), of_split(root / kind)),
            (folder and folder / 'images', folder and folder / kind),
        ):
            if images and masks and images.is_dir() and masks.is_dir():
                return images, masks
    raise InputError(
        f'{root}: this config trains semantic labels, and no {split} split with masks is there. Expected are images/'
        f'{split} and masks/{split}, or {split}/images and {split}/masks (annotations or labels will do for masks)'
    )


def _suffixes(images: Path, masks: Path) -> dict[str, str]:
    """How the names of images and masks end: mmseg takes one ending for all, and pairs what comes before it."""
    found = images_in(images)
    endings = sorted({path.suffix for path in found})
    if len(endings) != 1:
        what = ', '.join(endings) if endings else 'no images'
        raise InputError(f'{images}: holds {what}; images of one type, such as .jpg, are expected')
    first = found[0].relative_to(images)
    paired = sorted((masks / first.parent).glob(f'{first.stem}*'), key=lambda path: len(path.name))
    if not paired:
        raise InputError(f'{masks}: no mask for {found[0].name}; its name must begin with {first.stem}')
    return {'img_suffix': endings[0], 'seg_map_suffix': paired[0].name[len(first.stem) :]}
