"""Models with random weights whose answers differ, so that nothing has to be downloaded.

A fresh network answers nearly the same everywhere, which would compare nothing; so batch norms are given statistics,
and what a head answers with is scaled until answers differ.
"""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense.exporting import export
from repvit_dense.model import build_model, predictor

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn
    from torch.utils.hooks import RemovableHandle

# Last layers of heads, by how their name ends, and the standard deviation that their answers are given.
ANSWERS = {
    **{'rpn_cls': 2.0, 'rpn_reg': 0.3, 'fc_cls': 2.0, 'fc_reg': 0.5, 'retina_cls': 0.7, 'retina_reg': 0.3},
    **{r'rtm_cls\.\d': 0.7, r'bbox_head\.cls_convs\.\d\.1': 2.0, r'bbox_head\.reg_convs\.\d\.1': 0.3},
    **{'conv_seg': 1.0, 'cls_embed': 6.0, 'mask_feature': 0.5, r'mask_embed\.4': 0.3, 'conv_logits': 1.0},
}


def exported(
    cfg: 'Config', targets: Sequence[str], folder: Path, size: tuple[int, int] | None = None, *options: str
) -> tuple[list[export.Row], dict[str, str]]:
    """Artifacts of a config with such weights, in `folder`; see `export.export_all`.

    Args:
        size: height and width of the input in pixels; None: where the test pipeline leads to.
        options: more arguments of `tools/export.py`.
    """
    import torch

    checkpoint = folder / 'random.pth'
    torch.save({'state_dict': build(cfg).state_dict()}, checkpoint)
    parser = argparse.ArgumentParser()
    export.add_arguments(parser)
    sides = ['--size', *map(str, size)] if size else []
    args = parser.parse_args(['--to', *targets, '--out', str(folder), *sides, *options])
    return export.export_all(args, cfg, str(checkpoint))


def build(cfg: 'Config') -> 'nn.Module':
    """The model of a config with random weights whose answers differ."""
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
        gain = next((gain for end, gain in ANSWERS.items() if re.search(f'{end}$', name)), None)
        if gain and hasattr(layer, 'weight'):
            handles.append(_scale(layer, gain))
    predictor(model, cfg)(export.drawn_images(1)[0])
    for handle in handles:
        handle.remove()
    return model


def _scale(layer: 'nn.Module', gain: float) -> 'RemovableHandle':
    """Give the outputs of a convolution or linear layer mean 0 and deviation `gain`, as its first inputs decide.

    Where later inputs, of other levels of a pyramid, would give larger ones, all become smaller: a probability that
    underflows is nothing in one runtime and something in another.
    """
    import torch

    levels = []

    def rescale(_, inputs, output):
        channels = (output.movedim(1, -1) if layer.weight.dim() == 4 else output).flatten(0, -2)
        each = 0 if not levels and len(channels) > 1 else None  # every channel by itself, or one factor for all
        deviation, mean = torch.std_mean(channels, each, correction=0)
        if levels:
            deviation, mean = deviation.clamp(min=gain), 0
        levels.append(len(channels))
        # What differs by less than this share of the answers is not enlarged: rounding errors would grow with it.
        factor = gain / torch.maximum(deviation, 0.02 * channels.abs().max())
        layer.weight.data *= factor.view(-1, *[1] * (layer.weight.dim() - 1))
        layer.bias.data = (layer.bias.data - mean) * factor
        return layer.forward(*inputs)

    return layer.register_forward_hook(rescale)
