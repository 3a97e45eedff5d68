"""Lists of images that were written on another machine."""

import pytest


@pytest.mark.parametrize(
    'prefix, separator', [('data', '/'), ('/home/me/set', '/'), ('C:\\Users\\me', '\\'), ('../label/data', '/')]
)
def test_leading_folders_are_left_out(folder, prefix, separator):
    folder.write('data.yaml', 'path: .\ntrain: train.txt\nval: val.txt\nnames: [cat]\n')
    for split in ('train', 'val'):
        folder.image(f'images/{split}/{split}.png')
        folder.write(f'labels/{split}/{split}.txt', '0 0.5 0.5 0.25 0.5\n')
        folder.write(f'{split}.txt', separator.join([prefix, 'images', split, f'{split}.png']))
    source = folder.find('detection')
    [image] = folder.read(source.val)['images']
    assert image['file_name'] == 'images/val/val.png'
    assert f'{folder.root}/val.txt: its images are found as images/val/val.png for {prefix}' in source.notes[2]


@pytest.mark.parametrize('lines', ['a/1.png\nb/1.png', 'a/1.png\na/2.png'])
def test_names_that_stay_ambiguous_or_missing_are_refused(folder, lines):
    folder.write('data.yaml', 'train: train.txt\nnames: [cat]\n')
    folder.image('1.png')
    folder.write('train.txt', lines)
    assert 'images that do not exist (' in folder.refusal('detection')
