"""Check annotations before training, in seconds.

An *error* would stop the training or shift its labels. A *warning* names data that the loaders of mmdet and mmseg drop
or cut off silently. Annotation files are read whole. Of all images the headers are read. Masks in PNG files are
decoded: all of them up to `report.SAMPLE`, else a seeded sample of that size, which the summary of the report then
states.
"""

from repvit_dense.data.checks.coco_instances import instances
from repvit_dense.data.checks.coco_panoptic import panoptic
from repvit_dense.data.checks.leakage import finding_of, leaks, same_paths
from repvit_dense.data.checks.pictures import examine
from repvit_dense.data.checks.report import Finding, ImageEntry, Report, enforce, warn
from repvit_dense.data.checks.semantic_masks import semantic

__all__ = [
    'Finding',
    'ImageEntry',
    'Report',
    'enforce',
    'examine',
    'finding_of',
    'instances',
    'leaks',
    'panoptic',
    'same_paths',
    'semantic',
    'warn',
]
