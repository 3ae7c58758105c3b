import pytest


@pytest.fixture(autouse=True, scope="session")
def always_one_thread(one_thread):
    """For all tests of this folder."""
