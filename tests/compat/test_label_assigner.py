"""The centres of masks are those of mmdet, and mmdet keeps its function."""

import torch
from mmdet.models.task_modules.assigners import dynamic_soft_label_assigner
from mmdet.registry import TASK_UTILS
from mmengine.structures import InstanceData

from repvit_dense.compat.label_assigner import mass_centers

MMDET = dynamic_soft_label_assigner.center_of_mass


def draw_masks() -> torch.Tensor:
    masks = torch.rand(7, 40, 56, generator=torch.Generator().manual_seed(0)) > 0.8
    masks[0] = False
    return masks


def test_centres_are_those_of_mmdet():
    torch.testing.assert_close(mass_centers(draw_masks()), MMDET(draw_masks()), rtol=1e-5, atol=1e-5)


def test_labels_are_assigned_as_by_mmdet():
    masks = draw_masks()[1:]
    truth = InstanceData(
        masks=masks,
        labels=torch.arange(6) % 3,
        bboxes=torch.tensor([[4.0 * i, 3.0 * i, 4.0 * i + 20, 3.0 * i + 18] for i in range(6)]),
    )
    points = torch.cartesian_prod(torch.arange(0, 56, 8.0), torch.arange(0, 40, 8.0))
    strides = torch.full_like(points, 8.0)
    predictions = InstanceData(
        priors=torch.cat([points, strides], 1),
        bboxes=torch.cat([points - 9, points + 9], 1),
        scores=torch.linspace(-2, 2, 3 * len(points)).reshape(-1, 3),
    )
    assigned = [
        TASK_UTILS.build({'type': kind, 'topk': 13}).assign(predictions, truth)
        for kind in ('DynamicSoftLabelAssigner', 'DenseSoftLabelAssigner')
    ]
    assert assigned[0].gt_inds.max() == 6
    for name in ('gt_inds', 'labels', 'max_overlaps'):
        assert torch.equal(getattr(assigned[0], name), getattr(assigned[1], name))
    assert dynamic_soft_label_assigner.center_of_mass is MMDET
