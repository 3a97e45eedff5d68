"""Write the weights of a checkpoint as `.safetensors`, with its config, classes and provenance in the header.

A file of this kind cannot execute anything, in any program. `reading.read` returns it like the checkpoint.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from repvit_dense.checkpoints.layouts import extract_state_dict
from repvit_dense.checkpoints.provenance import KEY, of_checkpoint
from repvit_dense.files import replacing


def write(checkpoint: Mapping, path: str | Path) -> Path:
    """Write the weights of a checkpoint and the part of its `meta` that stands for config, classes and provenance.

    Args:
        checkpoint: the content of a file, as `reading.read` returns it.
        path: the file to write.

    Raises:
        CheckpointError: the checkpoint holds no weights.
    """
    from safetensors.torch import save_file

    state, _ = extract_state_dict(checkpoint)
    tensors = {key: value.detach().cpu().clone(memory_format=torch.contiguous_format) for key, value in state.items()}
    found: Any = checkpoint.get('meta')
    before = found if isinstance(found, Mapping) else {}
    dataset = before.get('dataset_meta')
    meta = {
        'config_text': before.get('config_text', before.get('cfg')),
        'dataset_meta': {key: dataset[key] for key in ('classes', 'palette') if dataset.get(key)} if dataset else None,
        'epoch': before.get('epoch'),
        'iter': before.get('iter'),
        'provenance': of_checkpoint(checkpoint),
    }
    header = {'format': 'pt', KEY: json.dumps({key: value for key, value in meta.items() if value is not None})}
    with replacing(path, reuse=True) as partial:
        save_file(tensors, partial, header)
    return Path(path)
