import numpy as np
import pytest
from PIL import Image

from repvit_dense.data import checks
from repvit_dense.data.checks import Report, report
from repvit_dense.errors import InputError


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


@pytest.mark.parametrize('labels, reduced', [((0, 1, 2, 255), False), ((0, 1, 2, 3, 255), True)])
def test_valid_masks_have_no_findings(pairs, labels, reduced):
    result = checks.semantic(pairs(*labels), 3, reduce_zero_label=reduced)
    assert result == Report(f'{len(labels)} images, 3 classes, all {len(labels)} masks checked', [])


@pytest.mark.parametrize(
    'label, reduced, message',
    [
        (3, False, '1 masks have values over 2, the last of 3 classes'),
        (4, True, '1 masks have values over 3, the last of 3 classes'),
        (np.zeros((6, 4)), False, '1 masks do not have the size of their image'),
        (np.zeros((4, 6, 3)), False, '1 masks have colours instead of class numbers'),
    ],
)
def test_faults_of_a_mask(pairs, label, reduced, message):
    findings = checks.semantic(pairs(0, label), 3, reduce_zero_label=reduced).findings
    assert [(finding.level, str(finding).split(' (')[0]) for finding in findings] == [('error', message)]
    assert '1.png' in str(findings[0])


@pytest.mark.parametrize('index, name', [(0, 'images'), (1, 'masks')])
def test_missing_files_are_named(pairs, index, name):
    files = pairs(0, 1)
    files[1][index].unlink()
    findings = checks.semantic(files, 2).findings
    assert [str(finding) for finding in findings] == [f'1 of the 2 {name} do not exist ({files[1][index]})']


def test_a_data_set_without_images_is_an_error():
    assert [finding.level for finding in checks.semantic([], 2).findings] == ['error']


def test_a_mask_with_a_palette_is_read_as_indices(pairs):
    [(image, mask)] = pairs(2)
    indexed = Image.fromarray(np.full((4, 6), 2, np.uint8), mode='P')
    indexed.putpalette([i for i in range(256) for _ in range(3)])
    indexed.save(mask)
    assert checks.semantic([(image, mask)], 3).findings == []


def test_a_sample_of_many_masks_is_the_same_every_time(pairs, monkeypatch):
    monkeypatch.setattr(report, 'SAMPLE', 4)
    files = pairs(*[7] * 9)
    first, second = checks.semantic(files, 3), checks.semantic(files, 3)
    assert first.summary == '9 images, 3 classes, 4 of 9 masks checked'
    assert len(first.findings[0].offenders) == 4
    assert first == second


def test_a_damaged_mask_is_named(pairs):
    [(image, mask)] = pairs(0)
    mask.write_bytes(b'no image')
    with pytest.raises(InputError, match='0.png: cannot be read as an image'):
        checks.semantic([(image, mask)], 3)
