"""Semantic segmentors of mmseg: SegFormer, Semantic FPN, UPerNet and DeepLabv3."""

import copy

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from repvit_dense.exporting.folding import fold_norms
from repvit_dense.exporting.graphs.base import Graph
from repvit_dense.reparam import conv_like


class Segmentor(Graph):
    """EncoderDecoder of mmseg on the whole image, regardless of its `test_cfg.mode`."""

    task = 'semantic'

    def __init__(self, model: nn.Module, plain: bool = False):
        super().__init__(model, plain)
        head = model.decode_head
        first = head.in_index[0] if isinstance(head.in_index, list | tuple) else head.in_index
        self.stride = model.backbone.out_strides[first]  # of the head's output
        self.align_corners, self.threshold = head.align_corners, head.threshold
        self.head = fold_norms(copy.deepcopy(head))
        if type(head).__name__ == 'SegformerHead' and not any(
            isinstance(part, _BatchNorm) for part in self.head.modules()
        ):
            self.head = SegformerHead(self.head)
        _replace_untraceable(self.head)

    def forward(self, images: Tensor, img_hw: Tensor) -> tuple[Tensor, ...]:
        """Return the class of every pixel, see `Graph.forward`."""
        logits = self.head(self.model.extract_feat(images))
        if not (self.plain or self.align_corners or self.stride % 2 or logits.shape[1] == 1):
            return (argmax_upsampled(logits, self.stride),)
        logits = F.interpolate(logits, size=images.shape[2:], mode='bilinear', align_corners=self.align_corners)
        if logits.shape[1] == 1:  # one class and no background
            return ((logits[:, 0].sigmoid() > self.threshold).int(),)
        return (logits.argmax(1).int(),)


def argmax_upsampled(logits: Tensor, scale: int) -> Tensor:
    """Return the class of highest logit after bilinear upsampling, which is computed at class borders only.

    Each pixel of the large image lies in a cell between four pixels of the small one. If these share their class, so
    does the whole cell. The other cells are a few percent of most images.

    Args:
        logits: `(B, C, h, w)`.
        scale: an even number.

    Returns:
        `(B, h * scale, w * scale)` int32, equal to `F.interpolate(..., align_corners=False).argmax(1)` apart from ties.
    """
    batch, classes, height, width = logits.shape
    # Half of each cell at the border lies inside the image; the border pixels are repeated outside.
    framed = F.pad(logits, (1, 1, 1, 1), mode='replicate').permute(0, 2, 3, 1).flatten(0, 2)
    best = framed.argmax(1).int().view(batch, height + 2, width + 2)
    upper, lower = best[:, :-1], best[:, 1:]
    cells, *others = upper[:, :, :-1], upper[:, :, 1:], lower[:, :, :-1], lower[:, :, 1:]
    differ = sum((cells != other).int() for other in others).flatten()
    # The first cell always counts as mixed, because ONNX Runtime cannot multiply empty matrices.
    mixed = torch.cat((torch.ones_like(differ[:1]), differ[1:])).nonzero()[:, 0]

    indices = torch.arange(batch * (height + 2) * (width + 2)).view(best.shape)
    first = indices[:, :-1, :-1].flatten().index_select(0, mixed)
    corners = torch.stack((first, first + 1, first + (width + 2), first + (width + 3)), 1)
    values = _corner_weights(scale) @ framed.index_select(0, corners.flatten()).view(-1, 4, classes)
    cells = cells.flatten()[:, None].repeat(1, scale * scale)
    cells = cells.index_put((mixed,), values.argmax(2).int())
    large = cells.view(batch, height + 1, width + 1, scale, scale).transpose(2, 3).flatten(3, 4).flatten(1, 2)
    half = scale // 2
    return large[:, half : half + height * scale, half : half + width * scale]


def _corner_weights(scale: int) -> Tensor:
    """Return the bilinear weights of the four corners for each pixel of a cell, `(scale * scale, 4)`."""
    near = (torch.arange(scale, dtype=torch.float32) + 0.5) / scale
    side = torch.stack((1 - near, near), 1)
    return (side[:, None, :, None] * side[None, :, None]).reshape(-1, 4)


class SegformerHead(nn.Module):
    """SegformerHead of mmseg with features fused before upsampling: equal up to rounding, a quarter of the work.

    Args:
        head: mmseg's head with folded norms.
    """

    def __init__(self, head: nn.Module):
        super().__init__()
        self.index, self.mode, self.align_corners = head.in_index, head.interpolate_mode, head.align_corners
        self.levels, mix = head.convs, head.fusion_conv.conv
        bias = torch.zeros_like(mix.bias)
        parts = mix.weight.chunk(len(self.levels), dim=1)
        self.mix = nn.ModuleList(_convolution(part, mix.bias if i == 0 else bias) for i, part in enumerate(parts))
        self.activate, self.classify = head.fusion_conv.activate, head.conv_seg

    def forward(self, features: tuple[Tensor, ...]) -> Tensor:
        """Return logits `(B, classes, h, w)` at the size of the first feature map."""
        total = None
        for index, level, mix in zip(self.index, self.levels, self.mix, strict=True):
            part = mix(level(features[index]))
            total = part if total is None else total + self._resize(part, total)
        return self.classify(self.activate(total))

    def _resize(self, part: Tensor, like: Tensor) -> Tensor:
        return F.interpolate(part, size=like.shape[2:], mode=self.mode, align_corners=self.align_corners)


def _convolution(weight: Tensor, bias: Tensor) -> nn.Conv2d:
    return conv_like(nn.Conv2d(weight.shape[1], weight.shape[0], 1, device='meta'), weight, bias)


class Pool(nn.Module):
    """`nn.AdaptiveAvgPool2d` as two matrix products.

    Exporters support the original only for sizes that are multiples of `bins`.

    Args:
        bins: height and width of the output.
    """

    def __init__(self, bins: int):
        super().__init__()
        self.bins = bins

    def forward(self, x: Tensor) -> Tensor:
        """Pool `(B, C, H, W)` to `(B, C, bins, bins)`."""
        rows, columns = (self._weights(length) for length in x.shape[2:])
        return rows @ x @ columns.t()

    def _weights(self, length: int) -> Tensor:
        """Return the weight of each pixel in each bin, `(bins, length)`; bins overlap unless they divide the length."""
        edges = torch.arange(self.bins + 1, dtype=torch.float32) * length / self.bins
        low, high = edges[:-1, None].floor(), edges[1:, None].ceil()
        pixel = torch.arange(length, dtype=torch.float32)
        return (pixel >= low).float() * (pixel < high).float() / (high - low)


def _replace_untraceable(head: nn.Module) -> None:
    """Replace, in place, the layers that compute sizes in Python."""
    for module in list(head.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.AdaptiveAvgPool2d) and child.output_size != 1:
                setattr(module, name, Pool(child.output_size))
            elif type(child).__name__ == 'Upsample' and child.scale_factor:
                options = {'mode': child.mode, 'align_corners': child.align_corners}
                setattr(module, name, nn.Upsample(scale_factor=child.scale_factor, **options))
