import json
from types import SimpleNamespace

import pytest

from registry import UserError
from settings import distillation, evaluation, pretraining
from settings.common import describe_workers, shared_settings
from settings.networks import create_method

SEVERAL = SimpleNamespace(strategy="multi_worker")


@pytest.mark.parametrize("script", [distillation, evaluation, pretraining])
def test_a_data_set_has_one_name_however_it_is_written(script):
    names = {"Digits": "digits", "NPZ:Some_File.npz": "npz:Some_File.npz", "CIFAR-100": "cifar100",
             "Folder:Digits": "folder:Digits", "oxford_iiit_pet": "oxford_iiit_pet"}
    found = {name: script.Settings(dataset=name).dataset for name in names}
    assert found == names


def test_of_several_workers_the_plan_says_which_one_this_is(monkeypatch):
    listed = {"worker": ["one:1", "two:2", "three:3"]}
    task = {"cluster": listed, "task": {"type": "worker", "index": 2}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(task))
    said = "3, of which this is worker 2; worker 0, the chief, is one:1"
    assert describe_workers(SEVERAL) == said
    assert describe_workers(SimpleNamespace(strategy="auto")) is None


def test_what_does_not_describe_workers_is_refused(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", '{"cluster":')
    with pytest.raises(UserError, match="description of the workers is damaged"):
        describe_workers(SEVERAL)
    monkeypatch.delenv("TF_CONFIG")
    with pytest.raises(UserError, match="nothing says which workers there are"):
        describe_workers(SEVERAL)


def test_how_a_run_is_shared_out_does_not_determine_it():
    alone, shared = (
        distillation.Settings(strategy=each).spelled() for each in ("none", "multi_worker")
    )
    method = create_method(alone)
    assert (
        distillation.determining_settings(alone, method)
        == distillation.determining_settings(shared, method)
    )


def test_workers_may_keep_things_in_other_places():
    one, other = (
        shared_settings(distillation.Settings(train_dir=folder, data_dir=folder, in_memory=kept))
        for folder, kept in (("x", "yes"), ("y", "no"))
    )
    assert one == other and "--seed" in one
