"""Whether standard output is the log."""

import pytest

from host.torchserve.process import in_container


@pytest.mark.parametrize("mark", [".dockerenv", "run/.containerenv"])
def test_a_container_is_known_by_its_files(tmp_path, mark):
    assert not in_container({}, tmp_path)
    (tmp_path / mark).parent.mkdir(exist_ok=True)
    (tmp_path / mark).touch()
    assert in_container({}, tmp_path)


@pytest.mark.parametrize("name", ["KUBERNETES_SERVICE_HOST", "container"])
def test_a_container_is_known_by_its_environment(tmp_path, name):
    assert in_container({name: "x"}, tmp_path)
