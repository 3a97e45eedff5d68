"""Focal losses, against torchvision and autograd."""

import mmcv.ops as ops
import pytest
import torch
import torchvision
from torch.autograd import gradcheck


@pytest.mark.parametrize('gamma', [0.0, 2.0])
def test_sigmoid_focal_loss_matches_torchvision(fallback, draw, gamma):
    logits, weight = draw(6, 4, low=-3, high=3, grad=True), draw(4)
    target = torch.tensor([0, 3, 4, 1, 4, -1])  # 4 and -1 are background
    onehot = (target[:, None] == torch.arange(4)).double()
    expected = torchvision.ops.sigmoid_focal_loss(logits, onehot, alpha=0.3, gamma=gamma)
    torch.testing.assert_close(ops.sigmoid_focal_loss(logits, target, gamma, 0.3, None, 'none'), expected)
    torch.testing.assert_close(ops.sigmoid_focal_loss(logits, target, gamma, 0.3), expected.sum() / 6)

    target_weight = torch.cat((weight, torch.ones(1, dtype=torch.float64)))[target]  # background has weight 1
    weighted = ops.sigmoid_focal_loss(logits, target, gamma, 0.3, weight, 'none')
    torch.testing.assert_close(weighted, expected * target_weight[:, None])
    assert gradcheck(lambda x: ops.sigmoid_focal_loss(x, target, gamma, 0.3, weight, 'sum'), logits)


@pytest.mark.parametrize('gamma', [0.0, 2.0])
def test_softmax_focal_loss_matches_autograd(fallback, draw, gamma):
    logits, weight = draw(6, 4, low=-3, high=3, grad=True), draw(4)
    target = torch.tensor([0, 3, 2, 1, -1, 2])
    log_p = logits.log_softmax(dim=1)[torch.arange(6), target.clamp(min=0)]
    expected = -0.3 * (1 - log_p.exp()) ** gamma * log_p * weight[target.clamp(min=0)] * (target >= 0)
    loss = ops.softmax_focal_loss(logits, target, gamma, 0.3, weight, 'none')
    torch.testing.assert_close(loss, expected)
    assert loss[4] == 0
    gradients = [
        torch.autograd.grad(x.sum(), logits)[0]
        for x in (expected, ops.softmax_focal_loss(logits, target, gamma, 0.3, weight, 'sum'))
    ]
    torch.testing.assert_close(*gradients)
    no_class = torch.tensor([4, 0, 0, 0, 0, 0])  # for index 4, one past the last class, mmcv reads the next row
    assert ops.softmax_focal_loss(logits, no_class, gamma, 0.3, weight, 'none')[0] == 0


def test_focal_losses_of_extreme_logits_are_finite(fallback):
    logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
    for loss in (ops.sigmoid_focal_loss, ops.softmax_focal_loss):
        value = loss(logits, torch.tensor([0, 0]), 2.0, 0.25)
        assert value.isfinite() and value > 1
        assert torch.autograd.grad(value, logits)[0].isfinite().all()
