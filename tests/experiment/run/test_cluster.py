"""The workers that TF_CONFIG, Slurm and Kubernetes describe."""

import itertools
import json
from types import SimpleNamespace

import pytest

from experiment.run.cluster import Cluster, find_cluster, of_kubernetes
from registry import UserError


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("TF_CONFIG", "SLURM_STEP_NUM_TASKS", "SLURM_STEP_ID", "WORKER_LABELS"):
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
        "SLURM_STEP_NUM_TASKS": 4, "SLURM_PROCID": 2, "SLURM_JOB_ID": 632,
        "SLURM_STEP_NODELIST": "node[9-10],gpu1", "SLURM_STEP_TASKS_PER_NODE": "2,1(x2)",
    }.items():
        monkeypatch.setenv(name, str(value))
    # Each step has 32 ports; those of job 632 are the eighth of 625.
    addresses = ("node9:20224", "node9:20225", "node10:20224", "gpu1:20224")
    assert find_cluster() == Cluster(addresses, 2)
    monkeypatch.delenv("SLURM_PROCID")
    with pytest.raises(UserError, match="SLURM_PROCID not found"):
        find_cluster()


def test_steps_of_slurm_that_share_a_host_share_no_port(monkeypatch):
    for name, value in {
        "SLURM_STEP_NUM_TASKS": 32, "SLURM_PROCID": 0, "SLURM_STEP_NODELIST": "node1",
        "SLURM_STEP_TASKS_PER_NODE": 32,
    }.items():
        monkeypatch.setenv(name, str(value))
    seen = set()
    for job, step in itertools.product(range(100, 110), range(3)):
        monkeypatch.setenv("SLURM_JOB_ID", str(job))
        monkeypatch.setenv("SLURM_STEP_ID", str(step))
        addresses = find_cluster().addresses
        assert len({*addresses}) == 32 and seen.isdisjoint(addresses)
        seen.update(addresses)
    ports = [int(address.split(":")[1]) for address in seen]
    assert min(ports) >= 20000 and max(ports) < 40000
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "33")
    monkeypatch.setenv("SLURM_STEP_TASKS_PER_NODE", "33")
    with pytest.raises(UserError, match="starts 33 tasks on node1; expected at most 32"):
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
