import json
from types import SimpleNamespace

import pytest

from registry import UserError
from settings.common import describe_workers

SEVERAL = SimpleNamespace(strategy="multi_worker")


def test_of_several_workers_the_plan_says_which_one_this_is(monkeypatch):
    listed = {"worker": ["one:1", "two:2", "three:3"]}
    task = {"cluster": listed, "task": {"type": "worker", "index": 2}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(task))
    assert describe_workers(SEVERAL) == "3, of which this is number 2, led by one:1"
    assert describe_workers(SimpleNamespace(strategy="auto")) is None


def test_what_does_not_describe_workers_is_refused(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster":')
    with pytest.raises(UserError, match="description of the workers is damaged"):
        describe_workers(SEVERAL)
    monkeypatch.delenv("TF_CONFIG")
    with pytest.raises(UserError, match="nothing says which workers there are"):
        describe_workers(SEVERAL)
