"""Sigmoid and softmax focal loss (arXiv 1708.02002).

Logarithms are clamped at the smallest normal float32, as in mmcv. Targets are class indices. A class without an entry
in `weight` has weight 1; mmcv would read past the end of the tensor.
"""

import torch

from repvit_dense.compat.mmcv_ops.op import Ops

ops = Ops()


def _log(probability):
    return probability.clamp(min=torch.finfo(torch.float32).tiny).log()


def _class_weight(weight, target):
    if weight.numel() == 0:
        return 1
    known = (target >= 0) & (target < len(weight))
    return torch.where(known, weight[target.clamp(0, len(weight) - 1)], 1)


def _sigmoid_focal(input, target, weight, alpha, positive, negative):
    is_class = target[:, None] == torch.arange(input.shape[1], device=input.device)
    loss = torch.where(is_class, -alpha * positive, -(1 - alpha) * negative)
    return loss * _class_weight(weight, target[:, None])


@ops.op(3)
def sigmoid_focal_loss_forward(input, target, weight, output, gamma, alpha):
    """Return the loss (N, C) of logits (N, C); a target C or below 0 is background, a negative for every class."""
    p = input.sigmoid()
    return _sigmoid_focal(input, target, weight, alpha, (1 - p) ** gamma * _log(p), p**gamma * _log(1 - p))


@ops.op(3)
def sigmoid_focal_loss_backward(input, target, weight, d_input, gamma, alpha):
    """Return the derivative of each loss with respect to its logit."""
    p = input.sigmoid()
    positive = (1 - p) ** gamma * (1 - p - gamma * p * _log(p))
    negative = p**gamma * (gamma * (1 - p) * _log(1 - p) - p)
    return _sigmoid_focal(input, target, weight, alpha, positive, negative)


def _softmax_focal(softmax, target, weight, alpha, function):
    """Return the weighted `function` of the probability of the target class; 0 if the target is not a class."""
    known = (target >= 0) & (target < softmax.shape[1])
    p = softmax.gather(1, target.clamp(0, softmax.shape[1] - 1)[:, None])[:, 0]
    return torch.where(known, -alpha * function(p) * _class_weight(weight, target), 0)


@ops.op(3)
def softmax_focal_loss_forward(softmax, target, weight, output, gamma, alpha):
    """Return the loss (N,) of probabilities (N, C)."""
    return _softmax_focal(softmax, target, weight, alpha, lambda p: (1 - p) ** gamma * _log(p))


@ops.op(4)
def softmax_focal_loss_backward(softmax, target, weight, buff, d_input, gamma, alpha):
    """Return the derivative of the loss with respect to the logits (N, C); `buff` is scratch space."""

    def derivative(p):
        return (1 - p) ** gamma - gamma * (1 - p) ** (gamma - 1) * p * _log(p)

    slope = _softmax_focal(softmax, target, weight, alpha, derivative)
    is_target = target[:, None] == torch.arange(softmax.shape[1], device=softmax.device)
    return slope[:, None] * (is_target.to(softmax.dtype) - softmax)
