"""Which workers a run has, as the environment says: TF_CONFIG, Slurm or Kubernetes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from registry import UserError

INSTALL = 'pip install "kubernetes<38,>=31"'
LABELS, HOST = "WORKER_LABELS", "HOST_IP"
KUBERNETES_PORT = 8470
_FIRST_PORT, _PORTS = 20000, 20000
_PORTS_OF_STEP = 32  # of Slurm; a host runs no more tasks of one
_STEPS_APART = 31  # ranges between the steps of a job: others of about its number start there
_JOBS = ("chief", "master", "worker")
_EXPECTED = (
    "expected TF_CONFIG with the addresses of all workers and the number of this one, or a job "
    f"step of Slurm (srun), or {LABELS} and {HOST} in a pod of Kubernetes"
)


@dataclass(frozen=True)
class Cluster:
    """The workers of a run, listed alike in each of them.

    Attributes:
        addresses: ``HOST:PORT`` of each worker, the chief first.
        index: the place of this worker among them.
    """

    addresses: tuple[str, ...]
    index: int


def find_cluster() -> Cluster:
    """The workers that the environment describes, by TensorFlow's own resolvers.

    Raises:
        UserError: nothing describes any, or what does is incomplete.
    """
    try:
        if "TF_CONFIG" in os.environ:
            return _of_tf_config(tf.distribute.cluster_resolver.TFConfigClusterResolver())
        if "SLURM_STEP_NUM_TASKS" in os.environ:
            return _Slurm().cluster()
        if LABELS in os.environ:
            return _of_this_pod()
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise UserError(f"the description of the workers is damaged ({error}); {_EXPECTED}") from (
            error
        )
    raise UserError(f"nothing says which workers there are; {_EXPECTED}")


def _of_tf_config(resolver: tf.distribute.cluster_resolver.ClusterResolver) -> Cluster:
    listed = resolver.cluster_spec().as_dict()
    kind, number = resolver.task_type, resolver.task_id
    if kind not in listed or kind not in _JOBS or not isinstance(listed[kind], list):
        raise UserError(
            f"TF_CONFIG gives this process the task {kind!r} of {', '.join(listed) or 'nothing'}; "
            'expected "worker" or "chief"'
        )
    jobs = [job for job in _JOBS if job in listed]
    addresses = tuple(address for job in jobs for address in listed[job])
    before = sum(len(listed[job]) for job in jobs[: jobs.index(kind)])
    if number is None or not 0 <= number < len(listed[kind]):
        raise UserError(
            f"TF_CONFIG gives this process the index {number} of {len(listed[kind])} tasks "
            f"{kind!r}; expected 0 to {len(listed[kind]) - 1}"
        )
    return Cluster(addresses, before + number)


class _Slurm(tf.distribute.cluster_resolver.SlurmClusterResolver):
    """The tasks of a job step, in Slurm's order: TensorFlow's sorts hosts by the alphabet, where
    node10 comes before node9, while Slurm numbers tasks in the order of its own list."""

    def __init__(self) -> None:
        job, step = (int(os.environ.get(f"SLURM_{name}_ID", 0)) for name in ("JOB", "STEP"))
        # Jobs may share a host, and so may steps of one job: each has a range of ports of its own.
        ranges = _PORTS // _PORTS_OF_STEP
        first = _FIRST_PORT + (job + _STEPS_APART * step) % ranges * _PORTS_OF_STEP
        # GPUs are Slurm's to give: of them nothing is asked here.
        super().__init__(port_base=first, gpus_per_node=0, gpus_per_task=0, auto_set_gpu=False)

    def cluster(self) -> Cluster:
        tasks = self._resolve_task_configuration()
        for host, count in tasks.items():
            if count > _PORTS_OF_STEP:
                raise UserError(
                    f"Slurm starts {count} tasks on {host}; expected at most {_PORTS_OF_STEP}: "
                    "give one task for each GPU, or for each host"
                )
        addresses = tuple(
            f"{host}:{self._port_base + number}"
            for host, count in tasks.items() for number in range(count)
        )
        return Cluster(addresses, self._resolve_own_rank())


def _of_this_pod() -> Cluster:
    try:
        from kubernetes import client, config
    except ImportError:
        raise UserError(
            f"{LABELS} needs the Kubernetes client: {INSTALL}; or give TF_CONFIG"
        ) from None
    try:
        config.load_incluster_config()
        return of_kubernetes(os.environ, client.CoreV1Api())
    except (config.ConfigException, client.ApiException) as error:
        raise UserError(
            f"Kubernetes does not list the pods of {LABELS} ({error}); expected a pod whose "
            "service account may list pods, or TF_CONFIG"
        ) from None


def of_kubernetes(environment: Mapping[str, str], client: Any) -> Cluster:
    """The pods that carry a label, by TensorFlow's resolver: it lists the hosts that they run on,
    so pods need ``hostNetwork: true`` and hosts of their own.

    Args:
        environment: ``WORKER_LABELS``, label selectors with ``;`` between them, and ``HOST_IP``,
            the address of the host that this pod runs on.
        client: a ``kubernetes.client.CoreV1Api``.
    """
    resolver = tf.distribute.cluster_resolver.KubernetesClusterResolver(
        {"worker": environment[LABELS].split(";")}, tf_server_port=KUBERNETES_PORT,
        override_client=client,
    )
    addresses = tuple(resolver.cluster_spec().job_tasks("worker"))
    own = f"{environment.get(HOST)}:{KUBERNETES_PORT}"
    if addresses.count(own) != 1:
        raise UserError(
            f"{HOST} is {environment.get(HOST)!r}, and the workers' hosts are "
            f"{', '.join(addresses)}; expected it to be one of them, once (status.hostIP)"
        )
    return Cluster(addresses, addresses.index(own))
