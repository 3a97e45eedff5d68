from itertools import pairwise
from pathlib import Path

import pytest

YAML = 'train: images/train\nval: images/val\nnames: [cat, dog]\n'

LETTERS = 'abcdefghijklmnopqrs'


@pytest.fixture
def yolo(folder):
    """Return a function that writes one image of 40x20 pixels with its labels for each split, and a YAML file."""

    def write(labels='1 0.5 0.5 0.25 0.5\n', text=YAML):
        for split in ('train', 'val'):
            folder.image(f'images/{split}/{split}.png', (40, 20))
            folder.write(f'labels/{split}/{split}.txt', labels)
        folder.write('data.yaml', text)
        return folder

    return write


def annotations(folder, split='train', task='detection'):
    return folder.read(getattr(folder.find(task), split))['annotations']


def test_boxes(yolo):
    folder = yolo()
    source = folder.find('detection')
    assert (source.type, source.classes) == ('CocoDataset', ('cat', 'dog'))
    for arguments in (source.train, source.val):
        content = folder.read(arguments)
        [box] = content['annotations']
        assert box['bbox'] == pytest.approx([15, 5, 10, 10])
        assert (box['category_id'], box['area'], box['iscrowd']) == (1, pytest.approx(100), 0)
        assert 'segmentation' not in box
        name = content['images'][0]['file_name']
        assert Path(arguments['data_root'], arguments['data_prefix']['img'], name).is_file()
    assert 'YOLO labels, converted to' in source.notes[0]


def test_polygons(yolo):
    folder = yolo('0 0.25 0.25 0.75 0.25 0.25 0.75\n')
    [triangle] = annotations(folder, task='instance')
    assert triangle['segmentation'] == [[10, 5, 30, 5, 10, 15]]
    assert (triangle['bbox'], triangle['area']) == ([10, 5, 20, 10], 100)
    assert triangle['category_id'] == 0
    assert '0 boxes and 2 polygons' in folder.find('instance').notes[0]


def test_boxes_do_not_suit_instance_configs(yolo):
    assert 'boxes but no masks' in yolo().refusal('instance')


@pytest.mark.parametrize('in_one_file', [True, False])
def test_boxes_beside_polygons_have_no_mask(yolo, in_one_file):
    """Whichever files they are in, an instance config refuses them; a detection config takes all objects."""
    box, polygon = '0 0.5 0.5 0.25 0.5', '1 0.25 0.25 0.75 0.25 0.25 0.75'
    folder = yolo(f'{polygon}\n{box}' if in_one_file else polygon)
    folder.write('labels/val/val.txt', f'{polygon}\n{box}' if in_one_file else box)
    number, split = ('1 of the 2', 'train') if in_one_file else ('1 of the 1', 'val')
    message = f'{number} objects of {split} have boxes but no masks'
    assert message in folder.refusal('instance')
    assert f'(images images/{split}/{split}.png)' in folder.refusal('instance')
    source = folder.find('detection')
    entries = [entry for part in (source.train, source.val) for entry in folder.read(part)['annotations']]
    assert len({tuple(entry['bbox']) for entry in entries}) == 2
    assert 'detection configs take the box around a polygon, instance configs need polygons only' in source.notes[0]


def test_an_image_without_a_label_file_has_no_objects(yolo):
    folder = yolo()
    (folder.root / 'labels/train/train.txt').unlink()
    assert annotations(folder) == []
    assert '1 images without a label file count as images without objects' in folder.find('detection').notes[0]


def test_no_label_file_at_all_is_an_error(yolo):
    folder = yolo()
    (folder.root / 'labels').rename(folder.root / 'texts')
    assert 'none of the 2 images has a label file, in labels/ or beside it' in folder.refusal('detection')


def test_label_files_without_image_are_counted(yolo):
    folder = yolo()
    for name in ('x', 'y', 'classes'):
        folder.write(f'labels/train/{name}.txt', '')
    assert folder.find('detection').notes[1] == (
        f'2 label files have no image and are not used ({folder.root}/labels/train/x.txt, ...)'
    )


def split_first(root):
    for split in ('train', 'val'):
        for kind in ('images', 'labels'):
            (root / split).mkdir(exist_ok=True)
            (root / kind / split).rename(root / split / kind)
    return 'train: train/images\nval: val/images\nnames: [cat, dog]'


def labels_beside_images(root):
    for split in ('train', 'val'):
        (root / f'labels/{split}/{split}.txt').rename(root / f'images/{split}/{split}.txt')
    return YAML


def list_of_files(root, line='./images/train/train.png'):
    (root / 'train.txt').write_bytes(line.encode())
    return YAML.replace('images/train', 'train.txt')


def capitals(root):
    for path in ('images', 'labels'):
        (root / path).rename(root / path.upper())
    (root / 'LABELS/train/train.txt').rename(root / 'LABELS/train/train.TXT')
    (root / 'IMAGES/train/train.png').rename(root / 'IMAGES/train/train.PNG')
    return YAML.replace('images', 'IMAGES')


@pytest.mark.parametrize(
    'change, number',
    [
        (split_first, 1),
        (labels_beside_images, 1),
        (capitals, 1),
        (lambda root: f'path: {root}\n{YAML}', 1),
        (lambda root: f'path: /nowhere\n{YAML}', 1),
        (lambda root: YAML.replace('images/', '../images/'), 1),  # the exports of Roboflow
        (lambda root: YAML.replace('images/', 'images\\'), 1),
        (lambda root: YAML.replace('images/train', '[images/train, images/val]'), 2),
    ],
    ids=['split first', 'labels beside images', 'capitals', 'path', 'other path', 'dots', 'backslashes', 'two folders'],
)
def test_variants(yolo, change, number):
    folder = yolo()
    folder.write('data.yaml', change(folder.root))
    assert len(annotations(folder)) == number


@pytest.mark.parametrize(
    'line',
    [
        *[
            './images/train/train.png',
            'images/train/train.png',
            'images\\train\\train.png',
            '{}/images/train/train.png',
        ],
        *['\ufeffimages/train/train.png\r\n\r\n# comment\r\n', '\n images/train/train.png \n'],
    ],
)
def test_lines_of_a_list_of_files(yolo, line):
    folder = yolo()
    folder.write('data.yaml', list_of_files(folder.root, line.format(folder.root)))
    assert len(annotations(folder)) == 1


@pytest.mark.parametrize(
    'line, message',
    [
        ('images/train/none.png', 'lists 1 images that do not exist (images/train/none.png, ...)'),
        ('a\0b.png', 'lists 1 images that do not exist (a\\x00b.png, ...)'),
        ('images/train', 'lists 1 images that do not exist (images/train, ...)'),
        ('labels/train/train.txt', 'train.txt, which is not an image'),
        ('# nothing\n', 'lists no images'),
    ],
)
def test_a_list_with_other_lines_is_refused(yolo, line, message):
    folder = yolo()
    folder.write('data.yaml', list_of_files(folder.root, line))
    assert message in folder.refusal('detection')


def test_a_list_that_is_no_text_is_refused(yolo):
    folder = yolo(text=YAML.replace('images/train', 'train.txt'))
    (folder.root / 'train.txt').write_bytes(b'\xff\xfei\0')
    assert 'train.txt: cannot be read as text' in folder.refusal('detection')


@pytest.mark.parametrize('train', ['[images, images/train]', 'train.txt'])
def test_images_that_are_named_twice_count_once(yolo, train):
    folder = yolo(text=YAML.replace('train: images/train', f'train: {train}'))
    list_of_files(folder.root, 'images/train/train.png\n./images/train/train.png\nimages/val/val.png')
    assert len(annotations(folder)) == 2
    assert "'train' names 1 images twice; they count once" in folder.find('detection').notes[1]


def test_names_with_spaces_and_brackets(yolo):
    folder = yolo()
    for name in ('IMG 1', '[a] 2', '# 3'):
        folder.image(f'images/train/{name}.png', (40, 20))
        folder.write(f'labels/train/{name}.txt', '0 0.5 0.5 0.25 0.5')
    text = list_of_files(folder.root, 'images/train/IMG 1.png\nimages/train/[a] 2.png\nimages/train/# 3.png')
    folder.write('data.yaml', text)
    assert len(annotations(folder)) == 3


@pytest.mark.parametrize('labels_at_link', [True, False])
def test_links_are_followed(yolo, labels_at_link, tmp_path):
    """Labels are looked for beside the link, then beside the image that it leads to."""
    folder = yolo()
    real = tmp_path / 'store/images/train'
    real.parent.mkdir(parents=True)
    (folder.root / 'images/train').rename(real)
    (folder.root / 'images/train').symlink_to(real)
    (real / 'again').symlink_to(real)
    if not labels_at_link:
        (tmp_path / 'store/labels').mkdir()
        (folder.root / 'labels/train').rename(tmp_path / 'store/labels/train')
    [image] = folder.read(folder.find('detection').train)['images']
    assert image['file_name'] == 'images/train/train.png'
    assert len(annotations(folder)) == 1


def test_a_tenth_is_held_out_if_there_is_no_val_split(yolo):
    folder = yolo(text='train: images\nnames: {0: cat, 1: dog}')
    assert [len(annotations(folder, split)) for split in ('train', 'val')] == [1, 1]
    assert 'so 1 images are held out for evaluation' in folder.find('detection').notes[-1]


def test_a_test_split_is_not_trained_on(yolo):
    folder = yolo(text='train: images\ntest: images/test\nnames: {0: cat, 1: dog}')
    folder.image('images/test/test.png')
    source = folder.find('detection')
    used = [image['file_name'] for part in (source.train, source.val) for image in folder.read(part)['images']]
    assert sorted(used) == ['images/train/train.png', 'images/val/val.png']
    assert source.test is None
    assert source.notes[-1] == f'{folder.root}: its test split is left out: none of its 1 images has labels'
    folder.write('labels/test/test.txt', '0 0.5 0.5 0.1 0.1')
    assert len(folder.read(folder.find('detection').test)['annotations']) == 1


@pytest.mark.parametrize(
    'labels, message',
    [
        ('0 0.5 0.5', 'line 1: 3 numbers; a box has 5'),
        ('0 0.5 0.5 0.1 0.1 0.1 0.2 0.3', 'line 1: 8 numbers; a box has 5'),
        ('\n0\n', 'line 2: 1 numbers'),
        *[
            (f'{word} 0.5 0.5 0.1 0.1', f"line 1: '{word}' is not a class number")
            for word in ('x', '1e400', '0.5', '1_0')
        ],
        *[(f'{word} 0.5 0.5 0.1 0.1', 'but the classes are 0 to 1') for word in ('2', '-1', '+2.0', '999999999')],
        *[
            (f'0 0.5 0.5 {word} 0.1', f"line 1: '{word}' is not a finite number")
            for word in ('nan', '-inf', 'a', '0_1')
        ],
        ('0 0.5 0.5 0.1 1e400', "'1e400' is not a finite number"),
        (
            '0 20 10 8 8',
            'line 1: 20 is not within 0..1, as a fraction of the image size must be; coordinates in pixels',
        ),
        ('0 0.5 0.5 1.2 0.1', 'line 1: 1.2 is not within 0..1'),
        ('0 0.5 0.5 0.5 -0.5', '-0.5 is not within 0..1'),
        ('0 0.5 0.5 -0.001 0.5', 'the width or height of the box is negative'),
        ('1 nan nan 0.5 0.1 0.5 0.5 0.1 0.5', "'nan' is not a finite number"),
        ('1 1e300 0.5 0.5 0.1 0.5 0.5', '1e300 is not within 0..1'),
    ],
)
def test_an_invalid_label_file_is_named(yolo, labels, message):
    refusal = yolo(labels).refusal('detection')
    assert 'labels/train/train.txt: line ' in refusal
    assert message in refusal
    assert 'labels/val/val.txt: line ' in refusal


def test_many_invalid_lines_are_counted(yolo):
    refusal = yolo('\n'.join(f'9 0.{i} 0.5 0.1 0.1' for i in range(100, 125))).refusal('detection')
    assert refusal.endswith('; and 40 more faults')


@pytest.mark.parametrize(
    'labels, bboxes, note',
    [
        ('1.0 0.5 0.5 0.25 0.5', [[15, 5, 10, 10]], '2 boxes and 0 polygons'),
        ('1 0.5 0.5 0.25 0.5 0.9', [[15, 5, 10, 10]], '2 lines have a sixth number, which is taken as a confidence'),
        ('1 0.5 0.5 0.25 0.5\n1  0.5 0.5 0.25 0.5\r\n', [[15, 5, 10, 10]], '2 repeated lines are left out'),
        ('\ufeff# x\n\n1 0.5 0.5 0.25 0.5', [[15, 5, 10, 10]], '2 boxes and 0 polygons'),
        ('1 0.9 0.5 0.4 0.5', [[28, 5, 12, 10]], '2 objects reach outside their image and are cut off at its border'),
        ('1 0.5 0.5 1.0000001 1', [[0, 0, 40, 20]], '2 boxes and 0 polygons'),
        ('1 0.5 0.5 0.5 1.005 1.005 0.5', [[20, 10, 20, 10]], '2 objects reach outside'),
        ('', [], '2 boxes and 0 polygons'),
    ],
)
def test_lines_that_are_read_with_a_note(yolo, labels, bboxes, note):
    folder = yolo(labels)
    if not labels:
        folder.write('labels/val/val.txt', '1 0.5 0.5 0.25 0.5\n1 0.4 0.5 0.25 0.5')
    assert [entry['bbox'] for entry in annotations(folder)] == bboxes
    assert note in folder.find('detection').notes[0]


@pytest.mark.parametrize(
    'names, classes',
    [
        ('[yes, no]', ('yes', 'no')),
        ('[~, 1.0, 007]', ('~', '1.0', '007')),
        ("{0: null, '1': 2024-12-31}", ('null', '2024-12-31')),
        ('{1: dog, 0: cat}', ('cat', 'dog')),
        ('\n- cat\n- dog\nnc: 2', ('cat', 'dog')),
    ],
)
def test_names_are_taken_as_they_are_written(yolo, names, classes):
    text = YAML.replace('[cat, dog]', names)
    assert yolo('0 0.5 0.5 0.25 0.5', text).find('detection').classes == classes


@pytest.mark.parametrize(
    'text, message',
    [
        ('train: images/train', "'names' must list the classes"),
        ('names: {0: a, 2: b}\ntrain: images/train', "'names' must list the classes"),
        ('names: {00: a}\ntrain: images/train', "'names' must list the classes"),
        ('names: cat, dog\ntrain: images/train', "'names' must list the classes"),
        ('names: [[a]]\ntrain: images/train', "'names' must list the classes"),
        ('names: [a, a]\ntrain: images/train', "'names' has 'a' twice"),
        ("names: [a, '']\ntrain: images/train", "'names' has an empty name"),
        ('names: [a]\nnc: 2\ntrain: images/train', "'nc' is 2, but 'names' has 1 classes"),
        ('names: [a]\ntrain: nowhere', 'nowhere does not exist'),
        (f'names: [a]\ntrain: {"x" * 5000}', ' does not exist'),
        ('names: [a]\ntrain: labels', 'labels, which has no images'),
        ('names: [a]\ntrain: https://example.org/a.zip\ndownload: x', "'train' is a URL; download the data"),
        ('names: [a]\ntrain: /dev/zero', '/dev/zero: cannot be read (not a regular file)'),
        ('names: [a]\ntrain: 5', '5 does not exist'),
        ('names: [a]\ntrain: {a: b}', "'train' must be a folder"),
        ('names: [a]\ntrain: []', "'train' must be a folder"),
        ('names: [a]\ntrain: [~]', "'train' must be a folder"),
        ('names: [a]\ntrain: ~', 'names no training images'),
        ('names: [a]\npath: [x]\ntrain: images', "'path' must be a folder"),
        ('names: [a]\nval: images/val', 'names no training images'),
        ('names: [a]\nkpt_shape: [17, 3]\ntrain: images/train', 'a data set of poses'),
        ('- a', 'not the description of a YOLO data set'),
        ('', 'not the description of a YOLO data set'),
        ('a: [', 'cannot be read as YAML'),
        ('names: [a]\nnames: [b]', 'occurs twice'),
        ('names: [a]\ndate: 2024-13-45', 'cannot be read as YAML'),
        ('a: &a [x, x]\n' + ''.join(f'{i}: &{i} [*{j}, *{j}]\n' for j, i in pairwise(LETTERS)), 'aliases'),
        ('[' * 1000, 'cannot be read as YAML'),
    ],
)
def test_an_invalid_yaml_file_is_refused(yolo, text, message):
    refusal = yolo(text=text).refusal('detection')
    assert message in refusal
    assert 'data.yaml: ' in refusal or '/dev/zero' in refusal


def test_a_folder_above_is_taken_if_it_exists_and_a_note_says_so(yolo, tmp_path):
    folder = yolo(text=YAML.replace('images/train', '../images/train'))
    assert f"'train: ../images/train' is taken as {folder.root}/images/train" in folder.find('detection').notes[1]
    folder.image('../images/train/x.png')
    assert f"'train: ../images/train' is taken as {tmp_path}/images/train" in folder.find('detection').notes[1]


def test_a_path_that_does_not_exist_is_said(yolo):
    source = yolo(text=f'path: ../datasets/x\n{YAML}').find('detection')
    assert "its 'path' ../datasets/x does not exist, so paths are relative to" in source.notes[1]


def test_code_in_a_yaml_file_is_not_executed(yolo, tmp_path):
    text = f'names: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path [{tmp_path / "x"}]]'
    assert 'cannot be read as YAML' in yolo(text=text).refusal('detection')
    assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize('name', ['data.YAML', 'Data.yml', 'my.yaml'])
def test_names_of_the_yaml_file(yolo, name):
    folder = yolo()
    (folder.root / 'data.yaml').rename(folder.root / name)
    for other in ('._data.yaml', '.pre-commit-config.yaml'):
        folder.write(other, 'a: 1')
    assert folder.find('detection').classes == ('cat', 'dog')


def test_another_yaml_file_does_not_hide_a_coco_data_set(folder):
    folder.image('train/1.png')
    folder.image('train/2.png')
    folder.coco('all.json', ['1.png', '2.png'])
    folder.write('pipeline.yaml', 'stages: [a]')
    assert folder.find('detection').classes == ('cat', 'dog')


def test_images_that_cannot_be_read_are_all_named(yolo):
    folder = yolo()
    folder.write('images/train/empty.png', '')
    folder.write('images/val/html.jpg', '<html>')
    message = folder.refusal('detection')
    assert 'empty.png: cannot be read as an image (the file is empty' in message
    assert "html.jpg: cannot be read as an image (it begins with b'<html>'" in message


def test_labels_are_for_the_turned_image(yolo):
    folder = yolo()
    folder.image('images/train/train.png', (20, 40), orientation=6)
    source = folder.find('detection')
    assert folder.read(source.train)['images'][0]['width'] == 40
    assert '1 images are turned or mirrored by their EXIF orientation' in source.notes[0]
