"""Rules for the fields of a manifest; every size is bounded, so that no artifact asks for absurd amounts of memory."""

import json
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NamedTuple

from repvit_dense.artifact.targets import PRECISIONS, TARGETS
from repvit_dense.checkpoints.provenance import is_provenance

MOST_CLASSES, LONGEST_TEXT = 100_000, 1000
MOST_BATCH, MOST_SIDE, MOST_PIXELS = 1024, 2**16, 2**26  # of an input of the model
MOST_MULTIPLE = 4096  # pixels
LEAST_STD = 1e-6
LONGEST_FILE_NAME = 200  # bytes
RESERVED = r'(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*[. ]'  # names that Windows gives another meaning

# Outputs of the graph of each task (a model file may order them differently).
OUTPUTS = {
    'detection': ('boxes', 'scores', 'labels', 'count'),
    'instance': ('boxes', 'scores', 'labels', 'masks', 'count'),
    'panoptic': ('scores', 'labels', 'masks', 'count'),
    'semantic': ('seg',),
}
MASK_KINDS = {'detection': (None,), 'instance': ('roi', 'image'), 'panoptic': ('image',), 'semantic': (None,)}


class Rule(NamedTuple):
    """A test of a value, and a description of valid values."""

    fits: Callable[[Any], bool]
    expected: str


def rules(content: dict) -> dict[str, Rule]:
    """Return the rule of every field but `preprocess`, `postprocess`, `files` and the version."""
    task, target = content['task'], content['target']
    model = TARGETS[target].model if is_key(target, TARGETS) else 'model'
    kinds = MASK_KINDS[task]
    text = Rule(is_text, 'a text')
    optional = Rule(lambda value: value is None or is_text(value), 'a text or null')
    count = len(content['classes']) if isinstance(content['classes'], list) else 0
    return {
        'producer': text,
        'target': Rule(lambda value: is_key(value, TARGETS), f'one of {", ".join(TARGETS)}'),
        'precision': Rule(lambda value: value in PRECISIONS, f'one of {", ".join(PRECISIONS)}'),
        'model': Rule(
            lambda value: _is_file_name(value) and Path(value).suffix == Path(model).suffix,
            f'the name of a file in this folder, such as {model}',
        ),
        'classes': Rule(are_class_names, 'a list of different names that can be printed'),
        'palette': Rule(
            lambda value: (
                value is None or (isinstance(value, list) and len(value) == count and all(map(_is_rgb, value)))
            ),
            'an RGB colour for each class, or null',
        ),
        'preprocess': Rule(lambda value: isinstance(value, dict), 'an object'),
        'inputs': Rule(
            _are_inputs, f'images: [B, 3, height, width] and img_hw: [B, 2], of at most {MOST_PIXELS:,} pixels'
        ),
        'outputs': Rule(
            lambda value: _is_list(value, str) and sorted(value) == sorted(OUTPUTS[task]),
            f'{", ".join(sorted(OUTPUTS[task]))}',
        ),
        'mask_kind': Rule(lambda value: value in kinds, ' or '.join(map(json.dumps, kinds))),
        'postprocess': Rule(lambda value: isinstance(value, dict), 'an object'),
        **dict.fromkeys(('config', 'backbone', 'tap', 'checkpoint_sha256'), optional),
        'versions': Rule(
            lambda value: isinstance(value, dict) and all(map(is_text, value.values())), 'names with versions'
        ),
        'certificate': Rule(lambda value: value is None or isinstance(value, dict), 'an object or null'),
        'provenance': Rule(lambda value: value is None or is_provenance(value), 'an object of plain values, or null'),
    }


def preprocess_rules(preprocess: dict) -> dict[str, Rule]:
    """Return the rule of every field of `preprocess`."""
    pads = preprocess.get('pad_to') is not None
    size = Rule(
        lambda value: value is None or _is_size(value), f'[width, height] of at most {MOST_PIXELS:,} pixels, or null'
    )
    multiple = Rule(lambda value: _is_count(value, MOST_MULTIPLE), f'a number of pixels up to {MOST_MULTIPLE}')
    return {
        'scale': size,
        'keep_ratio': Rule(lambda value: isinstance(value, bool), 'true or false'),
        'multiple': Rule(lambda value: value is None or multiple.fits(value), f'{multiple.expected}, or null'),
        'pad_to': size,
        'pad_colour': Rule(
            lambda value: _is_rgb(value) or (value is None and not pads), 'an RGB colour, or null without pad_to'
        ),
        'mean': Rule(_is_triple, 'three numbers'),
        'std': Rule(
            lambda value: _is_triple(value) and all(number >= LEAST_STD for number in value),
            f'three numbers from {LEAST_STD}',
        ),
        'pad_value': Rule(_is_number, 'a number'),
        'divisor': multiple,
    }


def postprocess_rules(content: dict) -> tuple[dict[str, Rule], dict[str, Rule]]:
    """Return the rules of the required and of the optional fields of `postprocess`."""
    classes = len(content['classes'])
    share = Rule(lambda value: _is_number(value) and 0 <= value <= 1, 'a number from 0 to 1')
    inside = Rule(lambda value: _is_number(value) and 0 < value < 1, 'a number between 0 and 1')
    switch = Rule(lambda value: isinstance(value, bool), 'true or false')
    things = Rule(lambda value: value == 0 or _is_count(value, classes), f'a count of classes, at most {classes}')
    required = {
        'detection': {},
        'instance': {'mask_thr': inside},
        'panoptic': {'object_mask_thr': share, 'iou_thr': share, 'filter_low_score': switch, 'num_things': things},
        'semantic': {},
    }
    switches = ('mask_canvas', 'boxes_from_masks', 'scores_from_masks') if content['mask_kind'] == 'image' else ()
    return required[content['task']], dict.fromkeys(switches, switch)


def are_class_names(value: Any) -> bool:
    """Return whether a value is a list of different names that can be printed."""
    if not isinstance(value, list) or not 0 < len(value) <= MOST_CLASSES:
        return False
    return all(is_text(name) and name.isprintable() and name.strip() for name in value) and len({*value}) == len(value)


def is_key(value: Any, table: dict) -> bool:
    """Return whether a value of any type is a key of a table."""
    return isinstance(value, str) and value in table


def is_text(value: Any) -> bool:
    """Return whether a value is a text of moderate length that can be encoded."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and not re.search('[\ud800-\udfff]', value)


def is_relative_name(value: Any) -> bool:
    """Return whether a value is the path of a file below a folder, with `/` between its parts."""
    return isinstance(value, str) and len(value) <= LONGEST_TEXT and all(map(_is_file_name, value.split('/')))


def is_digest(value: Any) -> bool:
    """Return whether a value is a SHA-256 in hexadecimal digits."""
    return isinstance(value, str) and re.fullmatch('[0-9a-f]{64}', value) is not None


def _is_file_name(value: Any) -> bool:
    """Return whether a value is a plain file name, without folder or drive on any system."""
    if not isinstance(value, str) or not value.isprintable() or len(value.encode()) > LONGEST_FILE_NAME:
        return False
    is_plain = value not in ('', '.', '..') and PurePosixPath(value).name == PureWindowsPath(value).name == value
    return is_plain and not re.fullmatch(RESERVED, value)


def _is_list(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(item, kind) for item in value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e9  # neither inf nor NaN


def _is_count(value: Any, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most


def _is_size(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != 2 or not all(_is_count(side, MOST_SIDE) for side in value):
        return False
    return value[0] * value[1] <= MOST_PIXELS


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
    pixels = 1
    for side, most in ((images[0], MOST_BATCH), (images[2], MOST_SIDE), (images[3], MOST_SIDE)):
        if not _is_count(side, most) and not (is_text(side) and side):
            return False
        pixels *= side if isinstance(side, int) else 1
    return pixels <= MOST_PIXELS
