"""The workers that TF_CONFIG, Slurm and Kubernetes describe."""

import json
from types import SimpleNamespace

import pytest

from experiment.run.cluster import Cluster, find_cluster, of_kubernetes
from registry import UserError


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS", "WORKER_LABELS"):
        monkeypatch.delenv(name, raising=False)


def tf_config(monkeypatch, cluster, kind, index):
    task = {"cluster": cluster, "task": {"type": kind, "index": index}}
    monkeypatch.setenv("TF_CONFIG", json.dumps(task))


def test_tf_config(monkeypatch):
    tf_config(monkeypatch, {"worker": ["a:1", "b:2"]}, "worker", 1)
    assert find_cluster() == Cluster(("a:1", "b:2"), 1)
    tf_config(monkeypatch, {"worker": ["a:1", "b:2"], "chief": ["c:3"]}, "worker", 1)
    assert find_cluster() == Cluster(("c:3", "a:1", "b:2"), 2)
    tf_config(monkeypatch, {"worker": ["a:1", "b:2"], "chief": ["c:3"]}, "chief", 0)
    assert find_cluster() == Cluster(("c:3", "a:1", "b:2"), 0)


@pytest.mark.parametrize(("cluster", "kind", "index", "message"), [
    ({"worker": ["a:1"]}, "worker", 1, "index 1 of 1 tasks"),
    ({"worker": ["a:1"], "ps": ["b:1"]}, "ps", 0, "task 'ps' of"),
    ({}, "worker", 0, "task 'worker' of nothing"),
    ({"worker": ["a:1"]}, "worker", "first", "is damaged"),
])
def test_damaged_tf_config(monkeypatch, cluster, kind, index, message):
    tf_config(monkeypatch, cluster, kind, index)
    with pytest.raises(UserError, match=message):
        find_cluster()
    monkeypatch.setenv("TF_CONFIG", "{")
    with pytest.raises(UserError, match="is damaged"):
        find_cluster()


def test_slurm_in_its_own_order(monkeypatch):
    """Slurm lists node9 before node10; ranks go through hosts in that order."""
    for name, value in {
        "SLURM_STEP_NUM_TASKS": 4, "SLURM_PROCID": 2, "SLURM_JOB_ID": 40007,
        "SLURM_STEP_NODELIST": "node[9-10],gpu1", "SLURM_STEP_TASKS_PER_NODE": "2,1(x2)",
    }.items():
        monkeypatch.setenv(name, str(value))
    addresses = ("node9:20007", "node9:20008", "node10:20007", "gpu1:20007")
    assert find_cluster() == Cluster(addresses, 2)
    monkeypatch.delenv("SLURM_PROCID")
    with pytest.raises(UserError, match="SLURM_PROCID not found"):
        find_cluster()


class Pods:
    """As the client of Kubernetes lists them."""

    def __init__(self, hosts):
        self.hosts = hosts

    def list_pod_for_all_namespaces(self, label_selector):
        assert label_selector == "job-name=distil"
        return SimpleNamespace(items=[
            SimpleNamespace(
                metadata=SimpleNamespace(name=name),
                status=SimpleNamespace(phase="Running", host_ip=host),
            )
            for name, host in self.hosts.items()
        ])


def test_kubernetes():
    pods = Pods({"distil-1": "10.0.0.9", "distil-0": "10.0.0.7"})
    environment = {"WORKER_LABELS": "job-name=distil", "HOST_IP": "10.0.0.9"}
    found = of_kubernetes(environment, pods)
    assert found == Cluster(("10.0.0.7:8470", "10.0.0.9:8470"), 1)
    with pytest.raises(UserError, match="HOST_IP is '10.0.0.8'"):
        of_kubernetes({**environment, "HOST_IP": "10.0.0.8"}, pods)


def test_nothing_describes_workers():
    with pytest.raises(UserError, match="nothing says which workers there are; expected TF_CONFIG"):
        find_cluster()
