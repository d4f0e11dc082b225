"""What is tested is what is installed: where that matters, this is asked for."""

import os
from pathlib import Path

import pytest

import zdlfast
from zdlfast import _engine


@pytest.mark.skipif("ZDLFAST_TEST_INSTALLED" not in os.environ, reason="not asked for")
@pytest.mark.parametrize("module", [zdlfast, _engine])
def test_the_package_lies_in_site_packages(module):
    assert "site-packages" in Path(module.__file__).parts
