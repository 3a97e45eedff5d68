"""Load a config, change its backbone, data or length, and check it before anything heavy starts."""

from repvit_dense.config.building import check_channels, explain
from repvit_dense.config.cfg_options import apply_option
from repvit_dense.config.checking import (
    check,
    check_data,
    check_data_early,
    check_evaluators,
    check_settings,
    data_reports,
)
from repvit_dense.config.data import check_trained_classes, dataset_meta, prepare_data, trained_classes
from repvit_dense.config.dumped import from_text, from_work_dir
from repvit_dense.config.editing import set_backbone, set_channels, set_dataset
from repvit_dense.config.loading import CHECKPOINT_SUFFIXES, find, load, names
from repvit_dense.config.schedule import set_epochs
from repvit_dense.config.source import CONFIG_FOLDERS
from repvit_dense.config.structure import class_heads, datasets, metrics, task
from repvit_dense.config.values import check_sections
from repvit_dense.config.weights import check_start, drop_pretrained, find_pretrained

__all__ = [
    'CHECKPOINT_SUFFIXES',
    'CONFIG_FOLDERS',
    'apply_option',
    'check',
    'check_channels',
    'check_data',
    'check_data_early',
    'check_evaluators',
    'check_sections',
    'check_settings',
    'check_start',
    'check_trained_classes',
    'class_heads',
    'data_reports',
    'dataset_meta',
    'datasets',
    'drop_pretrained',
    'explain',
    'find',
    'find_pretrained',
    'from_text',
    'from_work_dir',
    'load',
    'metrics',
    'names',
    'prepare_data',
    'set_backbone',
    'set_channels',
    'set_dataset',
    'set_epochs',
    'task',
    'trained_classes',
]
