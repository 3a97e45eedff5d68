"""The trainings whose scores are in docs/results.md, with the published scores beside them.

A row that is added to `TRAININGS` is trained by `python -m tools.pages results run`, and appears on the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from repvit_dense.errors import InputError, nearest

SEEDS = (0, 1, 2)


@dataclass(frozen=True)
class Metric:
    """A score on the page.

    Attributes:
        name: key in `scores.json`.
        title: heading of its column.
        target: value that the mean over the seeds should reach.
        near: name of another training, whose mean should be at most `margin` above.
        margin: see `near`.
    """

    name: str
    title: str
    target: float | None = None
    near: str | None = None
    margin: float = 0.05

    def text(self, value: float) -> str:
        """Return a value as it is printed; metrics in per cent have one decimal, those from 0 to 1 three."""
        return f'{value:.1f}' if self.name.endswith(('mIoU', 'PQ')) else f'{value:.3f}'


@dataclass(frozen=True)
class Published:
    """A result of others.

    Attributes:
        name: of the model.
        scores: text by the title of the metric.
        source: paper.
        protocol: training and test, as far as they differ.
        parameters: in millions; None if the source at hand does not say.
        comparable: same images, size and measure as here.
    """

    name: str
    scores: Mapping[str, str]
    source: str
    protocol: str
    parameters: float | None = None
    comparable: bool = True


@dataclass(frozen=True)
class Data:
    """A data set.

    Attributes:
        name: also that of the files `results/NAME.csv` and `docs/img/results-NAME.jpg`.
        title: heading of its section.
        text: sentences about images, protocol and licence.
        folder: its place below `--data-root`.
        photographs: its licence allows to show them.
        class_score: score per class that the page shows, a column of `per_class.csv`; empty for none.
        published: results of others.
    """

    name: str
    title: str
    text: str
    folder: str
    photographs: bool = False
    class_score: str = ''
    published: Sequence[Published] = ()


@dataclass(frozen=True)
class Training:
    """A training, repeated with several seeds.

    Attributes:
        name: of its rows and work dirs.
        data: its data set.
        title: of its rows on the page.
        config: packaged config.
        backbone: name in the catalogue.
        pretrained: it starts from ImageNet weights; else from random ones.
        split: images that it is scored on.
        budget: CPU minutes of a training that should suffice.
        metrics: scores on the page.
        options: further words of the command `train`.
        settings: values of `--cfg-options`.
        largest: parameters that it should have at most, in millions.
    """

    name: str
    data: Data
    title: str
    config: str
    backbone: str
    pretrained: bool
    split: str
    budget: int
    metrics: Sequence[Metric]
    options: Sequence[str] = ()
    settings: Sequence[str] = ()
    largest: float | None = None


FC_DENSENET, ENET, STARDIST = 'arXiv 1611.09326', 'arXiv 1606.02147', 'arXiv 1806.03535'
AT_LARGE = 'ImageNet weights, 720x960'
CAMVID = Data(
    'camvid',
    'CamVid',
    '701 street scenes of 480x360 pixels in the split of SegNet: 367 for training, 101 for validation, 233 for the '
    'test; 11 classes, void is not counted. The validation images choose the checkpoint; the test images are scored '
    'once, whole, at one scale, without flipping. The data set has no licence, so its photographs are not shown here.',
    folder='camvid',
    class_score='IoU',
    published=[
        Published('FC-DenseNet103', {'mIoU': '66.9'}, FC_DENSENET, 'from scratch', 9.4),
        Published('DeepLab-LargeFOV', {'mIoU': '61.6'}, f'quoted in {FC_DENSENET}', 'ImageNet weights (VGG)'),
        Published('FC-DenseNet56', {'mIoU': '58.9'}, FC_DENSENET, 'from scratch', 1.5),
        Published('SegNet', {'mIoU': '55.6'}, f'quoted in {ENET}; other reports: 46.4 to 60.1', 'VGG encoder'),
        Published('ENet', {'mIoU': '51.3'}, ENET, 'from scratch'),
        Published('PP-LiteSeg-T', {'mIoU': '73.3'}, 'arXiv 2204.02681', AT_LARGE, comparable=False),
        Published('STDC1', {'mIoU': '73.0'}, 'arXiv 2104.13188', AT_LARGE, comparable=False),
        Published('SwiftNet-R18', {'mIoU': '72.6'}, 'arXiv 1903.08469', AT_LARGE, comparable=False),
        Published(
            'BiSeNet, Xception39 and ResNet18', {'mIoU': '65.6, 68.7'}, 'arXiv 1808.00897', AT_LARGE, comparable=False
        ),
    ],
)
NUCLEI = Data(
    'nuclei',
    'Nuclei of the Data Science Bowl',
    '531 microscope images of the 2018 Data Science Bowl, first stage, with corrected masks (CC0): 398 with 17,155 '
    'nuclei for training, 133 with 5,873 for validation. The validation images choose the checkpoint and are scored.',
    folder='nuclei',
    photographs=True,
    published=[
        Published(
            name,
            {'mask AP50': score},
            STARDIST,
            'TP/(TP+FP+FN) at IoU 0.5, another measure, on a fluorescence subset',
            comparable=False,
        )
        for name, score in (('StarDist', 'about 0.86'), ('Mask R-CNN', 'about 0.83'))
    ],
)
BCCD = Data(
    'bccd',
    'Blood cells of BCCD',
    '364 blood smears of [BCCD](https://github.com/Shenggan/BCCD_Dataset) (MIT) with boxes of three kinds of cells: '
    '205 for training, 87 for validation, which choose the checkpoint, 72 for the test. Not all red cells have a box.',
    folder='bccd',
    photographs=True,
    class_score='box AP50',
)
COCO = Data(
    'coco100',
    'A hundred images of COCO',
    'Trained and scored on the same 100 images of COCO train2017: the score says whether a recipe learns real labels, '
    'and nothing about accuracy on other images. The photographs belong to their authors and are not shown here.',
    folder='coco100',
)

LITE0, M06 = 'EfficientNet-Lite0', 'RepViT-M0.6'
TRAININGS = (
    Training(
        'camvid-lite0',
        CAMVID,
        f'SegFormer head on {LITE0}',
        'repvit_segformer_camvid',
        'efficientnet_lite0',
        pretrained=True,
        split='test',
        budget=90,
        metrics=[Metric('mIoU', 'mIoU', 66.9)],
        largest=4.7,
    ),
    Training(
        'camvid-repvit',
        CAMVID,
        f'SegFormer head on {M06}',
        'repvit_segformer_camvid',
        'repvit_m0_6',
        pretrained=False,
        split='test',
        budget=90,
        metrics=[Metric('mIoU', 'mIoU', 58.0)],
    ),
    Training(
        'nuclei-lite0',
        NUCLEI,
        f'RTMDet-Ins on {LITE0}',
        'repvit_rtmdet-ins_nuclei',
        'efficientnet_lite0',
        pretrained=True,
        split='val',
        budget=90,
        metrics=[Metric('coco/segm_mAP', 'mask AP', 0.42), Metric('coco/segm_mAP_50', 'mask AP50', 0.80)],
    ),
    Training(
        'nuclei-repvit',
        NUCLEI,
        f'RTMDet-Ins on {M06}',
        'repvit_rtmdet-ins_nuclei',
        'repvit_m0_6',
        pretrained=False,
        split='val',
        budget=90,
        metrics=[
            Metric('coco/segm_mAP', 'mask AP', near='nuclei-lite0'),
            Metric('coco/segm_mAP_50', 'mask AP50', near='nuclei-lite0'),
        ],
    ),
    Training(
        'bccd-lite0',
        BCCD,
        f'RTMDet on {LITE0}',
        'repvit_rtmdet_bccd',
        'efficientnet_lite0',
        pretrained=True,
        split='test',
        budget=60,
        metrics=[Metric('coco/bbox_mAP', 'box AP'), Metric('coco/bbox_mAP_50', 'box AP50', 0.88)],
    ),
    Training(
        'coco100-maskrcnn',
        COCO,
        f'Mask R-CNN on {LITE0}',
        'repvit_maskrcnn_coco',
        'efficientnet_lite0',
        pretrained=True,
        split='train',
        budget=60,
        metrics=[Metric('coco/segm_mAP', 'mask AP'), Metric('coco/segm_mAP_50', 'mask AP50', 0.80)],
    ),
    # The metric of instances has no labels for the split `train` of panoptic data; `val` is 20 of the 100 images.
    Training(
        'coco100-mask2former',
        COCO,
        f'Mask2Former, panoptic, on {LITE0}',
        'repvit_mask2former_coco-panoptic',
        'efficientnet_lite0',
        pretrained=True,
        split='val',
        budget=60,
        metrics=[
            Metric('coco/segm_mAP', 'mask AP'),
            Metric('coco/segm_mAP_50', 'mask AP50', 0.80),
            Metric('coco_panoptic/PQ', 'PQ'),
        ],
    ),
)
DATA = tuple({training.data.name: training.data for training in TRAININGS}.values())


def select(names: Sequence[str] | None) -> list[Training]:
    """Return the trainings of these names, or on data of these names; None for all.

    Raises:
        InputError: a name is unknown.
    """
    known = [*(data.name for data in DATA), *(training.name for training in TRAININGS)]
    for name in names or ():
        if name not in known:
            raise InputError(f'--only {name}: expected {", ".join(known)}{nearest(name, known)}')
    return [training for training in TRAININGS if not names or {training.name, training.data.name} & {*names}]
