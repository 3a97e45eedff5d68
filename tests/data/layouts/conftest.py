"""A folder to build small data sets in."""

import json
from pathlib import Path

import pytest
from PIL import Image

from repvit_dense.data import layouts
from repvit_dense.errors import InputError


class Folder:
    """An empty folder that a test fills and then reads as a data set."""

    def __init__(self, root):
        self.root, self.store = root, root.parent / 'work/coco'
        root.mkdir()

    def image(self, name, size=(10, 8), orientation=1):
        path, exif = self.root / name, Image.Exif()
        path.parent.mkdir(parents=True, exist_ok=True)
        exif[0x112] = orientation
        Image.new('RGB', size).save(path, **({'exif': exif} if orientation > 1 else {}))
        return path

    def write(self, name, content):
        """Write text, or any other content as JSON."""
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    def coco(self, name, images, classes=('cat', 'dog'), masks=True):
        """Write a COCO file with an object of every class in every image; return its content."""
        categories = [{'id': 5 * i, 'name': label, 'supercategory': 'animal'} for i, label in enumerate(classes, 1)]
        records = [{'id': i, 'file_name': image, 'width': 10, 'height': 8} for i, image in enumerate(images, 1)]
        pairs = [(record['id'], category['id']) for record in records for category in categories]
        annotations = [
            {'id': i, 'image_id': image, 'category_id': category, 'bbox': [2, 2, 4, 4], 'area': 16, 'iscrowd': 0}
            for i, (image, category) in enumerate(pairs, 1)
        ]
        for annotation in annotations if masks else ():
            annotation['segmentation'] = [[2, 2, 6, 2, 6, 6, 2, 6]]
        content = {'images': records, 'annotations': annotations, 'categories': categories}
        self.write(name, content)
        return content

    def find(self, task='instance'):
        return layouts.find(str(self.root), task, self.root.parent / 'work')

    def refusal(self, task='instance'):
        """Return the message with which the folder is refused."""
        with pytest.raises(InputError) as refused:
            self.find(task)
        assert '\n' not in str(refused.value)
        return str(refused.value)

    def read(self, arguments):
        """Return the annotation file that `Source.train` or `Source.val` selects."""
        return json.loads(Path(arguments['data_root'], arguments['ann_file']).read_text())

    def files(self):
        return {path: path.read_bytes() for path in self.root.rglob('*') if path.is_file()}


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path / 'data')
