"""Read checkpoints safely, recognise their layout and load them strictly."""

from repvit_dense.checkpoints.layouts import LAYOUTS, Layout, convert, detect_layout, load_checkpoint
from repvit_dense.checkpoints.reading import CheckpointError, read

__all__ = ['LAYOUTS', 'CheckpointError', 'Layout', 'convert', 'detect_layout', 'load_checkpoint', 'read']
