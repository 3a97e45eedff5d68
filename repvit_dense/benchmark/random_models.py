"""Randomly initialised models, rescaled so their outputs vary with the input.

A freshly initialised network outputs nearly the same everywhere, so that comparing two forms of it proves nothing.
Batch norms therefore get random statistics, and the last layer of each head is scaled to a fixed standard deviation.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.exporting.export import export_all
from repvit_dense.exporting.results import ExportResult
from repvit_dense.exporting.samples import drawn_images
from repvit_dense.exporting.settings import ExportSettings
from repvit_dense.model import build_model, predictor

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn
    from torch.utils.hooks import RemovableHandle

# Last layers of heads (patterns that match the end of their name) -> standard deviation of their outputs.
OUTPUT_STD = {
    **{'rpn_cls': 2.0, 'rpn_reg': 0.3, 'fc_cls': 2.0, 'fc_reg': 0.5, 'retina_cls': 0.7, 'retina_reg': 0.3},
    **{r'rtm_cls\.\d': 0.7, r'bbox_head\.cls_convs\.\d\.1': 2.0, r'bbox_head\.reg_convs\.\d\.1': 0.3},
    **{'conv_seg': 1.0, 'cls_embed': 6.0, 'mask_feature': 0.5, r'mask_embed\.4': 0.3, 'conv_logits': 1.0},
}


def export_artifacts(
    cfg: 'Config', targets: Sequence[str], folder: Path, size: tuple[int, int] | None = None, **options
) -> tuple[list[ExportResult], dict[str, str]]:
    """Export the config with the weights of `build`, see `exporting.export.export_all`.

    Args:
        cfg: config of the model.
        targets: formats.
        folder: parent folder of the artifacts.
        size: height and width of the input in pixels; None for the size the test pipeline produces.
        options: other fields of ExportSettings.
    """
    import torch

    checkpoint = folder / 'random.pth'
    torch.save({'state_dict': build(cfg).state_dict()}, checkpoint)
    settings = ExportSettings(to=list(targets), out=folder, size=size, **options)
    return export_all(cfg, str(checkpoint), settings)


def build(cfg: 'Config') -> 'nn.Module':
    """Return the model of a config in eval mode with random weights and outputs that vary with the input."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    torch.manual_seed(0)
    model = build_model(cfg)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
    handles = []
    for name, layer in model.named_modules():
        std = next((std for pattern, std in OUTPUT_STD.items() if re.search(f'{pattern}$', name)), None)
        if std and hasattr(layer, 'weight'):
            handles.append(_scale_outputs(layer, std))
    predictor(model, cfg)(drawn_images(1)[0])
    for handle in handles:
        handle.remove()
    return model


def _scale_outputs(layer: 'nn.Module', std: float) -> 'RemovableHandle':
    """Register a hook that rescales a convolution or linear layer so its outputs have mean 0 and deviation `std`.

    The first input sets weight and bias. A later input, such as another pyramid level, only reduces them if its outputs
    would be larger: probabilities that underflow are 0 in one runtime and denormal in another.
    """
    import torch

    seen = 0

    def rescale(_, inputs, output):
        nonlocal seen
        channels = (output.movedim(1, -1) if layer.weight.dim() == 4 else output).flatten(0, -2)
        per_channel = not seen and len(channels) > 1  # otherwise one factor for all channels
        deviation, mean = torch.std_mean(channels, 0 if per_channel else None, correction=0)
        if seen:
            deviation, mean = deviation.clamp(min=std), 0
        seen += 1
        # A deviation below 2% of the outputs is not enlarged further, because rounding errors would grow with it.
        factor = std / torch.maximum(deviation, 0.02 * channels.abs().max())
        layer.weight.data *= factor.view(-1, *[1] * (layer.weight.dim() - 1))
        layer.bias.data = (layer.bias.data - mean) * factor
        return layer.forward(*inputs)

    return layer.register_forward_hook(rescale)
