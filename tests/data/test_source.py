from repvit_dense.data.source import palette


def test_every_class_has_a_colour_of_its_own():
    assert len(set(palette(150))) == 150
    assert all(0 <= value <= 255 for colour in palette(150) for value in colour)
