"""The page of `serve` in Chromium: images, a video and a camera."""

import base64
import json

import cv2
import numpy as np
import pytest

from tests.chromium import Browser

DROP = """(() => {
  const data = new DataTransfer();
  for (const [name, type, text] of %s) {
    const content = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
    data.items.add(new File([content], name, {type}));
  }
  document.dispatchEvent(new DragEvent('drop', {dataTransfer: data, cancelable: true}));
})()"""
ENDED = 'document.getElementById("stop").hidden && document.querySelectorAll("#items li").length === %d'
LABEL = 'document.getElementById("canvas").ariaLabel'
STATUS = 'document.getElementById("status").textContent'


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp('profile'))
    yield browser
    browser.close()


@pytest.fixture
def page(browser, client):
    """Open the page; nothing in it may fail or break its security policy."""
    browser.resize(900, 700)
    browser.open(client.url)
    browser.wait('document.querySelector("h1").textContent === "fake"')
    yield browser
    assert browser.messages == []


def drop(page, *files):
    """Drop files `(name, type, content)` on the page."""
    page.evaluate(
        DROP % json.dumps([(name, kind, base64.b64encode(content).decode()) for name, kind, content in files])
    )


def notes(page):
    """Return the texts of all images, as soon as none waits."""
    texts = '[...document.querySelectorAll("#items button")].map((each) => each.textContent)'
    page.wait(f'!{texts}.some((text) => text.endsWith("waiting"))')
    return page.evaluate(texts)


def slide(page, score):
    page.evaluate(
        f'{{ const slider = document.querySelector("input[type=range]"); slider.value = {score};'
        ' slider.dispatchEvent(new Event("input")) }'
    )


def colours(page):
    """Return the colours (BGR) of the image left and right of its middle, in a screenshot."""
    bounds = page.evaluate('document.getElementById("canvas").getBoundingClientRect().toJSON()')
    picture = cv2.imdecode(np.frombuffer(page.screenshot(), np.uint8), cv2.IMREAD_COLOR)
    column, row = (round(bounds[side] + bounds[length] / 2) for side, length in (('x', 'width'), ('y', 'height')))
    return [picture[row, column + shift].tolist() for shift in (-60, 60)]


def test_score_and_classes_choose_without_another_request(page, client, png):
    before = client.metric('images_total')
    drop(page, ('white.png', 'image/png', png(255)), ('grey.png', 'image/png', png(128)))
    page.wait(ENDED % 2)
    page.wait(f'{LABEL} === "white.png: 1 cat"')
    left, right = colours(page)
    assert left == pytest.approx([140, 140, 255], abs=3)
    assert right == [255, 255, 255]
    slide(page, 0.05)
    page.wait(f'{LABEL} === "white.png: 1 cat, 1 dog"')
    assert colours(page)[1] == pytest.approx([255, 140, 140], abs=3)
    page.evaluate('document.querySelector(".classes input[value=cat]").click()')
    page.wait(f'{LABEL} === "white.png: 1 dog"')
    assert colours(page)[0] == [255, 255, 255]
    assert client.metric('images_total') - before == 2


def test_the_download_holds_what_is_shown(page, png):
    drop(page, ('a <b>.png', 'image/png', png(255)), ('dark.png', 'image/png', png(0)))
    page.wait(ENDED % 2)
    page.evaluate('URL.createObjectURL = (blob) => { window.saved = blob.text(); return "blob:" }')
    page.evaluate('HTMLAnchorElement.prototype.click = () => {}')
    page.evaluate('document.getElementById("download").click()')
    entries = json.loads(page.evaluate('window.saved'))
    assert [entry['image'] for entry in entries] == ['a <b>.png', 'dark.png']
    assert [[each['label'] for each in entry['objects']] for entry in entries] == [['cat'], []]
    assert entries[0]['objects'][0]['mask']['size'] == [40, 60]


def test_files_that_cannot_be_predicted_leave_the_others(page, png):
    drop(page, ('bad.png', 'image/png', b'nothing'), ('good.png', 'image/png', png(255)))
    page.wait(ENDED % 2)
    page.wait(f'{STATUS} === "2 images, 1 failed"')
    bad, good = notes(page)
    assert 'cannot be read as an image' in bad
    assert good == 'good.png1 cat'
    page.messages.clear()  # the answer 400


def test_a_file_that_is_too_large_is_not_sent(page, client):
    before = client.metric('requests_total{code="413"}')
    drop(page, ('large.png', 'image/png', bytes(200_000)))
    page.wait(ENDED % 1)
    assert notes(page) == ['large.pnghas 0.2 MB, at most 0.1 are accepted']
    assert client.metric('requests_total{code="413"}') == before


def test_frames_of_a_video_are_predicted(page, tmp_path):
    file = tmp_path / 'video.webm'
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*'VP80'), 4, (64, 48))
    for _ in range(4):
        writer.write(np.full((48, 64, 3), 255, np.uint8))
    writer.release()
    drop(page, ('v.webm', 'video/webm', file.read_bytes()), ('no.webm', 'video/webm', b'nothing'))
    page.wait(ENDED % 3)
    assert notes(page) == ['v.webm 0.00 s1 cat', 'v.webm 0.50 s1 cat', 'no.webmthis browser cannot play the video']
    page.messages.clear()  # Chromium's about the second file


def test_a_camera_is_predicted_until_it_is_stopped(page):
    page.evaluate('document.getElementById("camera").click()')
    page.wait(f'{STATUS}.startsWith("Camera: ") && {LABEL} !== null')
    page.evaluate('document.getElementById("stop").click()')
    page.wait(ENDED % 1)
    assert notes(page)[0].startswith('camera ')


def test_everything_has_a_name_for_a_screen_reader(page):
    page.call('Accessibility.enable')
    tree = page.call('Accessibility.getFullAXTree')['nodes']
    roles = ('button', 'slider', 'checkbox', 'spinbutton', 'img', 'list', 'progressbar', 'link')
    for node in tree:
        if not node['ignored'] and node['role']['value'] in roles:
            assert node['name']['value'] or node['role']['value'] == 'img', node  # the canvas, before an image is there
