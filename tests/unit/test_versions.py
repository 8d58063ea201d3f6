"""The order of versions, which the host and the sessions share."""

import pytest

from handlers.versions import version_order

ORDERED = [
    "",
    "rc",
    "1-a",
    "1",
    "1.0",
    "1.0.1",
    "1.2",
    "1.8",
    "1.9-1",
    "1.9-rc",
    "1.9-rc2",
    "1.9.rc10",
    "1.9",
    "1.9.1",
    "1.10",
    "2.0-rc1",
    "2.0",
    "10.0",
]


def test_numbers_are_compared_as_numbers_and_a_pre_release_comes_before_its_release():
    assert sorted(set(ORDERED), key=version_order) == ORDERED


@pytest.mark.parametrize("version", ORDERED)
def test_no_version_equals_another(version):
    assert [other for other in ORDERED if version_order(other) == version_order(version)] == [version]
