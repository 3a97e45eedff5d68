"""Test how subjects are found by name and the calls they return."""

import pytest
import torch

from repvit_dense.benchmark import subjects, training
from repvit_dense.benchmark.subjects import BackboneSubject, ConfigSubject, find
from repvit_dense.benchmark.workload import Workload
from repvit_dense.errors import InputError

WORKLOAD = Workload(1, (64, 96))


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('m1_1', BackboneSubject),
        ('mobilenetv2', BackboneSubject),
        ('timm:resnet18', BackboneSubject),
        ('repvit_segformer_ade20k', ConfigSubject),
        ('repvit_maskrcnn_coco@resnet50', ConfigSubject),
    ],
)
def test_a_subject_is_found_by_name(name, kind):
    assert type(find(name, WORKLOAD)) is kind


@pytest.mark.parametrize(
    ('name', 'message'), [('resnet99', "unknown backbone 'resnet99'"), ('work_dirs/nowhere', 'no config, no artifact')]
)
def test_an_unknown_name_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        find(name, WORKLOAD)


def test_a_folder_without_an_artifact_is_refused(tmp_path):
    with pytest.raises(InputError, match='holds no artifact'):
        find(str(tmp_path), WORKLOAD)


def test_an_unknown_timm_network_is_refused():
    with pytest.raises(InputError, match='timm:nothing_at_all'):
        BackboneSubject('timm:nothing_at_all', WORKLOAD).build()


def test_a_backbone_is_measured_in_training_form_and_fused():
    names = [call.name for call in BackboneSubject('repvit_m0_6', WORKLOAD).inference()]
    assert names == ['repvit_m0_6', 'repvit_m0_6, fused']


def test_macs_of_a_backbone_with_tokens_are_counted():
    """The classifier has 26 million MACs at 224x224, arXiv 2108.05895, most of them in the backbone."""
    subject = BackboneSubject('mobile_former_26m', Workload(1, (224, 224)))
    training_form, _ = subject.inference()
    assert 20e6 < training_form.counts['macs'] < 26e6


def test_counting_macs_leaves_parameters_trainable():
    subject = BackboneSubject('mobile_former_26m', WORKLOAD)
    model = subject.build().eval()
    subjects.count_params_and_macs(model, lambda: model(subject.workload.images()), 1)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_a_prediction_is_timed_by_part():
    training_form, _ = ConfigSubject('repvit_maskrcnn_shapes', WORKLOAD).inference()
    parts = training_form.call()
    assert set(parts) == {'head', 'pre-processing', 'backbone', 'neck', 'post-processing'}
    assert min(parts.values()) > 0


@pytest.mark.parametrize(
    'name',
    [
        'repvit_maskrcnn_shapes@m0_6',
        'repvit_mask2former_shapes-panoptic@m0_6',
        'repvit_semfpn_shapes@m0_6',
        'repvit_ssdlite_coco@m0_6',
        'repvit_rtmdet-ins_coco@m0_6',
    ],
)
def test_a_training_step_on_a_synthetic_batch_changes_the_weights(name):
    workload = Workload(2, (128, 128))
    step = ConfigSubject(name, workload).training()
    weights = step.model.backbone.stem.conv1.conv.weight.detach().clone()
    assert step.loss().isfinite()
    parts = training.timed_step(name, step, workload).call()
    assert set(parts) == {'forward', 'backward', 'optimizer'}
    assert not torch.equal(weights, step.model.backbone.stem.conv1.conv.weight)


def test_bf16_is_autocast():
    with WORKLOAD._replace(precision='bf16').autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_inputs_are_the_same_every_time():
    assert torch.equal(WORKLOAD.images(), WORKLOAD.images())
    assert (WORKLOAD.pictures()[0] == WORKLOAD.pictures()[0]).all()
    assert WORKLOAD.pictures()[0].shape == (64, 96, 3)


def test_a_test_pipeline_is_changed_to_the_requested_size():
    steps = [{'type': 'LoadImageFromNDArray'}, {'type': 'Resize', 'scale': (1333, 800), 'keep_ratio': True}]
    _, resize = subjects._resize_to(steps, (64, 96))
    assert resize == {'type': 'Resize', 'scale': (96, 64), 'keep_ratio': False}
