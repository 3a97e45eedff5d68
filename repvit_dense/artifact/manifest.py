"""Read and write `manifest.json`, the description of an artifact. Reading executes nothing and stays in the folder."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from repvit_dense import __version__
from repvit_dense.artifact.targets import PRECISIONS, TARGETS
from repvit_dense.errors import InputError
from repvit_dense.files import is_file, write_text

NAME = 'manifest.json'
FORMAT_VERSION = 1
EXPORT_AGAIN = 'export the model again (repvit-dense export)'

# Outputs of the graph of each task (a model file may order them differently), and thresholds of the postprocessing.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """The description of an artifact.

    Attributes:
        task: 'detection', 'instance', 'panoptic' or 'semantic'.
        target: format of the model file, a key of `repvit_dense.artifact.targets.TARGETS`.
        precision: 'fp32', 'fp16' or 'int8'.
        model: name of the model file or folder beside the manifest.
        classes: class names, by label.
        palette: an RGB colour per class, 0 to 255, or None.
        preprocess: see `repvit_dense.artifact.preprocess.from_config`.
        inputs: shape of every input, by name; a number is fixed, a name is open.
        outputs: names, in the order of the model's outputs.
        mask_kind: 'roi' if a mask covers its box, 'image' if it covers the padded image on a coarser grid, else None.
        postprocess: thresholds and switches, see `repvit_dense.artifact.postprocess`.
        config, backbone, tap, checkpoint_sha256, versions: origin of the model.
        certificate: measurements of the export; None if there were none.
        producer: name and version of the writer.
        format_version: version of this description.
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
        """Write `manifest.json` into a folder, completely or not at all, and return its path.

        Raises:
            InputError: `read` would refuse the value of a field.
        """
        path = Path(folder, NAME)
        text = json.dumps(dataclasses.asdict(self), indent=1)
        _check(path, json.loads(text))
        write_text(path, text + '\n')
        return path


def is_artifact(path: str | Path) -> bool:
    """Return whether a path is a folder with a `manifest.json`."""
    return is_file(Path(path, NAME))


def read(folder: str | Path) -> Manifest:
    """Read and check the manifest of an artifact.

    Raises:
        InputError: the folder or the manifest is missing, the manifest has another version or a field that is missing,
            unknown or of the wrong type, or the model file is missing or outside the folder.
    """
    folder = Path(folder)
    path = folder / NAME
    if not path.is_file():
        problem = f'no {NAME} in this folder' if folder.is_dir() else 'no such folder'
        raise InputError(f'{folder}: {problem}; name the folder of an artifact, as repvit-dense export writes it')
    try:
        content = json.loads(path.read_text(encoding='utf-8'), parse_constant=_refuse_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f'{path}: cannot be read as JSON ({error}); {EXPORT_AGAIN}') from error
    _check(path, content)
    model = folder / content['model']
    if not model.resolve().is_relative_to(folder.resolve()):
        raise InputError(f'{path}: model {content["model"]} links out of the folder; put the file itself there')
    if not model.exists():
        raise InputError(
            f'{model}: the model file is missing; copy the whole folder of the artifact, or {EXPORT_AGAIN}'
        )
    return Manifest(**content)


def _refuse_constant(name: str) -> None:
    raise ValueError(f'{name} is no number')


# --- checks -----------------------------------------------------------------------------------------------------------


def _check(path: Path, content: Any) -> None:
    """Refuse JSON content that is not a valid manifest."""
    if not isinstance(content, dict):
        raise InputError(f'{path}: not a manifest (JSON holds no object); {EXPORT_AGAIN}')
    version = content.get('format_version')
    if version != FORMAT_VERSION or isinstance(version, bool):
        raise InputError(
            f'{path}: format_version is {version!r}, this release of repvit_dense reads {FORMAT_VERSION}; '
            f'{EXPORT_AGAIN} or install the release that wrote it'
        )
    names = {field.name for field in dataclasses.fields(Manifest)}
    for problem, fields in (('missing', names - content.keys()), ('unknown', content.keys() - names)):
        if fields:
            raise InputError(f'{path}: {problem}: {", ".join(sorted(fields))}; {EXPORT_AGAIN}')
    task = content['task']
    _require(path, 'task', task, isinstance(task, str) and task in OUTPUTS, f'one of {", ".join(OUTPUTS)}')
    for name, (fits, expected) in _rules(content, task).items():
        _require(path, name, content[name], fits(content[name]), expected)
    _check_preprocess(path, content['preprocess'])


def _require(path: Path, name: str, value: Any, fits: bool, expected: str) -> None:
    if not fits:
        text = repr(value)
        raise InputError(
            f'{path}: {name} is {text if len(text) < 80 else text[:77] + "..."}, expected {expected}; {EXPORT_AGAIN}'
        )


def _rules(content: dict, task: str) -> dict[str, tuple]:
    """Return for every field a function that tests a value, and a description of valid values."""
    class_count = len(content['classes']) if isinstance(content['classes'], list) else 0
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
                value is None or (_is_list(value, list) and len(value) == class_count and all(map(_is_rgb, value)))
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
    rules: dict[str, tuple[Callable[[Any], bool], str]] = {
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
    for problem, fields in (('missing', rules.keys() - preprocess.keys()), ('unknown', preprocess.keys() - rules)):
        if fields:
            raise InputError(f'{path}: preprocess: {problem}: {", ".join(sorted(fields))}; {EXPORT_AGAIN}')
    for name, (fits, expected) in rules.items():
        _require(path, f'preprocess.{name}', preprocess[name], fits(preprocess[name]), expected)


def _is_file_name(value: Any) -> bool:
    """Return whether a value is a plain file name, without folder or drive on any system."""
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
