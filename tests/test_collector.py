"""The collector is off inside and as it was before outside."""

import gc

import pytest

from repvit_dense.collector import no_collector


@pytest.mark.parametrize('enabled', [True, False])
def test_the_collector_is_as_it_was_before_after_an_error_too(enabled):
    before = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with pytest.raises(ZeroDivisionError), no_collector():
            assert not gc.isenabled()
            raise ZeroDivisionError
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
