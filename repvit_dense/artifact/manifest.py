"""`manifest.json`: what an artifact is, as data. Reading it executes nothing and never leaves the folder."""

import dataclasses
import json
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from repvit_dense import __version__
from repvit_dense.errors import InputError
from repvit_dense.files import write_text

NAME = 'manifest.json'
FORMAT_VERSION = 1
AGAIN = 'export the model again (repvit-dense export)'

# What a graph of each task gives, and its model file in any order; and the thresholds its results are finished with.
OUTPUTS = {
    'detection': ('boxes', 'scores', 'labels', 'count'),
    'instance': ('boxes', 'scores', 'labels', 'masks', 'count'),
    'panoptic': ('scores', 'labels', 'masks', 'count'),
    'semantic': ('seg',),
}
MASK_KINDS = {'detection': (None,), 'instance': ('roi', 'image'), 'panoptic': ('image',), 'semantic': (None,)}
THRESHOLDS = {
    'detection': (),
    'instance': ('mask_thr',),
    'panoptic': ('object_mask_thr', 'iou_thr', 'filter_low_score', 'num_things'),
    'semantic': (),
}
TARGETS = ('onnx', 'openvino', 'coreml', 'executorch', 'torch')
PRECISIONS = ('fp32', 'fp16', 'int8')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a runtime has to know of a model file.

    Attributes:
        task: key of `OUTPUTS`.
        target: format of the model file, of `TARGETS`.
        precision: of `PRECISIONS`.
        model: name of the model file or folder beside the manifest.
        classes: names, in the order of the labels.
        palette: an RGB colour per class, 0 to 255, or None.
        preprocess: see `repvit_dense.artifact.preprocess.from_config`.
        inputs: name -> shape; a number is fixed, a name is open.
        outputs: names in the order in which the model gives them.
        mask_kind: `'roi'`, a mask covers its box; `'image'`, it covers the padded image on a coarser grid; else None.
        postprocess: thresholds and switches, see `repvit_dense.artifact.predictor`.
        config, backbone, tap, checkpoint_sha256, versions: where the model comes from.
        certificate: what was measured at export; None where that was left out.
    """

    task: str
    target: str
    precision: str
    model: str
    classes: list[str]
    palette: list[list[int]] | None
    preprocess: dict
    inputs: dict[str, list[int | str]]
    outputs: list[str]
    mask_kind: str | None
    postprocess: dict
    config: str | None
    backbone: str | None
    tap: str | None
    checkpoint_sha256: str | None
    versions: dict[str, str]
    certificate: dict | None = None
    producer: str = f'repvit_dense {__version__}'
    format_version: int = FORMAT_VERSION

    def write(self, folder: str | Path) -> Path:
        """Write `manifest.json` into a folder, whole or not at all. Returns its path.

        Raises:
            InputError: a field has a value that `read` would refuse.
        """
        path = Path(folder, NAME)
        text = json.dumps(dataclasses.asdict(self), indent=1)
        _check(path, json.loads(text))
        write_text(path, text + '\n')
        return path


def is_artifact(path: str | Path) -> bool:
    """Whether this is the folder of an artifact, as far as its name for a manifest goes."""
    return Path(path, NAME).is_file()


def read(folder: str | Path) -> Manifest:
    """The manifest of an artifact, checked.

    Raises:
        InputError: no such folder, no manifest, one of another version or with a field that is missing, foreign or of
            the wrong kind, or a model file that is not there or not in the folder.
    """
    folder = Path(folder)
    path = folder / NAME
    if not path.is_file():
        what = f'no {NAME} in this folder' if folder.is_dir() else 'no such folder'
        raise InputError(f'{folder}: {what}; name the folder of an artifact, as repvit-dense export writes it')
    try:
        content = json.loads(path.read_text(encoding='utf-8'), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f'{path}: cannot be read as JSON ({error}); {AGAIN}') from error
    _check(path, content)
    model = folder / content['model']
    if not model.resolve().is_relative_to(folder.resolve()):
        raise InputError(f'{path}: model {content["model"]} links out of the folder; put the file itself there')
    if not model.exists():
        raise InputError(f'{model}: the model file is missing; copy the whole folder of the artifact, or {AGAIN}')
    return Manifest(**content)


def _refuse_constant(name: str) -> None:
    raise ValueError(f'{name} is no number')


# --- checks -----------------------------------------------------------------------------------------------------------


def _check(path: Path, content: Any) -> None:
    """Refuse what `Manifest` cannot be made of."""
    if not isinstance(content, dict):
        raise InputError(f'{path}: not a manifest (JSON holds no object); {AGAIN}')
    version = content.get('format_version')
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise InputError(
            f'{path}: format_version is {version!r}, this release of repvit_dense reads {FORMAT_VERSION}; {AGAIN}, '
            'or install the release that wrote it'
        )
    names = {field.name for field in dataclasses.fields(Manifest)}
    for what, fields in (('missing', names - content.keys()), ('not known here', content.keys() - names)):
        if fields:
            raise InputError(f'{path}: {what}: {", ".join(sorted(fields))}; {AGAIN}')
    task = content['task']
    _demand(path, 'task', task, isinstance(task, str) and task in OUTPUTS, f'one of {", ".join(OUTPUTS)}')
    for name, (fits, wanted) in _rules(content, task).items():
        _demand(path, name, content[name], fits(content[name]), wanted)
    _check_preprocess(path, content['preprocess'])


def _demand(path: Path, name: str, value: Any, fits: bool, wanted: str) -> None:
    if not fits:
        text = repr(value)
        raise InputError(f'{path}: {name} is {text if len(text) < 80 else text[:77] + "..."}, not {wanted}; {AGAIN}')


def _rules(content: dict, task: str) -> dict[str, tuple]:
    """Field -> whether a value fits, and what would."""
    counted = len(content['classes']) if isinstance(content['classes'], list) else 0
    optional = (lambda value: value is None or isinstance(value, str), 'a text or null')
    thresholds = THRESHOLDS[task]
    kinds = MASK_KINDS[task]
    return {
        'producer': (lambda value: isinstance(value, str), 'a text'),
        'target': (lambda value: value in TARGETS, f'one of {", ".join(TARGETS)}'),
        'precision': (lambda value: value in PRECISIONS, f'one of {", ".join(PRECISIONS)}'),
        'model': (_is_file_name, 'the name of a file in this folder'),
        'classes': (lambda value: _is_list(value, str) and len(value) > 0, 'a list of names'),
        'palette': (
            lambda value: (
                value is None or (_is_list(value, list) and len(value) == counted and all(map(_is_rgb, value)))
            ),
            'an RGB colour for each class, or null',
        ),
        'preprocess': (lambda value: isinstance(value, dict), 'an object'),
        'inputs': (_are_inputs, 'images: [B, 3, height, width] and img_hw: [B, 2]'),
        'outputs': (
            lambda value: _is_list(value, str) and sorted(value) == sorted(OUTPUTS[task]),
            f'{", ".join(sorted(OUTPUTS[task]))}',
        ),
        'mask_kind': (lambda value: value in kinds, ' or '.join(map(json.dumps, kinds))),
        'postprocess': (
            lambda value: (
                isinstance(value, dict)
                and all(isinstance(number, bool | int | float) for number in value.values())
                and set(thresholds) <= value.keys()
            ),
            f'numbers{" with " + ", ".join(thresholds) if thresholds else ""}',
        ),
        **dict.fromkeys(('config', 'backbone', 'tap', 'checkpoint_sha256'), optional),
        'versions': (
            lambda value: isinstance(value, dict) and all(isinstance(text, str) for text in value.values()),
            'names with versions',
        ),
        'certificate': (lambda value: value is None or isinstance(value, dict), 'an object or null'),
    }


def _check_preprocess(path: Path, preprocess: dict) -> None:
    rules = {
        'scale': (lambda value: value is None or _is_size(value), '[width, height] in pixels or null'),
        'keep_ratio': (lambda value: isinstance(value, bool), 'true or false'),
        'multiple': (lambda value: value is None or _is_count(value), 'a number of pixels or null'),
        'pad_to': (lambda value: value is None or _is_size(value), '[width, height] in pixels or null'),
        'pad_colour': (lambda value: value is None or _is_rgb(value), 'an RGB colour or null'),
        'mean': (_is_triple, 'three numbers'),
        'std': (lambda value: _is_triple(value) and all(number > 0 for number in value), 'three numbers above 0'),
        'pad_value': (_is_number, 'a number'),
        'divisor': (_is_count, 'a number of pixels'),
    }
    for what, fields in (('missing', rules.keys() - preprocess.keys()), ('not known here', preprocess.keys() - rules)):
        if fields:
            raise InputError(f'{path}: preprocess: {what}: {", ".join(sorted(fields))}; {AGAIN}')
    for name, (fits, wanted) in rules.items():
        _demand(path, f'preprocess.{name}', preprocess[name], fits(preprocess[name]), wanted)


def _is_file_name(value: Any) -> bool:
    """One name, without a folder or a drive on any system."""
    if not isinstance(value, str) or '\0' in value:
        return False
    return value not in ('', '.', '..') and PurePosixPath(value).name == PureWindowsPath(value).name == value


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9  # 1e999 is inf


def _is_count(value: Any) -> bool:
    return _is_number(value) and isinstance(value, int) and value > 0


def _is_size(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_count, value))


def _is_triple(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(map(_is_number, value))


def _is_rgb(value: Any) -> bool:
    return _is_triple(value) and all(isinstance(level, int) and 0 <= level <= 255 for level in value)


def _are_inputs(value: Any) -> bool:
    if not isinstance(value, dict) or value.keys() != {'images', 'img_hw'}:
        return False
    images, img_hw = value['images'], value['img_hw']
    sizes = [images, img_hw] if isinstance(images, list) and isinstance(img_hw, list) else []
    if [len(size) for size in sizes] != [4, 2] or images[1] != 3 or img_hw[1] != 2 or images[0] != img_hw[0]:
        return False
    return all(_is_count(side) or (isinstance(side, str) and side) for size in sizes for side in size)
