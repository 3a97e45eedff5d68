"""The page of pictures."""

import subprocess
import sys
from pathlib import Path

from repvit_dense.page import write_page


def test_the_page_needs_no_mmengine():
    code = 'import repvit_dense.page, sys; print(sorted({"mmengine", "torch", "numpy"} & sys.modules.keys()))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout == '[]\n', done.stderr


def test_names_that_are_no_text_are_escaped(tmp_path):
    pictures = {tmp_path / 'b\udcff.jpg': 'in/b\udcff.png', tmp_path / 'a\nb.jpg': 'in/a\x07b.png'}
    page = write_page(tmp_path, 'title \ud800', pictures, 'caption', {'\udcff': 0.5}).read_text('utf-8')
    for text in ('src="b%FF.jpg"', 'in/b\\udcff.png', 'src="a%0Ab.jpg"', 'in/a\\x07b.png', 'title \\ud800'):
        assert text in page
