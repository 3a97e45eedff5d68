"""Test fitted exponents, and a small run that writes page and chart."""

import pytest

from tools.pages import growth
from tools.pages.growth import Axis, exponent


@pytest.mark.parametrize('power', [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_fitted(power):
    assert exponent([1, 2, 4, 8], [3 * value**power for value in (1, 2, 4, 8)]) == pytest.approx(power)


def test_a_run_writes_a_row_per_quantity_and_a_chart(tmp_path, monkeypatch):
    small = [Axis('pixels', [256**2, 512**2], ['256²', '512²'], [('m0_6', 1, 256), ('m0_6', 1, 512)])] * 2
    monkeypatch.setattr(growth, 'axes', lambda: small)
    growth.run(growth.Options(file=tmp_path / 'growth.md', rounds=1))
    page = (tmp_path / 'growth.md').read_text()
    assert (tmp_path / 'growth.png').stat().st_size > 5000
    assert '![cost over pixels, batch and variant](growth.png)' in page
    row = next(line for line in page.splitlines() if line.startswith('| saved activations'))
    # Activations grow with the pixels; the saved merged kernels do not.
    assert 0.5 < float(row.split('|')[-2]) < 1.0


def test_macs_match_another_counter():
    """An independent counter finds 0.385 GMACs at 224x224."""
    assert growth._giga_macs('m0_6') == pytest.approx(0.385 * (256 / 224) ** 2, rel=0.02)
