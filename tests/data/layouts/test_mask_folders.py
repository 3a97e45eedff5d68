"""Semantic masks in folders as they are found, and their classes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

COLOURS = {'road': (128, 64, 128), 'car': (0, 0, 142), 'void': (0, 0, 0)}


@pytest.fixture
def pairs(folder):
    """Return a function that writes images and masks, which are pairs of a pattern of names and values or colours."""

    def write(images, masks, values, stems='abc', mode=None):
        for number, stem in enumerate(stems):
            folder.image(images.format(stem), (10 + number, 8))
            path = folder.root / masks.format(stem)
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.array(values, np.uint8)[np.arange(8 * (10 + number)) % len(values)]
            picture = Image.fromarray(pixels.reshape(8, 10 + number, *pixels.shape[1:]))
            (picture.convert(mode, palette=Image.Palette.ADAPTIVE) if mode else picture).save(path)
        return folder

    return write


def files(source, splits=('train', 'val')):
    """Return the images and masks that mmseg reads, for each split."""
    from mmseg.datasets import BaseSegDataset

    lists = (
        BaseSegDataset(**part, lazy_init=True).load_data_list() for part in (getattr(source, split) for split in splits)
    )
    return [[(entry['img_path'], entry['seg_map_path']) for entry in part] for part in lists]


@pytest.mark.parametrize(
    'images, masks',
    [
        ('{s}/{{}}.jpg', '{s}annot/{{}}.png'),
        ('{s}/{{}}.jpg', '{s}_labels/{{}}_L.png'),
        ('{s}_images/{{}}.jpg', '{s}_masks/{{}}.png'),
        ('imgs/{s}/{{}}.jpg', 'ground_truth/{s}/{{}}.png'),
        ('{s}/img/{{}}.jpg', '{s}/label/{{}}.png'),
        ('{s}2017/{{}}.jpg', 'annotations/semantic_{s}2017/{{}}.png'),
        ('leftImg8bit/{s}/x/{{}}.png', 'gtFine/{s}/x/{{}}_gtFine_labelIds.png'),
    ],
)
def test_folders_of_splits(pairs, images, masks):
    for split, stems in (('train', 'ab'), ('val', 'c'), ('test', 'd')):
        folder = pairs(images.format(s=split), masks.format(s=split), [0, 1], stems)
    folder.write('classes.txt', 'road\ncar')
    source = folder.find('semantic')
    expected = [
        [(images.format(s=s), masks.format(s=s), n) for n in stems] for s, stems in (('train', 'ab'), ('val', 'c'))
    ]
    assert files(source) == [
        [(str(folder.root / image.format(n)), str(folder.root / mask.format(n))) for image, mask, n in part]
        for part in expected
    ]
    image, mask = images.format(s='test').format('d'), masks.format(s='test').format('d')
    assert files(source, ['test']) == [[(str(folder.root / image), str(folder.root / mask))]]


@pytest.mark.parametrize('images, masks', [('images/{}.jpg', 'masks/{}.png'), ('train/{}.jpg', 'train/{}_mask.png')])
def test_images_are_held_out_without_a_validation_split(pairs, images, masks):
    folder = pairs(images, masks, [0, 1])
    folder.write('classes.txt', 'road\ncar')
    source = folder.find('semantic')
    train, val = files(source)
    assert (len(train), len(val)) == (2, 1)
    assert {image for image, _ in train + val} == {str(folder.root / images.format(n)) for n in 'abc'}
    assert all(Path(mask).is_file() for _, mask in train + val)
    assert 'there is no val split, so 1 images are held out for evaluation' in source.notes[-1]
    assert files(folder.find('semantic')) == [train, val]


def test_images_in_a_test_folder_are_not_trained_on(pairs):
    folder = pairs('images/site/{}.jpg', 'masks/site/{}.png', [0, 1])
    pairs('images/site/test/{}.jpg', 'masks/site/test/{}.png', [0, 1])
    source = folder.find('semantic')
    assert {Path(image).parent.name for part in files(source) for image, _ in part} == {'site'}
    assert any('3 images in folders of a test split are not used' in note for note in source.notes)


@pytest.mark.parametrize(
    'lists, train, val',
    [
        ({'ImageSets/Segmentation/train.txt': 'a', 'ImageSets/Segmentation/val.txt': 'c'}, 'a', 'c'),
        ({'ImageSets/Segmentation/trainval.txt': 'a\nc', 'ImageSets/Segmentation/val.txt': 'c'}, 'a', 'c'),
        ({'ImageSets/Segmentation/train.txt': 'a\nc', 'ImageSets/Segmentation/val.txt': 'a\nc'}, 'ac', 'ac'),
        ({'train.txt': 'JPEGImages/b.jpg', 'val.txt': 'JPEGImages\\a.jpg', 'test.txt': 'c'}, 'b', 'a'),
    ],
)
def test_lists_tell_the_splits(pairs, lists, train, val):
    folder = pairs('JPEGImages/{}.jpg', 'SegmentationClass/{}.png', [0, 1])
    pairs('JPEGImages/{}.jpg', 'SegmentationObject/{}.png', [0, 1])
    folder.image('JPEGImages/no_mask.jpg')
    for name, content in {**lists, 'classes.txt': 'road\ncar'}.items():
        folder.write(name, content)
    stems = [[Path(image).stem for image, _ in part] for part in files(folder.find('semantic'))]
    assert stems == [[*train], [*val]]


@pytest.mark.parametrize('mode', ['RGB', 'P'])
@pytest.mark.parametrize(
    'file, line, first',
    [
        ('labelmap.txt', '{0}:{1},{2},{3}::', '# label:color_rgb:parts:actions\n'),
        ('class_dict.csv', '{0},{1},{2},{3}', 'name,r,g,b\n'),
        ('label_colors.txt', '{1} {2} {3}\t{0}', ''),
    ],
)
def test_colours_become_class_numbers(pairs, file, line, first, mode):
    folder = pairs('images/{}.jpg', 'masks/{}.png', list(COLOURS.values()), mode=None if mode == 'RGB' else 'P')
    folder.write(file, first + '\n'.join(line.format(name, *colour) for name, colour in COLOURS.items()))
    before = folder.files()
    source = folder.find('semantic')
    assert (source.classes, source.label_map) == (('road', 'car'), ((2, 255),))
    [(_, mask), *_], _ = files(source)
    assert np.asarray(Image.open(mask))[0, :6].tolist() == [0, 1, 2, 0, 1, 2]
    assert Path(mask).is_relative_to(folder.store)
    assert 'colours are replaced by class numbers' in ' '.join(source.notes)
    assert folder.files() == before


def test_a_colour_without_a_class_is_named(pairs):
    folder = pairs('images/{}.jpg', 'masks/{}.png', [*COLOURS.values(), (1, 2, 3)])
    folder.write('labelmap.txt', '\n'.join(f'{name}:{",".join(map(str, c))}::' for name, c in COLOURS.items()))
    assert 'has colours that the list of classes lacks: 1,2,3' in folder.refusal('semantic')


@pytest.mark.parametrize(
    'text, message', [('road:1,2\n', "line 'road:1,2' is not"), ('a:1,2,3\nb:1,2,3', "colour of 'a'")]
)
def test_lists_of_colours_that_are_not_valid(pairs, text, message):
    folder = pairs('images/{}.jpg', 'masks/{}.png', [(1, 2, 3)])
    folder.write('labelmap.txt', text)
    assert message in folder.refusal('semantic')


def test_black_and_white_masks_of_two_classes(pairs):
    folder = pairs('images/{}.jpg', 'masks/{}.png', [0, 255])
    folder.write('classes.txt', 'background\nscratch')
    source = folder.find('semantic')
    assert (source.classes, source.label_map) == (('background', 'scratch'), ((255, 1),))
    assert "the masks are black and white, so the value 255 is taken as 'scratch'" in ' '.join(source.notes)
    pairs('images/{}.jpg', 'masks/{}.png', [0, 1, 255], 'd')
    assert folder.find('semantic').label_map == ()


@pytest.mark.parametrize(
    'values, classes, label_map',
    [
        ([0, 1, 2, 255], ('0', '1', '2'), ()),
        ([0, 255], ('0', '255'), ((255, 1),)),
        ([0, 50, 100], ('0', '50', '100'), ((50, 1), (100, 2))),
    ],
)
def test_classes_without_a_list_are_called_by_their_values(pairs, values, classes, label_map):
    source = pairs('images/{}.jpg', 'masks/{}.png', values).find('semantic')
    assert (source.classes, source.label_map) == (classes, label_map)
    assert f'so each of the {len(classes)} values in the masks is a class: ' in ' '.join(source.notes)


@pytest.mark.parametrize('values', [[0], [0, 60, 130, 255], [(1, 2, 3), (4, 5, 6)]])
def test_masks_whose_values_are_no_class_numbers_need_a_list(pairs, values):
    assert 'needs its class names in classes.txt' in pairs('images/{}.jpg', 'masks/{}.png', values).refusal('semantic')


def test_camvid_is_recognised_by_the_names_of_its_images(pairs):
    pairs('train/{}.png', 'trainannot/{}.png', range(12), ['0001TP_006690', '0016E5_00390'])
    source = pairs('val/{}.png', 'valannot/{}.png', range(12), ['Seq05VD_f00000']).find('semantic')
    assert len(source.classes) == 11
    assert (source.classes[0], source.classes[-1], source.label_map) == ('sky', 'bicyclist', ((11, 255),))
    assert 'recognised as CamVid in 11 classes' in source.notes[0]


def test_masks_in_a_folder_below_are_found(pairs):
    folder = pairs('set/images/{}.jpg', 'set/masks/{}.png', [0, 1])
    assert folder.find('semantic').train['data_root'] == str(folder.root / 'set')
    assert folder.refusal('detection').endswith('. It has labels for semantic configs')


def test_the_values_of_roboflow(pairs):
    folder = pairs('train/{}.jpg', 'train/{}_mask.png', [0, 1])
    pairs('valid/{}.jpg', 'valid/{}_mask.png', [0, 1])
    folder.write('train/_classes.csv', 'Pixel Value, Class\n0, background\n1, road\n')
    assert folder.find('semantic').classes == ('background', 'road')
