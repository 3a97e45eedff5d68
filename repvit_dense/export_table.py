"""Every head in every format, exported once: the table of docs/deploy.md.

The weights are random, so that nothing has to be downloaded. A fresh network answers nearly the same everywhere, which
would compare nothing; so batch norms are given statistics, and what a head answers with is scaled until answers differ.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from repvit_dense import config, predict
from repvit_dense.deploy import export, formats
from repvit_dense.errors import InputError

if TYPE_CHECKING:
    from mmengine.config import Config
    from torch import nn

BACKBONE = 'repvit_m0_9'
SIZE = (256, 256)  # height and width of the input in pixels; where the config fixes its own, that one
BEGIN, END = '<!-- generated: every head in every format -->', '<!-- end of what is generated -->'
# Last layers of heads, by the end of their name, and the standard deviation that their answers are given.
ANSWERS = {
    **{'rpn_cls': 2.0, 'rpn_reg': 0.3, 'fc_cls': 2.0, 'fc_reg': 0.5, 'retina_cls': 0.7, 'retina_reg': 0.3},
    **{'conv_seg': 1.0, 'cls_embed': 3.0, 'mask_feature': 1.0, 'mask_embed.4': 0.3, 'conv_logits': 1.0},
}
# Runtimes without an adaptive RoIAlign need a fixed number of samples, see docs/deploy.md.
SAMPLES = [f'model.roi_head.{part}_roi_extractor.roi_layer.sampling_ratio=2' for part in ('bbox', 'mask')]


def write(path: Path, names: list[str], targets: Sequence[str] = tuple(formats.TARGETS)) -> int:
    """Export, and put the table between its two marks in the page.

    Returns:
        0, or 2 where a cell failed; the page says why.

    Raises:
        InputError: the page has no marks; nothing was exported.
    """
    page = path.read_text()
    if page.count(BEGIN) != 1 or page.count(END) != 1:
        raise InputError(f'{path}: the table goes between the lines {BEGIN} and {END}, once each')
    rows = [(name, *export_head(name, targets)) for name in names]
    head, rest = page.split(BEGIN)
    text = f'{head}{BEGIN}\n\n{to_markdown(rows, targets)}\n{END}{rest.split(END)[1]}'
    partial = path.with_suffix('.partial')
    partial.write_text(text)
    partial.replace(path)
    return 2 if any(errors for *_, errors in rows) else 0


def export_head(name: str, targets: Sequence[str]) -> tuple[dict[str, export.Row], dict[str, str]]:
    """One config in every format, in a folder that is thrown away. Returns what was written, and what failed."""
    import torch

    cfg = config.load(name, backbone=BACKBONE)
    if 'roi_head' in cfg.model:
        cfg.merge_from_dict({key: int(value) for key, value in (option.split('=') for option in SAMPLES)})
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, 'random.pth')
        torch.save({'state_dict': lively(cfg).state_dict()}, checkpoint)
        parser = argparse.ArgumentParser()
        export.add_arguments(parser)
        size = [] if cfg.model.get('bbox_head', {}).get('type') == 'PredictingSSDHead' else ['--size', *map(str, SIZE)]
        args = parser.parse_args(['--to', *targets, '--out', folder, *size])
        rows, errors = export.export_all(args, cfg, str(checkpoint))
    return {row.target: row for row in rows}, errors


def lively(cfg: 'Config') -> 'nn.Module':
    """The model of a config with random weights whose answers differ."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    torch.manual_seed(0)
    model = predict.build(cfg)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2.0)
            module.weight.data.uniform_(0.5, 1.5)
    for name, layer in model.named_modules():
        gain = next((gain for end, gain in ANSWERS.items() if name.endswith(end)), None)
        if gain and hasattr(layer, 'weight'):
            _scale(layer, gain)
    predict.predictor(model, cfg)(export.drawn_images(1)[0])
    return model


def _scale(layer: 'nn.Module', gain: float) -> None:
    """Give the outputs of a convolution or linear layer mean 0 and deviation `gain`, as its first inputs decide."""
    import torch

    def rescale(_, inputs, output):
        handle.remove()
        channels = (output.movedim(1, -1) if layer.weight.dim() == 4 else output).flatten(0, -2)
        deviation, mean = torch.std_mean(channels, 0)
        factor = gain / deviation.clamp(min=1e-6)
        layer.weight.data *= factor.view(-1, *[1] * (layer.weight.dim() - 1))
        layer.bias.data = (layer.bias.data - mean) * factor
        return layer.forward(*inputs)

    handle = layer.register_forward_hook(rescale)


def to_markdown(rows: list[tuple[str, dict[str, export.Row], dict[str, str]]], targets: Sequence[str]) -> str:
    """A row per config, a cell per format: agreement with PyTorch, milliseconds, MB; then what failed and why."""
    import torch

    lines = [f'| config | {" | ".join(targets)} |', f'|---|{"---|" * len(targets)}']
    notes = []
    for name, written, errors in rows:
        cells = []
        for target in targets:
            if target in errors:
                notes.append(f'- `{name}`, {target}: {errors[target]}')
                cells.append('fails, see below')
            else:
                row = written[target]
                time = 'not run here' if row.milliseconds is None else f'{row.parity}, {row.milliseconds:.0f} ms'
                cells.append(f'{time}, {row.megabytes:.0f} MB, written in {row.seconds:.0f} s')
        lines.append(f'| `{name}` | {" | ".join(cells)} |')
    setting = f'torch {torch.__version__} on a CPU, {torch.get_num_threads()} threads'
    size = f'{BACKBONE}, {SIZE[0]}x{SIZE[1]} pixels (SSDLite {320}x{320}), random weights, fp32, static shapes'
    return '\n'.join([f'{size}; {setting}.', '', *lines, '', *notes, *([''] if notes else [])])
