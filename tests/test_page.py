"""The page of pictures; its viewer runs in Chromium, without a server."""

import json
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from repvit_dense.page import Entries, write_page
from tests.chromium import Browser

NAMES = ['cat', '</script><script>document.title = "run"</script>']
RED = [[255, 0, 0], [0, 255, 0]]
SHOWN = '[...document.querySelectorAll("figure")].filter((each) => !each.hidden).map((each) => each.textContent)'


def test_the_page_needs_no_mmengine():
    code = 'import repvit_dense.page, sys; print(sorted({"mmengine", "torch", "numpy"} & sys.modules.keys()))'
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert done.stdout == '[]\n', done.stderr


def test_names_that_are_no_text_are_escaped(tmp_path):
    pictures = {tmp_path / 'b\udcff.jpg': 'in/b\udcff.png', tmp_path / 'a\nb.jpg': 'in/a\x07b.png'}
    page = write_page(tmp_path, 'title \ud800', pictures, 'caption', {'\udcff': 0.5}).read_text('utf-8')
    for text in ('src="b%FF.jpg"', 'in/b\\udcff.png', 'src="a%0Ab.jpg"', 'in/a\\x07b.png', 'title \\ud800'):
        assert text in page


def test_data_does_not_end_its_script(tmp_path):
    lines = [json.dumps({'objects': [{'label': name, 'score': 0.5}]}) for name in NAMES]
    entries = Entries(lines, NAMES)
    page = write_page(tmp_path, 'title', dict.fromkeys([tmp_path / 'a', tmp_path / 'b'], ''), '', entries=entries)
    (data,) = re.findall(r'id="data">(.*?)</script>', page.read_text(), re.S)
    assert json.loads(data) == {'names': NAMES, 'palette': None, 'entries': [json.loads(line) for line in lines]}


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp('profile'))
    browser.resize(800, 600)
    yield browser
    browser.close()


@pytest.fixture
def page(browser, tmp_path):
    """Open a page of three pictures: the left half of the first image is a cat, in a mask."""
    from repvit_dense.data.reading import run_lengths

    pictures, images, entries = {}, [], []
    half = np.zeros((40, 60), bool)
    half[5:, :30] = True
    for number, (label, score, quality) in enumerate([(0, 0.9, 0.7), (1, 0.5, 0.1), (0, 0.3, 0.4)]):
        images.append(tmp_path / f'{number} #%.png')
        cv2.imwrite(str(images[-1]), np.full((40, 60, 3), 255, np.uint8))
        picture = tmp_path / f'picture {number}.png'
        cv2.imwrite(str(picture), np.zeros((40, 60, 3), np.uint8))
        pictures[picture] = f'image {number}'
        found = {'label': NAMES[label], 'score': score, 'box': [0, 5, 30, 40], 'mask': run_lengths(half)}
        entries.append(json.dumps({'objects': [found], 'quality': quality}))
    browser.open(
        write_page(tmp_path, 'title', pictures, 'caption', entries=Entries(entries, NAMES, RED, images)).as_uri()
    )
    yield browser
    assert browser.messages == []
    assert browser.evaluate('document.title') == 'title'


def test_pictures_are_filtered_by_class_and_score(page):
    assert len(page.evaluate(SHOWN)) == 3
    page.evaluate('document.querySelector(".classes input[value=cat]").click()')
    page.wait(f'{SHOWN}.join() === "image 1"')
    page.evaluate('document.querySelectorAll("fieldset button")[0].click()')  # all classes
    slide = 'slider.value = 0.6; slider.dispatchEvent(new Event("input"))'
    page.evaluate(f'{{ const slider = document.querySelector("input[type=range]"); {slide} }}')
    page.wait(f'{SHOWN}.join() === "image 0"')
    assert page.evaluate('document.querySelector(".status").textContent') == '1 of 3 pictures'


def test_the_worst_are_first(page):
    page.evaluate(
        '{ const order = document.querySelector("select"); order.value = "Worst first";'
        ' order.dispatchEvent(new Event("change")) }'
    )
    assert page.evaluate(SHOWN) == ['image 1', 'image 2', 'image 0']


def colours(page):
    """Return the colours (BGR) of the enlarged image left and right of its middle, in a screenshot."""
    bounds = page.evaluate('document.querySelector("dialog canvas").getBoundingClientRect().toJSON()')
    picture = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    column, row = (round(bounds[side] + bounds[length] / 2) for side, length in (('x', 'width'), ('y', 'height')))
    return [picture[row + 40, column + shift].tolist() for shift in (-60, 60)]


def test_the_prediction_is_drawn_over_the_image_and_the_picture_shown_without_it(page):
    page.evaluate('document.querySelector("figure a").click()')
    page.wait('document.querySelector("dialog canvas").ariaLabel === "image 0: 1 cat"')
    left, right = colours(page)
    assert left == pytest.approx([140, 140, 255], abs=3)
    assert right == [255, 255, 255]
    page.evaluate('document.querySelector("dialog .classes input[value=cat]").click()')
    page.wait('document.querySelector("dialog canvas").ariaLabel === "image 0: nothing"')
    assert colours(page) == [[255] * 3] * 2
    page.evaluate('document.querySelector("figure").dataset.image = "missing.png"')
    page.evaluate('document.querySelector("figure a").click()')
    page.wait('document.querySelector("dialog canvas").ariaLabel === "image 0"')
    page.messages.clear()  # the missing file
    assert colours(page) == [[0] * 3] * 2


def test_keys_lead_to_the_next_picture_and_zoom(page):
    page.evaluate('document.querySelector("figure a").click()')
    page.wait('document.querySelector("dialog canvas").ariaLabel === "image 0: 1 cat"')
    press = 'document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {key: "%s", cancelable: true}))'
    page.evaluate(press % 'ArrowRight')
    page.wait('document.querySelector("dialog canvas").ariaLabel.startsWith("image 1: 1 ")')
    page.evaluate(press % '+')
    page.evaluate(press % 'ArrowRight')  # moves the enlarged picture
    assert page.evaluate('document.querySelector("dialog .status").textContent') == 'image 1'
