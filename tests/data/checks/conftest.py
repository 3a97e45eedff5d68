"""A small data set with instance annotations."""

import json

import pytest

from repvit_dense.data import checks

SQUARE = [2, 2, 6, 2, 6, 6, 2, 6]


class Coco:
    """A COCO file with two images of 10x8 pixels and one object in each."""

    def __init__(self, folder):
        self.file, self.images = folder / 'coco.json', folder / 'images'

    @staticmethod
    def annotation(number, image=1, **changes):
        entry = {'id': number, 'image_id': image, 'category_id': 1, 'bbox': [2, 2, 4, 4], 'area': 16, 'iscrowd': 0}
        return {**entry, 'segmentation': [SQUARE], **changes}

    def check(self, masks=True, classes=('cat',), filter_empty=False, min_size=0, training=False, **changes):
        """Write the file and return its findings as (level, text).

        A change replaces a list of the file; a function gets the list and returns the new one.
        """
        self.write(**changes)
        report = checks.instances(self.file, self.images, classes, masks, filter_empty, min_size, training)
        return [(finding.level, str(finding)) for finding in report.findings]

    def write(self, **changes):
        """Write the file, changed as by `check`, and the images; return the content of the file."""
        content = {
            'images': [{'id': i, 'file_name': f'{i}.jpg', 'width': 10, 'height': 8} for i in (1, 2)],
            'annotations': [self.annotation(1), self.annotation(2, image=2)],
            'categories': [{'id': 1, 'name': 'cat'}],
        }
        for key, change in changes.items():
            content[key] = change(content[key]) if callable(change) else change
        self.images.mkdir(exist_ok=True)
        for i in (1, 2):
            (self.images / f'{i}.jpg').touch()
        self.file.write_text(json.dumps(content))
        return content

    def check_first(self, **changes):
        """Change the first annotation, then check the file."""
        return self.check(annotations=[self.annotation(1, **changes), self.annotation(2, image=2)])


@pytest.fixture
def coco(tmp_path):
    return Coco(tmp_path)
