"""Tests of other programs, which are installed from a package index by HTTPS."""

import pytest


@pytest.fixture
def certificates() -> None:
    """Use the certificates of the machine."""
