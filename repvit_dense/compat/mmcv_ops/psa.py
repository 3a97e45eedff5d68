"""The mask of point-wise spatial attention (PSANet, hszhao.github.io/projects/psanet).

Each pixel of a map (H, W) has weights for a window (h, w) around it. Only the weights for pixels within the map count.
"""

import torch

from repvit_dense.compat.mmcv_ops.op import Ops

ops = Ops()
COLLECT = 0  # `psa_type`; the other is 1, distribute


@ops.op(1)
def psamask_forward(input, output, psa_type, num_, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask):
    """Spread windows (B, h * w, H, W) over the map: (B, H * W, H, W).

    Collect: channel p at pixel q is the weight of q for p. Distribute: channel q at pixel p is.
    """
    entry, centre, target = _entries(input, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask)
    spread = input.new_zeros(len(input), h_feature * w_feature, h_feature * w_feature)
    row, column = (target, centre) if psa_type == COLLECT else (centre, target)
    spread[:, row, column] = input.flatten(2)[:, entry, centre]
    return spread.view_as(output)


@ops.op(1)
def psamask_backward(grad, d_input, psa_type, num_, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask):
    """Return the gradient with respect to the windows."""
    entry, centre, target = _entries(grad, h_feature, w_feature, h_mask, w_mask, half_h_mask, half_w_mask)
    row, column = (target, centre) if psa_type == COLLECT else (centre, target)
    gathered = grad.new_zeros(len(grad), h_mask * w_mask, h_feature * w_feature)
    gathered[:, entry, centre] = grad.flatten(2)[:, row, column]
    return gathered.view_as(d_input)


def _entries(like, height, width, h_mask, w_mask, half_h_mask, half_w_mask):
    """Return index in the window, pixel at its centre and pixel it points to, of all entries within the map."""

    def targets(side, window, half):
        return torch.arange(window, device=like.device)[:, None] + torch.arange(side, device=like.device) - half

    rows, columns = targets(height, h_mask, half_h_mask), targets(width, w_mask, half_w_mask)
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[None, :, None]
    i, j, row, column = inside.nonzero(as_tuple=True)
    return i * w_mask + j, row * width + column, rows[i, row] * width + columns[j, column]
