"""Names of what is measured, and what measuring it gives."""

import pytest
import torch

from repvit_dense.benchmark import subjects, training
from repvit_dense.benchmark.subjects import BackboneSubject, ConfigSubject, Setting, find
from repvit_dense.errors import InputError

SETTING = Setting(1, (64, 96))


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
def test_a_name_says_what_it_is(name, kind):
    assert type(find(name, SETTING)) is kind


@pytest.mark.parametrize(
    ('name', 'message'), [('resnet99', "unknown backbone 'resnet99'"), ('work_dirs/nowhere', 'no config, no artifact')]
)
def test_a_name_of_nothing_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        find(name, SETTING)


def test_a_folder_without_an_artifact_is_refused(tmp_path):
    with pytest.raises(InputError, match='holds no artifact'):
        find(str(tmp_path), SETTING)


def test_timm_has_no_features_of_some(tmp_path):
    with pytest.raises(InputError, match='timm:nothing_at_all'):
        BackboneSubject('timm:nothing_at_all', SETTING).build()


def test_a_backbone_is_measured_in_both_forms():
    names = [subject.name for subject in BackboneSubject('repvit_m0_6', SETTING).inference()]
    assert names == ['repvit_m0_6', 'repvit_m0_6, fused']


def test_sizes_of_a_backbone_with_tokens_are_counted():
    """Most of the 26 million that the classifier has at 224x224, arXiv 2108.05895; what is learned, still learns."""
    subject = BackboneSubject('mobile_former_26m', Setting(1, (224, 224)))
    unfused, _ = subject.inference()
    assert 20e6 < unfused.about['macs'] < 26e6
    model = subject.build().eval()
    subjects.size(model, lambda: model(subject.setting.images()), subject.setting)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_parts_of_a_prediction_add_up_to_less_than_the_whole():
    unfused, _ = ConfigSubject('repvit_maskrcnn_shapes', SETTING).inference()
    parts = unfused.call()
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
def test_a_step_has_a_finite_loss_on_drawn_objects(name):
    step = ConfigSubject(name, Setting(2, (128, 128))).training()
    weights = step.model.backbone.stem.conv1.conv.weight.detach().clone()
    assert step.loss().isfinite()
    parts = training.subject(name, step, Setting(2, (128, 128))).call()
    assert set(parts) == {'forward', 'backward', 'optimizer'}
    assert not torch.equal(weights, step.model.backbone.stem.conv1.conv.weight)  # the optimiser has stepped


def test_bf16_is_autocast():
    setting = SETTING._replace(precision='bf16')
    with setting.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


def test_pictures_and_images_are_the_same_every_time():
    assert torch.equal(SETTING.images(), SETTING.images())
    assert (SETTING.pictures()[0] == SETTING.pictures()[0]).all()
    assert SETTING.pictures()[0].shape == (64, 96, 3)


def test_pipelines_give_the_size_asked_for():
    steps = [{'type': 'LoadImageFromNDArray'}, {'type': 'Resize', 'scale': (1333, 800), 'keep_ratio': True}]
    (_, resize) = subjects._at_size(steps, (64, 96))
    assert resize == {'type': 'Resize', 'scale': (96, 64), 'keep_ratio': False}
