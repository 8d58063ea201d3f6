"""The metric that tells which models answer."""

from pathlib import Path

import pytest

from host.answers import Answers
from host.archives import Archive
from host.ports import HostError

ONE, TWO = [Archive(Path(f"{name}.mar"), {"name": name, "version": "1.0"}) for name in ("one", "two")]


def cannot_be_asked():
    raise HostError("TorchServe does not answer")


def test_a_model_that_answers_is_1_and_one_that_does_not_is_0():
    answers = Answers()
    assert answers.exposition([ONE, TWO]) == ""
    assert answers.note(ONE, lambda: None) is None
    assert answers.note(TWO, lambda: "no worker is running") == "no worker is running"
    assert answers.exposition([ONE, TWO]).splitlines() == [
        "# TYPE cellstate_model_answers gauge",
        'cellstate_model_answers{model_name="one",model_version="1.0"} 1',
        'cellstate_model_answers{model_name="two",model_version="1.0"} 0',
    ]


def test_a_model_that_cannot_be_asked_does_not_answer_and_one_that_is_gone_is_left_out():
    answers = Answers()
    answers.note(ONE, lambda: None)
    answers.note(TWO, lambda: None)
    with pytest.raises(HostError):
        answers.note(ONE, cannot_be_asked)
    assert answers.exposition([ONE]).splitlines()[1:] == ['cellstate_model_answers{model_name="one",model_version="1.0"} 0']
