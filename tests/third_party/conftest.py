"""Other programs, which are installed from a package index by HTTPS."""

import pytest


@pytest.fixture
def certificates() -> None:
    """Those of the machine."""
