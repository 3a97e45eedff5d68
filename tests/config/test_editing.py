"""Another backbone or data set: every setting that depends on it follows, in every config."""

import copy
import json
from pathlib import Path

import pytest
from mmengine.registry import init_default_scope

from repvit_dense import catalogue, config
from repvit_dense.data import layouts, shapes
from repvit_dense.errors import InputError

CONFIGS = [name for name in config.names() if name.startswith('repvit_')]
# A transformer with position tables, a network with its own pixel normalisation, one of another library.
PEERS = ('swin_tiny', 'mobilevit_xxs', 'resnet18')


# --- backbone ---


@pytest.fixture(params=CONFIGS)
def name(request):
    return request.param


@pytest.mark.parametrize('peer', PEERS)
def test_channels_follow(name, peer):
    cfg = config.load(name, backbone=peer)
    init_default_scope(cfg.default_scope)
    config.check_channels(cfg)
    assert cfg.model.backbone.type == catalogue.find(peer).type


def test_the_same_backbone_changes_nothing_else(name):
    """Name the backbone that the config already has; only its weights may change."""
    cfg = config.load(name)
    swapped = config.load(name, backbone=f'repvit_{cfg.model.backbone.arch}')
    assert swapped.model.backbone.tap == cfg.model.backbone.tap
    for part in cfg.model:
        if part != 'backbone':
            assert as_lists(swapped.model[part]) == as_lists(cfg.model[part]), part
    assert swapped.optim_wrapper == cfg.optim_wrapper


def as_lists(value):
    """Replace tuples by lists, at every depth."""
    if isinstance(value, dict):
        return {key: as_lists(item) for key, item in value.items()}
    return [as_lists(item) for item in value] if isinstance(value, list | tuple) else value


def test_settings_of_the_training_are_kept():
    options = ['model.backbone.frozen_stages=1', 'model.backbone.with_cp=True']
    cfg = config.load('repvit_maskrcnn_coco', options)
    config.set_backbone(cfg, 'resnet18')
    assert (cfg.model.backbone.frozen_stages, cfg.model.backbone.with_cp, cfg.model.backbone.norm_eval) == (
        1,
        True,
        True,
    )
    assert 'arch' not in cfg.model.backbone and 'tap' not in cfg.model.backbone


def test_a_pretrained_config_gets_the_weights_of_the_new_backbone():
    cfg = config.load('repvit_maskrcnn_coco', backbone='mobilevit_s')
    assert cfg.model.backbone.init_cfg == {
        'type': 'Pretrained',
        'checkpoint': catalogue.find('mobilevit_s').default_weights,
    }
    assert 'init_cfg' not in config.load('repvit_maskrcnn_shapes', backbone='mobilevit_s').model.backbone


def test_a_backbone_without_published_weights_has_no_init_cfg():
    assert 'init_cfg' not in config.load('repvit_maskrcnn_coco', backbone='mobile_former_26m').model.backbone


def test_pixels_are_normalised_as_the_weights_expect():
    cfg = config.load('repvit_maskrcnn_coco', backbone='mobilevit_s')
    assert (cfg.model.data_preprocessor.mean, cfg.model.data_preprocessor.std) == ([0.0] * 3, [255.0] * 3)


def test_position_tables_of_a_peer_do_not_decay_and_a_repvit_keeps_the_recipe():
    peer = config.load('repvit_maskrcnn_coco', backbone='swin_tiny').optim_wrapper
    assert peer.constructor == 'DenseNoDecayOptimWrapperConstructor'
    assert peer.paramwise_cfg.no_decay == list(catalogue.find('swin_tiny').no_decay)
    assert (
        config.load('repvit_maskrcnn_coco', backbone='m2_3').optim_wrapper
        == config.load('repvit_maskrcnn_coco').optim_wrapper
    )


def test_options_are_applied_after_the_backbone():
    cfg = config.load('repvit_maskrcnn_coco', ['model.backbone.norm_eval=False'], backbone='resnet18')
    assert cfg.model.backbone.norm_eval is False


def test_a_backbone_without_published_weights_is_not_frozen():
    published, unpublished = (
        config.load('repvit_maskrcnn_coco', backbone=name) for name in ('resnet18', 'edgevit_xxs')
    )
    assert published.model.backbone.norm_eval is True
    assert unpublished.model.backbone.norm_eval is False


def test_an_unknown_name_lists_the_nearest():
    with pytest.raises(InputError, match="unknown backbone 'mobilvit_s'; did you mean 'mobilevit_s'"):
        config.load('repvit_maskrcnn_coco', backbone='mobilvit_s')


def test_a_config_without_a_backbone_is_refused(tmp_path):
    (tmp_path / 'own.py').write_text("model = dict(type='X')\n")
    with pytest.raises(InputError, match=r"own\.py: this config has no model\.backbone to replace by 'resnet18'"):
        config.load(tmp_path / 'own.py', backbone='resnet18')


# --- data ---


@pytest.mark.slow
@pytest.mark.parametrize('name', config.names())
def test_every_config_takes_the_embedded_data(name, drawn, panoptic):
    """The config passes every check, and its data sets can be read with the pipelines of the recipe."""
    from mmengine.registry import DATASETS, init_default_scope

    cfg = config.load(name)
    config.set_dataset(cfg, 'shapes')
    config.check(cfg, ('train', 'val', 'test'))
    init_default_scope(cfg.default_scope)
    for split, number in (('train', 2), ('val', 1)):
        arguments = cfg[f'{split}_dataloader'].dataset
        arguments.pop('filter_cfg', None)  # the filter of COCO configs drops small images
        arguments.serialize_data = False  # saves half a second
        dataset = DATASETS.build(arguments)
        assert len(dataset) % number == 0
        assert len(dataset) >= number
        assert len(dataset.metainfo['classes']) == (12 if config.task(cfg) in ('panoptic', 'semantic') else 8)
        assert dataset[0]['inputs'].shape[0] == 3


@pytest.mark.parametrize('name', config.names())
def test_every_named_data_set_sets_all_class_counts(name):
    task = config.task(config.load(name))
    for data in layouts.NAMES:
        if data == 'shapes' or task not in layouts.NAMES[data]:
            continue
        cfg = config.load(name, data=data)
        source = layouts.find(data, task, 'work')
        heads = [part for _, part in config.class_heads(cfg.model)]
        assert heads
        for part in heads:
            assert part.get('num_classes', source.things) == source.things
            assert part.get('num_stuff_classes', 0) == len(source.classes) - source.things
        assert cfg.get('embedded_data') is None


def test_the_same_data_changes_nothing():
    cfg = config.load('repvit_mask2former_coco-panoptic')
    config.set_dataset(cfg, 'coco-panoptic')
    wanted = config.load('repvit_mask2former_coco-panoptic')
    cfg.pop('embedded_data')
    assert cfg.to_dict() == wanted.to_dict()


def test_the_recipe_stays(plain, drawn):
    before = copy.deepcopy(plain)
    config.set_dataset(plain, 'shapes')
    for split in ('train', 'val', 'test'):
        new, old = plain[f'{split}_dataloader'], before[f'{split}_dataloader']
        assert new.batch_size == old.batch_size
        assert (new.dataset.pipeline, new.dataset.filter_cfg) == (old.dataset.pipeline, old.dataset.filter_cfg)
    assert plain.val_evaluator.metric == 'bbox'


def test_paths_and_classes_are_replaced(plain, drawn):
    config.set_dataset(plain, 'shapes')
    for split, folder in (('train', 'train2017'), ('val', 'val2017'), ('test', 'val2017')):
        dataset = plain[f'{split}_dataloader'].dataset
        assert (dataset.data_root, dataset.data_prefix.img) == ('data/shapes/', f'{folder}/')
        assert dataset.ann_file == f'annotations/instances_{folder}.json'
        assert dataset.metainfo.classes == shapes.THING_CLASSES
        assert len(dataset.metainfo.palette) == 8
    assert (
        plain.val_evaluator.ann_file
        == plain.test_evaluator.ann_file
        == ('data/shapes/annotations/instances_val2017.json')
    )
    assert plain.embedded_data == layouts.named.EMBEDDED


def test_only_heads_get_the_class_counts(plain, drawn):
    config.set_dataset(plain, 'shapes')
    assert [head.num_classes for head in plain.model.roi_head.bbox_head] == [8, 8]
    assert plain.model.roi_head.mask_head.num_classes == 8
    assert (plain.model.backbone.num_classes, plain.model.rpn_head.num_classes) == (1000, 1)


def test_embedded_data_of_the_config_keeps_its_arguments(plain):
    plain.embedded_data = {'root': 'data/shapes', 'num_train': 3}
    config.set_dataset(plain, 'shapes')
    assert plain.embedded_data.num_train == 3
    config.set_dataset(plain, 'coco')
    assert plain.embedded_data is None
    config.prepare_data(plain)


def test_wrappers_stay(plain):
    leaf = plain.train_dataloader.dataset
    mixed = {'type': 'MultiImageMixDataset', 'dataset': copy.deepcopy(leaf), 'pipeline': [{'type': 'Mosaic'}]}
    concatenated = {'type': 'ConcatDataset', 'datasets': [mixed, copy.deepcopy(leaf)]}
    plain.train_dataloader.dataset = {'type': 'RepeatDataset', 'times': 3, 'dataset': concatenated}
    config.set_dataset(plain, 'coco')
    outer = plain.train_dataloader.dataset
    assert (outer.type, outer.times, 'data_root' in outer) == ('RepeatDataset', 3, False)
    [inner] = outer.dataset.datasets
    assert (inner.type, inner.pipeline[0].type) == ('MultiImageMixDataset', 'Mosaic')
    assert inner.dataset.data_root == 'data/coco/'
    assert inner.dataset.pipeline == leaf.pipeline


def test_class_weights_of_queries_keep_the_one_for_no_object():
    cfg = config.load('repvit_mask2former_coco-instance')
    config.set_dataset(cfg, 'shapes')
    head = cfg.model.panoptic_head
    assert head.loss_cls.class_weight == [1.0] * 8 + [0.1]
    assert (head.num_things_classes, head.num_stuff_classes) == (8, 0)
    assert (cfg.model.panoptic_fusion_head.num_things_classes, cfg.model.panoptic_fusion_head.num_stuff_classes) == (
        8,
        0,
    )


def test_masks_as_labels(semantic):
    config.set_dataset(semantic, 'cityscapes')
    dataset = semantic.train_dataloader.dataset
    assert dataset.data_prefix == {'img_path': 'leftImg8bit/train', 'seg_map_path': 'gtFine/train'}
    assert 'reduce_zero_label' not in dataset
    assert semantic.model.decode_head.num_classes == semantic.model.auxiliary_head[0].num_classes == 19
    assert semantic.val_evaluator == {'type': 'IoUMetric', 'iou_metrics': ['mIoU']}


def test_reduce_zero_label_is_left_to_the_data_set(semantic):
    """mmseg refuses a transform that contradicts the data set."""
    config.set_dataset(semantic, 'cityscapes')
    assert semantic.train_dataloader.dataset.pipeline == [{'type': 'LoadAnnotations'}]
    assert semantic.tta_pipeline[0].transforms[0] == [{'type': 'LoadAnnotations'}]


def test_weights_of_other_classes_are_dropped(semantic):
    config.set_dataset(semantic, 'cityscapes')
    assert 'class_weight' not in semantic.model.decode_head.loss_decode
    assert semantic.model.auxiliary_head[0].loss_decode == [{'type': 'X'}]


def test_a_metric_without_ground_truth_is_left_out(drawn):
    (drawn / 'annotations/instances_val2017.json').unlink()
    cfg = config.load('repvit_mask2former_coco-panoptic')
    assert [part.type for part in cfg.val_evaluator] == ['DensePanopticMetric', 'DenseCocoMetric']
    config.set_dataset(cfg, str(drawn))
    [metric] = cfg.val_evaluator
    assert metric.ann_file == str(drawn.absolute() / 'annotations/panoptic_val2017.json')
    assert metric.seg_prefix == str(drawn.absolute() / 'annotations/panoptic_val2017')


def test_refused_data_leaves_the_config_unchanged(plain):
    before = plain.to_dict()
    with pytest.raises(InputError, match='--data ade20k suits semantic configs'):
        config.set_dataset(plain, 'ade20k')
    assert plain.to_dict() == before


def test_a_folder_without_a_validation_split(drawn, capsys):
    for split in ('train', 'val'):
        (drawn / f'annotations/panoptic_{split}2017.json').unlink()
    (drawn / 'annotations/instances_val2017.json').unlink()
    cfg = config.load('repvit_maskrcnn_shapes')
    cfg.work_dir = 'out'
    config.set_dataset(cfg, 'data/shapes')
    assert 'there is no val split, so 1 images are held out' in capsys.readouterr().err
    assert json.loads(Path('out/coco/val.json').read_text())['images']
    assert cfg.embedded_data is None
    config.check(cfg, ('train', 'val', 'test'))


def test_converted_annotations_have_a_folder_for_each_config_and_data(drawn):
    (drawn / 'annotations/instances_val2017.json').unlink()
    cfg = config.load('repvit_maskrcnn_shapes')
    config.set_dataset(cfg, 'data/shapes')
    assert Path('work_dirs/repvit_maskrcnn_shapes--shapes/coco/val.json').is_file()


# --- data with the classes of the config ---


@pytest.mark.parametrize('same', [True, False])
def test_weights_and_colours_of_classes_stay_with_their_classes(monkeypatch, same):
    from repvit_dense.data.source import Source, metainfo

    cfg = config.load('repvit_segformer_camvid')
    before, meta = copy.deepcopy(cfg.model.decode_head), cfg.train_dataloader.dataset.metainfo
    classes = tuple(meta.classes) if same else tuple(reversed(meta.classes))
    source = Source('BaseSegDataset', classes, 11, {}, {}, metainfo(classes))
    monkeypatch.setattr(layouts, 'find', lambda *arguments: source)
    config.set_dataset(cfg, 'somewhere')
    assert list(cfg.val_dataloader.dataset.metainfo.classes) == list(classes)
    assert (cfg.train_dataloader.dataset.metainfo.palette == meta.palette) is same
    assert (cfg.model.decode_head == before) is same
    assert ('class_weight' in cfg.model.decode_head.loss_decode) is same


@pytest.mark.parametrize(
    ('folder', 'options', 'stated'),
    [
        ('data/bccd', [], {'data': 'BCCD', 'data_licence': 'MIT'}),
        ('mine/bccd', [], {}),
        ('mine/bccd', ['provenance.data_licence=CC0-1.0'], {'data_licence': 'CC0-1.0'}),
    ],
)
def test_a_licence_of_data_is_stated_for_these_data_alone(monkeypatch, folder, options, stated):
    from repvit_dense.data.source import Source, metainfo

    classes = ('Platelets', 'RBC', 'WBC')
    arguments = {'data_root': folder, 'ann_file': 'a.json', 'data_prefix': {'img': ''}}
    source = Source('CocoDataset', classes, 3, arguments, arguments, metainfo(classes), {'instances': 'a.json'})
    monkeypatch.setattr(layouts, 'find', lambda *arguments: source)
    about = config.load('repvit_ssdlite_bccd', options, data=folder).provenance
    assert {key: about[key] for key in about if key != 'data_url'} == stated


@pytest.mark.parametrize(('root', 'stays'), [('mine/', False), ('./data/bccd', True)])
def test_an_option_with_another_folder_of_data_drops_what_is_stated(root, stays):
    cfg = config.load('repvit_ssdlite_bccd', [f'train_dataloader.dataset.data_root={root}'])
    assert ('data_licence' in cfg.provenance) is stays
