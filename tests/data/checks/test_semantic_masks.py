import numpy as np
import pytest
from PIL import Image

from repvit_dense.data import checks
from repvit_dense.data.checks import report

CLASSES = ('road', 'car', 'sky')


@pytest.fixture
def pairs(tmp_path):
    """Return a function that writes an image of 6x4 pixels for each mask; a number fills a whole mask."""

    def write(*labels):
        files = []
        for number, label in enumerate(labels):
            image, mask = tmp_path / f'{number}.jpg', tmp_path / f'{number}.png'
            Image.new('RGB', (6, 4)).save(image)
            pixels = np.full((4, 6), label) if np.ndim(label) == 0 else label
            Image.fromarray(pixels.astype(np.uint8)).save(mask)
            files.append((image, mask))
        return files

    return write


def messages(result):
    return [(finding.level, str(finding).split(' (')[0].split(';')[0]) for finding in result.findings]


def save(path, pixels):
    Image.fromarray(pixels).save(path)
    return path


@pytest.mark.parametrize('labels, reduced', [((0, 1, 2, 255), False), ((0, 1, 2, 3, 255), True)])
def test_valid_masks_have_no_findings(pairs, labels, reduced):
    files = pairs(*labels)
    result = checks.semantic(files, CLASSES, reduce_zero_label=reduced)
    assert result[:2] == (f'{len(labels)} images, 3 classes, all {len(labels)} masks checked', [])
    assert [(image.path, image.mask) for image in result.images] == [(str(a), str(b)) for a, b in files]


@pytest.mark.parametrize(
    'label, reduced, message',
    [
        (3, False, '1 masks have values over 2, the last of 3 classes'),
        (4, True, '1 masks have values over 3, the last of 3 classes'),
        (np.zeros((4, 6, 3)), False, '1 masks have colours instead of class numbers'),
        (np.zeros((4, 6, 4)), False, '1 masks have colours instead of class numbers'),
    ],
)
def test_faults_of_a_mask(pairs, label, reduced, message):
    result = checks.semantic(pairs(0, label), CLASSES, reduce_zero_label=reduced)
    assert messages(result) == [('error', message)]
    assert '1.png' in str(result.findings[0])


@pytest.mark.parametrize(
    'pixels, shown',
    [
        (np.array([[0, np.nan]], np.float32), 'nan'),
        (np.array([[0, 0.5]], np.float32), '0.5'),
        (np.array([[0, -254]], np.int32), '-254'),
        (np.array([[0, 256]], np.uint16), '256'),
    ],
)
def test_values_that_the_loader_would_wrap_or_round(pairs, tmp_path, pixels, shown):
    [(image, _)] = pairs(0)
    mask = save(tmp_path / 'a.tif', pixels)
    [finding] = checks.semantic([(image, mask)], CLASSES).findings
    assert 'values that are not whole numbers from 0 to 255' in str(finding)
    assert f'{mask}: {shown}' in str(finding)


@pytest.mark.parametrize('name, arguments', [('a.jpg', {}), ('a.tif', {'compression': 'jpeg'})])
def test_a_lossy_format_is_an_error(pairs, tmp_path, name, arguments):
    [(image, _)] = pairs(0)
    Image.new('L', (6, 4), 1).save(tmp_path / name, **arguments)
    assert messages(checks.semantic([(image, tmp_path / name)], CLASSES)) == [
        ('error', '1 masks are in a lossy format, which changes class numbers')
    ]


@pytest.mark.parametrize('dtype', [np.uint8, np.uint16, np.int32, np.float32, bool])
def test_values_are_those_that_the_loader_reads(pairs, tmp_path, dtype):
    from mmseg.datasets.transforms import LoadAnnotations

    [(image, _)] = pairs(0)
    mask = save(tmp_path / 'a.tif', np.array([[0, 1, 1]]).astype(dtype))
    results = {'seg_map_path': str(mask), 'reduce_zero_label': False, 'seg_fields': []}
    assert LoadAnnotations()(results)['gt_seg_map'].tolist() == [0, 1, 1]
    assert messages(checks.semantic([(image, mask)], CLASSES)) == [
        ('warning', '1 classes have no pixel in the masks that were checked')
    ]


def test_black_and_white_masks_have_one_class_only(pairs):
    files = pairs(0, 255)
    [finding] = checks.semantic(files, ('background', 'scratch')).findings
    assert finding.level == 'error'
    assert (
        "pixels of 'background' only, so there is nothing to learn; pixels of value 255 are ignored: write 1 for "
        in (str(finding))
    )
    [finding] = checks.semantic(files, ('background', 'scratch'), training=False).findings
    assert (finding.level, finding.offenders) == ('warning', ['scratch'])


def test_ignored_pixels_only(pairs):
    assert 'pixels of no class only' in str(checks.semantic(pairs(255), CLASSES).findings[0])


def test_a_single_class_is_an_error(pairs):
    result = checks.semantic(pairs(0), ('road',))
    assert messages(result) == [('error', "'road' is the only class, so every pixel is one")]


def test_a_class_that_is_rare_in_a_large_data_set_is_found(pairs, monkeypatch):
    monkeypatch.setattr(report, 'SAMPLE', 2)
    assert checks.semantic(pairs(*[0] * 7, 1), CLASSES[:2]).findings == []


@pytest.mark.parametrize('reduced', [False, True])
def test_a_label_map_ignores_a_value(pairs, reduced):
    files = pairs(*[value + reduced for value in (0, 1, 2, 9)])
    assert messages(checks.semantic(files, CLASSES, reduced)) == [
        ('error', f'1 masks have values over {2 + reduced}, the last of 3 classes')
    ]
    assert checks.semantic(files, CLASSES, reduced, [(9 + reduced, 255)]).findings == []


def test_a_label_map_that_ignores_a_class_is_an_error(pairs):
    [finding, *_] = checks.semantic(pairs(0, 1, 2), CLASSES, label_map=[(1, 255)]).findings
    assert str(finding) == '1 classes have no value in the masks, because their value is ignored (car)'


@pytest.mark.parametrize('index, name', [(0, 'images'), (1, 'masks')])
def test_missing_files_are_named(pairs, index, name):
    files = pairs(0, 1)
    files[1][index].unlink()
    findings = checks.semantic(files, CLASSES).findings
    assert [str(finding) for finding in findings] == [f'1 of the 2 {name} do not exist ({files[1][index]})']


def test_a_data_set_without_images_is_an_error():
    assert [finding.level for finding in checks.semantic([], CLASSES).findings] == ['error']


def test_a_mask_with_a_palette_is_read_as_indices(pairs):
    [(image, mask)] = pairs(2)
    indexed = Image.fromarray(np.array([[0, 1, 2]], np.uint8), mode='P')
    indexed.putpalette([i for i in range(256) for _ in range(3)])
    indexed.save(mask)
    assert checks.semantic([(image, mask)], CLASSES).findings == []


def test_a_sample_of_many_masks_is_the_same_every_time(pairs, monkeypatch):
    monkeypatch.setattr(report, 'SAMPLE', 4)
    files = pairs(*[(7, 8)[i % 2] * np.ones((4, 6)) for i in range(9)])
    first, second = checks.semantic(files, CLASSES), checks.semantic(files, CLASSES)
    assert first.summary == '9 images, 3 classes, 4 of 9 masks checked'
    assert len(first.findings[0].offenders) == 4
    assert first == second


def test_a_damaged_mask_is_named(pairs):
    [(image, mask)] = pairs(0)
    mask.write_bytes(b'no image')
    [finding] = checks.semantic([(image, mask)], CLASSES).findings
    assert (finding.level, finding.message) == ('error', '1 masks cannot be decoded')
    assert finding.offenders[0].startswith(f'{mask}: cannot be read as an image')
