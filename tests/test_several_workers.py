"""Several workers train what one process does, and go on after one of them was lost.

By default two workers compare a few methods. The rest takes minutes, as each worker imports
TensorFlow:

    pytest --several_workers tests/test_several_workers.py
"""

import contextlib
import json
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest

from experiment.run.links import LOST_STATUS
from tests.processes import assert_same_run
from tests.warm_python import warm_python
from tests.worker_processes import ROOT, ends, start_workers

SCRIPT = Path(__file__).with_name("several_workers.py")
NAMES = ("SSKD_SVD", "CRD", "RKD", "DML", "TTE")
NETS = {
    "train_w_distill.py": (
        "--net=MobileNet", "--teacher_options=width=8,first=8",
        "--student_options=width=8,first=8", "--Distillation=CRD(negatives=50)",
        "--teacher_epochs=1", "--main_loss=cross_entropy", "--export=litert",
    ),
    "pretrain_tte.py": (
        "--net=MobileNet_student", "--net_options=width=8,first=8", "--targets=",
        "--tasks=rotation,instance",
    ),
}
SHORT = (
    "--dataset=digits", "--train_images=100", "--batch_size=32", "--epochs=2", "--deterministic",
    "--strategy=multi_worker", "--connect_minutes=2",
)

FILES = {"train_w_distill.py": "student.keras", "pretrain_tte.py": "encoder.keras"}
long = pytest.mark.several_workers


def check_weights(count, names):
    """After 12 steps, of batches of 8 images and in the end one, which is less than a worker each;
    with unlabelled images, batch normalisation and, where there is one, a memory."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
    found = ends(start_workers(count, SCRIPT, *names, python=warm_python(), **quiet), 500)
    assert [status for status, *_ in found] == [0] * count, found[0][2][-3000:]
    figures = json.loads(found[0][1].splitlines()[-1])
    assert sorted(figures) == sorted(names)
    for name, figure in figures.items():
        assert figure["moved"] > 0.1, name  # it did train
        assert figure["weights"] <= 1e-5, name
        for metric, (alone, shared) in figure["logs"].items():
            np.testing.assert_allclose(
                shared, alone, rtol=5e-5, atol=1e-5, err_msg=f"{name}: {metric}"
            )


@pytest.mark.slow
def test_two_workers_train_what_one_process_does():
    check_weights(2, ("SSKD_SVD+CRD", "TTE"))


@pytest.mark.slow
def test_workers_choose_the_recipe_by_their_own_data(tmp_path, monkeypatch):
    """It computes something, and TensorFlow connects to workers only before that. Nothing is warned
    of: the order of operations is fixed before it, too."""
    monkeypatch.delenv("TF_NUM_INTEROP_THREADS")
    random = np.random.default_rng(0)
    images, labels = random.integers(0, 256, [48, 8, 8, 3]).astype(np.uint8), np.arange(48) % 2
    np.savez(tmp_path / "own.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    words = (
        ROOT / "train_w_distill.py", f"--dataset=npz:{tmp_path}/own.npz", "--net=MobileNet",
        "--student_options=width=4,first=4", "--Distillation=None", "--epochs=1",
        "--strategy=multi_worker", "--deterministic", "--connect_minutes=2",
        f"--train_dir={tmp_path}/run",
    )
    check_finished(start_workers(2, *words))
    assert (tmp_path / "run/summary.json").exists()


@long
def test_two_workers_train_what_one_process_does_with_more_methods():
    check_weights(2, NAMES)


@long
@pytest.mark.parametrize("names", [NAMES, ("None", "FSP", "KD_SVD", "couples samples", "MHGD")])
def test_four_workers_train_what_one_process_does(names):
    check_weights(4, names)


# The commands


def command(script, folder):
    return (ROOT / script, *NETS[script], *SHORT, f"--train_dir={folder}")


def await_file(folder, pattern, processes):
    while not any(folder.glob(pattern)):
        if any(process.poll() is not None for process in processes):
            pytest.fail("\n".join(err[-2000:] for _, _, err in ends(processes)))
        time.sleep(0.01)


def check_loss(found, lost):
    """The other worker has ended, in one line that names the lost one."""
    status, _, err = found
    assert status == LOST_STATUS, err[-3000:]
    assert err.count("\n") == 1 and err.startswith(f"error: worker {lost} (")
    assert "was lost" in err
    assert "start the same command (without --overwrite) on all workers to resume" in err


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """``uninterrupted(script)`` is the folder of a run of two workers that nothing happened to."""
    folders: dict[str, Path] = {}

    def run(script):
        if script not in folders:
            folders[script] = tmp_path_factory.mktemp("whole") / "run"
            check_finished(start_workers(2, *command(script, folders[script])))
        return folders[script]

    return run


def check_finished(processes):
    """Both have; the second has said nothing but whom it followed."""
    (status, _, err), (other_status, out, other_err) = ends(processes)
    assert (status, other_status) == (0, 0), (err + other_err)[-3000:]
    assert (err, other_err) == ("", "")
    assert out.startswith("worker 1 of 2; worker 0, the chief, is") and out.count("\n") == 1


@long
@pytest.mark.parametrize("lost", [0, 1])
@pytest.mark.parametrize("script", NETS)
def test_a_run_goes_on_after_a_worker_was_killed(script, lost, uninterrupted, tmp_path):
    folder = tmp_path / "run"
    processes = start_workers(2, *command(script, folder), "--checkpoint_minutes=1e-9")
    await_file(folder, "checkpoints/000000-00000[1-9].npz", processes)
    processes[lost].send_signal(signal.SIGKILL)
    since = time.monotonic()
    found = ends(processes)
    assert time.monotonic() - since < 60
    assert found[lost][0] == -signal.SIGKILL
    check_loss(found[1 - lost], lost)
    assert not (folder / "summary.json").exists()
    check_finished(start_workers(2, *command(script, folder)))
    last = "checkpoints/000002-000000.npz"
    assert_same_run(uninterrupted(script), folder, (last,), FILES[script])


@long
def test_all_stop_and_save_when_one_is_asked_to(uninterrupted, tmp_path):
    folder, script = tmp_path / "run", "pretrain_tte.py"
    processes = start_workers(2, *command(script, folder), "--checkpoint_minutes=1e-9")
    await_file(folder, "checkpoints/000000-000001.npz", processes)
    processes[1].send_signal(signal.SIGTERM)
    (status, _, err), (other_status, _, other_err) = ends(processes)
    assert (status, other_status, other_err) == (143, 143, "")
    assert err.startswith("interrupted (SIGTERM) after") and err.count("\n") == 1
    check_finished(start_workers(2, *command(script, folder)))
    assert_same_run(
        uninterrupted(script), folder, ("checkpoints/000002-000000.npz",), FILES[script]
    )


@long
def test_workers_with_other_settings_are_refused(tmp_path):
    folder = tmp_path / "run"
    found = ends(start_workers(
        2, *command("pretrain_tte.py", folder), each=lambda index: [f"--seed={index}"]
    ))
    for status, _, err in found:
        assert status == 2 and err.count("\n") == 1
        assert "worker 1 (localhost:" in err and "--seed: 0 in worker 0, 1 in worker 1" in err
    assert not folder.exists()


# Two hosts


def ip(*words):
    done = subprocess.run(["ip", *words], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")


@pytest.fixture
def hosts():
    """Two network namespaces with a link between them: prefixes of commands, and addresses."""
    names = ["worker-a", "worker-b"]
    try:
        with contextlib.ExitStack() as stack:
            for name in names:
                ip("netns", "add", name)
                stack.callback(ip, "netns", "delete", name)
            ip("link", "add", "veth-a", "netns", names[0], "type", "veth",
               "peer", "name", "veth-b", "netns", names[1])
            for name, place, letter in zip(names, (1, 2), "ab", strict=True):
                inside = ("netns", "exec", name, "ip")
                ip(*inside, "address", "add", f"10.213.0.{place}/24", "dev", f"veth-{letter}")
                ip(*inside, "link", "set", f"veth-{letter}", "up")
                ip(*inside, "link", "set", "lo", "up")
            addresses = [f"10.213.0.{place}:23456" for place in (1, 2)]
            yield [("ip", "netns", "exec", name) for name in names], addresses
    except OSError as error:
        pytest.skip(f"network namespaces are not permitted here: {error}")


def set_link(state):
    ip("netns", "exec", "worker-b", "ip", "link", "set", "veth-b", state)


@long
def test_two_hosts_whose_link_is_cut(hosts, uninterrupted, tmp_path):
    prefix, addresses = hosts
    folder, script = tmp_path / "run", "train_w_distill.py"
    words = command(script, folder)
    processes = start_workers(
        2, *words, "--checkpoint_minutes=1e-9", addresses=addresses, prefix=prefix
    )
    await_file(folder, "checkpoints/000000-00000[1-9].npz", processes)
    set_link("down")
    since = time.monotonic()
    found = ends(processes)
    assert time.monotonic() - since < 60
    for index in (0, 1):
        check_loss(found[index], 1 - index)
    set_link("up")
    check_finished(start_workers(2, *words, addresses=addresses, prefix=prefix))
    last = "checkpoints/000002-000000.npz"
    assert_same_run(uninterrupted(script), folder, (last,), FILES[script])


@long
def test_time_is_up_where_the_link_is_down(hosts, tmp_path):
    prefix, addresses = hosts
    set_link("down")
    words = (*command("pretrain_tte.py", tmp_path / "run"), "--connect_minutes=0.05")
    for status, _, err in ends(start_workers(2, *words, addresses=addresses, prefix=prefix)):
        assert status == 2 and err.count("\n") == 1 and "within 3 s" in err
