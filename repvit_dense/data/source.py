"""The description of a data set that a config needs, and the class colours."""

import colorsys
from dataclasses import dataclass, field

TASKS = ('detection', 'instance', 'panoptic', 'semantic')
SPLITS = ('train', 'val')  # every data set has both; a test split is read apart, and never trained on
NOUNS = {'train': 'training', 'val': 'validation', 'test': 'test'}


@dataclass(frozen=True)
class Source:
    """A data set as a config needs it.

    Attributes:
        type: name of the mmdet data set class (mmseg for semantic labels) that reads the data.
        classes: class names in label order; for panoptic labels, things before stuff.
        things: number of thing classes; equals `len(classes)` except for panoptic labels.
        train: arguments of `type` that select the training data.
        val: arguments of `type` that select the validation data.
        metainfo: argument of `type`; None if the class has its own class names and colours.
        ann_files: files for evaluation: 'instances' and 'panoptic' map to annotation files, 'maps' to the folder of
            panoptic PNG files.
        embedded: arguments of `shapes.generate` if the data set is drawn before its first use, else None.
        notes: messages for the user.
        label_map: value in the masks and label, for semantic values whose label differs from them (after the reduction
            by 1, if there is one); the label 255 is ignored.
        test: arguments of `type` that select the test data; None without a labelled test split.
        test_files: `ann_files` of the test data.
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
    label_map: tuple[tuple[int, int], ...] = ()
    test: dict | None = None
    test_files: dict[str, str] = field(default_factory=dict)


def palette(number: int) -> list[tuple[int, int, int]]:
    """Return RGB colours in 0..255 for a number of classes; consecutive hues differ by the golden angle."""
    hues = (index * 0.381966 % 1 for index in range(number))
    colours = (colorsys.hsv_to_rgb(hue, 0.65, (0.95, 0.7)[index % 2]) for index, hue in enumerate(hues))
    return [(round(255 * red), round(255 * green), round(255 * blue)) for red, green, blue in colours]


def metainfo(classes: tuple[str, ...]) -> dict:
    """Return the `metainfo` of instance or semantic labels: class names and colours."""
    return {'classes': classes, 'palette': palette(len(classes))}


def panoptic_metainfo(things: tuple[str, ...], stuff: tuple[str, ...]) -> dict:
    """Return the `metainfo` of panoptic labels: class names, things before stuff, and colours."""
    return {**metainfo(things + stuff), 'thing_classes': things, 'stuff_classes': stuff}
