import csv
import dataclasses
import json
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import keras
import numpy as np
import pytest
from absl import flags

import compare
from experiment.grid.claims import clear
from experiment.grid.runs import FAILED, FINISHED, WAITING, Outcome, Run, survey
from experiment.grid.shards import Shard
from experiment.report import tables
from experiment.report.comparison import (
    markdown_text,
    method_rows,
    terminal_text,
    verdict,
    write_report,
)
from experiment.run.folder import DATA, NETWORKS, RunFolder
from registry import UserError
from settings.distillation import Settings, determining_settings
from settings.networks import create_method
from settings.run_setup import load_data
from tests.commands import own_flags, run_script
from tests.warm_python import warm_python

ROOT = Path(__file__).parents[1]
LAST = {
    "None": [0.40, 0.42, 0.41],
    "FSP": [0.43, 0.41, None],  # the third one failed
    "SSKD_SVD(num_dfv=2)": [0.45, 0.46, 0.47],
}
SPEED = {
    "None": [300.0, 310.0, 100.0], "FSP": [150.0, 160.0, 170.0], "Soft_logits": [200.0] * 3,
    "SSKD_SVD(num_dfv=2)": [240.0] * 3,
}


def summary(last, speed, teacher_top1):
    return {
        "student_top1": last + 0.01, "student_top1_last": last, "student_top1_best": last + 0.01,
        "student_top5_last": last + 0.3, "images_per_second": speed, "seconds": 60.0,
        "teacher_top1": teacher_top1, "parameters": 1000, "flops": 2000,
    }


def outcomes(teacher=0.60, methods=LAST):
    found = [Outcome(Run("teacher", 0, Path("c/teacher"), (), {}), FINISHED,
                     summary(teacher - 0.01, 90.0, None))]
    for seed in range(3):
        for name in methods:
            run = Run(name, seed, Path("c") / name / f"seed{seed}", (), {})
            last = methods[name][seed]
            if last is None:
                found.append(Outcome(run, FAILED, error="ValueError: it"))
            else:
                measured = None if name == "None" else teacher
                found.append(Outcome(run, FINISHED, summary(last, SPEED[name][seed], measured)))
    return found


def pm(values):
    return f"{100 * np.mean(values):.2f} ± {100 * np.std(values, ddof=1):.2f}"


def test_table_is_numpys():
    table = {row["method"]: row for row in method_rows(outcomes())}
    assert list(table) == list(LAST)
    none, fsp, svd = table.values()
    assert none["last epoch"] == pm(LAST["None"]) and none["gain"] == "-"
    assert none["best epoch"] == pm(np.array(LAST["None"]) + 0.01)
    assert [row["n"] for row in table.values()] == [3, 2, 3]
    assert [row["failed"] for row in table.values()] == [0, 1, 0]
    assert fsp["last epoch"] == pm([0.43, 0.41])
    assert fsp["gain"] == "+1.00 ± 2.83"  # 0.03 and -0.01 of the seeds that both have
    gain = np.subtract(LAST["SSKD_SVD(num_dfv=2)"], LAST["None"])
    assert svd["gain"] == f"+{pm(gain)}"
    assert [row["step cost"] for row in table.values()] == ["1.00 x", "1.94 x", "1.25 x"]


def test_students_that_were_not_trained_to_classify_have_no_accuracy(tmp_path):
    """As with --main_loss none and a method that compares maps: their top-1 is about chance."""
    methods = {"FSP": [0.01] * 3, "Soft_logits": [0.40, 0.42, 0.41]}
    found = outcomes(methods=methods)
    for each in found:
        if each.run.group != "teacher":
            trained = each.run.group == "Soft_logits"
            each.summary = {**each.summary, "classification_trained": trained}
    fsp, soft = method_rows(found)
    assert (fsp["last epoch"], fsp["best epoch"], fsp["n"]) == ("-", "-", 3)
    assert soft["last epoch"] == pm(methods["Soft_logits"])
    said = "Not judged: students of FSP were not trained to classify; score their features"
    assert verdict(found).startswith(said)
    assert compare.describe(found[1].summary).startswith("not trained to classify")
    write_report(found, tmp_path, "python compare.py")
    written = list(csv.DictReader((tmp_path / "runs.csv").open()))
    assert {row["top1_last"] for row in written if row["method"] == "FSP"} == {""}
    assert {row["seconds"] for row in written if row["method"] == "FSP"} == {"60.0"}


def test_table_of_nothing_yet():
    waiting = [Outcome(Run(name, 0, Path(name), (), {}), WAITING) for name in ("None", "FSP")]
    row = method_rows(waiting)[1]
    assert row == {"method": "FSP", "n": 0, "last epoch": "-", "best epoch": "-", "gain": "-",
                   "step cost": "-", "failed": 0}
    assert verdict(waiting).startswith("Not judged: there is no finished run of None")


@pytest.mark.parametrize(
    ("teacher", "better"),
    [(0.60, True), (0.431, True), (0.429, False), (0.41, False), (0.30, False)],
)
def test_a_teacher_has_to_beat_none_by_two_deviations(teacher, better):
    # None: 0.41 ± 0.01
    said = verdict(outcomes(teacher))
    assert said.startswith(
        "The teacher is better than None: " if better
        else "The teacher is NOT clearly better than None, so the table says little"
    )
    assert f"{100 * teacher:.2f} %" in said
    distance = abs(teacher - 0.41) / 0.01
    assert f"{distance:.1f} deviations {'above' if teacher >= 0.41 else 'below'}" in said
    assert terminal_text(outcomes(teacher)).startswith(said[:60])
    assert said in markdown_text(outcomes(teacher), "python compare.py").splitlines()[:4]


def test_methods_that_harm_are_said_to_harm(monkeypatch):
    # Mean gain and half its interval, 4.30 standard errors: A -0.03 and 0.025, B -0.017 and 0.014,
    # C 0.03 and 0.025, D -0.21 and 0.0025 (of the least deviation), E 0.02 and 0.05.
    methods = {"None": [0.40, 0.42, 0.41], "A": [0.38, 0.38, 0.38], "B": [0.39, 0.40, 0.39],
               "C": [0.43, 0.46, 0.43], "D": [0.19, 0.21, 0.2], "E": [0.42, 0.46, 0.41]}
    monkeypatch.setattr(sys.modules[__name__], "SPEED", dict.fromkeys(methods, [100.0] * 3))
    said = verdict(outcomes(methods=methods))
    assert said.endswith(
        "Compared with None (95 % interval of the gain): better: C; worse: A, B, D; "
        "not clearly different: E."
    )
    one = [
        each for each in outcomes(methods=methods) if each.run.seed == 0 or each.run.group != "E"
    ]
    assert verdict(one).endswith("; one seed in common: E.")


def test_what_cannot_be_judged():
    without = outcomes(methods={name: LAST[name] for name in list(LAST)[1:]})
    assert verdict(without).startswith("Not judged: there is no finished run of None")
    one = verdict([outcome for outcome in outcomes() if outcome.run.seed == 0])
    assert one.startswith("Not judged: None has only one run") and "give --seeds 3 or more" in one
    assert "teacher's top-1 is not known" in verdict(
        [outcome for outcome in outcomes() if outcome.run.group == "None"]
    )
    two = outcomes()
    two[-1].summary["teacher_top1"] = 0.5
    assert "different teachers, of top-1 0.5000 to 0.6000" in verdict(two)
    two[-1].run = dataclasses.replace(two[-1].run, teacher_stays=False)
    assert verdict(two).startswith("The teacher is better than None: its top-1, 60.00 %")


def test_terminal_text_fits_80_columns_and_names_failures():
    said = terminal_text(outcomes())
    assert all(len(line) <= 80 for line in said.splitlines())
    assert "failed: FSP, seed 2: ValueError: it" in said


def test_report(tmp_path):
    with RunFolder(tmp_path / "c") as folder:
        folder.open(compare.FOLDER_SETTINGS)
        write_report(outcomes(), folder, "python compare.py --seeds=3")
    with open(tmp_path / "c/runs.csv") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert rows[1] == {
        "method": "None", "seed": "0", "status": "finished", "top1_last": "0.4",
        "top1_best": "0.41000000000000003", "top5_last": "0.7", "images_per_second": "300.0",
        "seconds": "60.0", "teacher_top1": "", "parameters": "1000", "flops": "2000",
        "folder": "c/None/seed0", "error": "",
    }
    failed = [row for row in rows if row["status"] == "failed"]
    assert [(row["method"], row["seed"], row["error"]) for row in failed] == [
        ("FSP", "2", "ValueError: it")
    ]
    text = (tmp_path / "c/comparison.md").read_text()
    assert tables.markdown_table(method_rows(outcomes())) in text
    assert "    python compare.py --seeds=3" in text
    assert "- failed: FSP, seed 2: ValueError: it" in text
    assert (tmp_path / "c/comparison.png").stat().st_size > 1000


def by_method(methods, **given):
    comparison = compare.Comparison(Distillation=methods)
    return compare.settings_by_method(comparison, Settings(hyper_parameters=given))


def test_hyper_parameters_go_to_the_methods_that_have_them():
    methods = by_method(
        "none, sskd-svd,SSKD_SVD(num_dfv=3, gradient=published),Soft_logits",
        gradient="exact", temperature=3.0,
    )
    assert list(methods) == [
        "None", "SSKD_SVD", "SSKD_SVD(num_dfv=3,gradient=published)", "Soft_logits"
    ]
    none, svd, three, soft = map(create_method, methods.values())
    assert none.settings() == {"head_share": 0.0}
    assert (svd.num_dfv, svd.gradient) == (1, "exact")
    assert (three.num_dfv, three.gradient) == (3, "published")  # what is said with a method wins
    assert soft.temperature == 3.0


@pytest.mark.parametrize(
    ("methods", "given", "message"),
    [
        ("None,FSP", {"num_dfv": 2}, "None and FSP have no hyper-parameter 'num_dfv'"),
        ("None,none", {}, "None twice"),
        ("FSP,fsp()", {}, "FSP twice"),
        ("None,FSB", {}, "did you mean 'FSP'"),
        ("None,SSKD_SVD(num=2)", {}, "no hyper-parameter 'num'"),
        ("SSKD_SVD", {"num_dfv": "many"}, "num_dfv must be a whole number, not 'many'"),
        (" , ", {}, "empty"),
        ("None,AT,SP", {"weight": 3}, r"AT and SP have .*as in --Distillation \"AT\(weight=3\)\""),
        ("None,AT+SP", {"weight": 3}, "AT and SP have a hyper-parameter 'weight'"),
    ],
)
def test_wrong_methods(methods, given, message):
    with pytest.raises(UserError, match=message):
        by_method(methods, **given)


def test_folder_names_need_no_quotes():
    assert compare.folder_name("FSP") == "FSP"
    assert compare.folder_name("SSKD_SVD(num_dfv=2,solver=svd)") == "SSKD_SVD-num_dfv=2-solver=svd"
    assert compare.folder_name("AT(weight=3)+SP(weight=2)") == "AT-weight=3+SP-weight=2"
    assert compare.folder_name("MLKD(temperatures=2;3)") == "MLKD-temperatures=2-3"


def call(*arguments, cwd):
    return subprocess.run(
        [warm_python(), str(ROOT / "compare.py"), *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
    )


def test_dry_run_hands_on_what_was_given_and_nothing_else(tmp_path):
    (tmp_path / "preset").write_text("--net=mobilenet\n--epochs=7\n--num_dfv=2\n")
    done = call(
        "--flagfile=preset", "--Distillation=None,SSKD_SVD(solver=svd)", "--seeds=2", "--seed=5",
        "--epochs=3", "--noflip", "--teacher_options=width=8,first=8", "--teacher_epochs=4",
        "--main_loss=none", "--compare_dir=c", "--dry_run", cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line for line in lines if not line.startswith(" ")] == [
        "waiting: teacher, seed 5", "waiting: None, seed 5",
        "waiting: SSKD_SVD(solver=svd), seed 5", "waiting: None, seed 6",
        "waiting: SSKD_SVD(solver=svd), seed 6", "5 runs: 5 waiting",
    ]
    flags = [set(line.replace("'", "").split()[2:]) for line in lines if line.startswith(" ")]
    assert flags[0] == {
        "--net=mobilenet", "--noflip", "--student_net=MobileNet_teacher", "--epochs=4", "--seed=5",
        "--student_options=width=8,first=8", "--Distillation=None", "--train_dir=c/teacher",
    }
    shared = {"--net=mobilenet", "--noflip", "--epochs=3", "--main_loss=none"}
    assert flags[3] == shared | {"--Distillation=None", "--seed=6", "--train_dir=c/None/seed6"}
    assert flags[4] == shared | {
        "--teacher_options=width=8,first=8", "--teacher_epochs=4", "--teacher=c/teacher",
        "--Distillation=SSKD_SVD(solver=svd)", "--num_dfv=2", "--seed=6",
        "--train_dir=c/SSKD_SVD-solver=svd/seed6",
    }
    assert not (tmp_path / "c").exists()


def settings_by_run(methods, **given):
    comparison = compare.Comparison(Distillation=methods, compare_dir="c", seeds=1)
    runs = {run.group: run for run in compare.plan(comparison, Settings(**given))}
    return {name: run.settings for name, run in runs.items()}


@pytest.mark.parametrize("given", [{}, {"teacher": "t"}, {"teacher_options": ("width=8",)}])
def test_runs_of_none_are_the_same_beside_methods_with_a_teacher(given):
    """So a comparison of None alone can go on with other methods, and the other way round."""
    assert settings_by_run("None")["None"] == settings_by_run("None,AT", **given)["None"]


def test_all_methods_train_by_one_recipe(tmp_path, monkeypatch, capsys):
    """By itself None would train a paper's network of such data by the paper's recipe, and DML two
    networks of which one has no batch normalisation at a lower rate."""
    file = tmp_path / "data.npz"
    x, y = np.zeros([40, 32, 32, 3], np.uint8), np.arange(40) % 2
    x[::2] = 255
    np.savez(file, x_train=x, y_train=y, x_test=x, y_test=y)
    given = {
        "dataset": f"npz:{file}", "teacher_net": "VGG_teacher", "student_net": "ResNet_student",
        "teacher_options": ("width=8",),
    }
    rates = {
        name: settings["learning_rate"]
        for name, settings in settings_by_run("None,AT,DML", **given).items() if name != "teacher"
    }
    assert rates == {"None": 5e-4, "AT": 5e-4, "DML": 5e-4}
    alone = settings_by_run("None,AT", **given)
    assert alone["None"]["learning_rate"] == alone["AT"]["learning_rate"] > 5e-4
    # The commands say so where a run would choose otherwise by itself.
    comparison = compare.Comparison(Distillation="None,DML", compare_dir="c", seeds=1)
    none = next(run for run in compare.plan(comparison, Settings(**given)) if run.group == "None")
    said = run_script(monkeypatch, capsys, *none.command[1:], "--dry_run", "--images_per_second=9")
    assert " at 0.0005, " in " ".join(said.split())


def test_a_peer_is_trained_only_where_a_teacher_is_given():
    """DML is for two networks that learn together, as by train_w_distill.py --Distillation DML."""
    def plan(methods, **given):
        comparison = compare.Comparison(Distillation=methods, compare_dir="c", seeds=1)
        return {run.group: run for run in compare.plan(comparison, Settings(**given))}

    assert "teacher" not in plan("None,DML")
    runs = plan("None,DML,AT,DML+AT", teacher_options=("width=8",))
    assert runs["AT"].needs is runs["teacher"]
    for name in ("DML", "DML+AT"):
        assert runs[name].needs is None and runs[name].settings["teacher"] is None
        assert runs[name].settings["teacher_options"] == ("width=8",)
    alone = Settings(Distillation="DML", teacher_options=("width=8",)).spelled()
    assert determining_settings(alone, create_method(alone)) == runs["DML"].settings
    assert plan("DML", teacher="t")["DML"].settings["teacher"] == "t"


def test_runs_that_began_with_a_trained_teacher_name_the_ways_to_go_on(
    tmp_path, monkeypatch, capsys
):
    """As DML's did, whose peer a comparison trained first, in former versions."""
    monkeypatch.chdir(tmp_path)
    comparison = compare.Comparison(Distillation="AT,DML", compare_dir="c", seeds=1)
    with RunFolder("c") as folder:
        folder.open(compare.FOLDER_SETTINGS)
    for run in compare.plan(comparison, Settings(teacher="c/teacher")):
        with RunFolder(run.folder) as folder:
            folder.open(run.settings)
    words = [ROOT / "compare.py", "--Distillation=AT,DML", "--compare_dir=c", "--seeds=1",
             "--dry_run"]
    with pytest.raises(AssertionError, match=(
        r"c/DML/seed0 began with the teacher c/teacher, but DML now begins with an untrained "
        r"peer: remove c/DML to start again like that, or give --teacher=c/teacher to go on as "
        r"before"
    )):
        run_script(monkeypatch, capsys, *words)
    assert "3 waiting" in run_script(monkeypatch, capsys, *words, "--overwrite")
    said = run_script(monkeypatch, capsys, *words, "--teacher=c/teacher")
    assert "2 runs: 2 unfinished" in said
    shutil.rmtree("c/DML")
    said = run_script(monkeypatch, capsys, *words)
    assert "unfinished: AT" in said and "waiting: DML" in said


def test_runs_share_the_teachers_outputs(tmp_path):
    def plan(methods, **given):
        comparison = compare.Comparison(Distillation=methods, compare_dir=str(tmp_path), seeds=1)
        return compare.plan(comparison, Settings(cache_teacher=True, **given))

    teacher, none, *runs = plan("None,DKD,RKD")
    shared = {f"--cache_dir={tmp_path / 'teacher_cache'}", "--cache_outputs=embedding,logits"}
    for run in runs:
        assert {"--cache_teacher", *shared} <= set(run.command)
        assert run.settings["cache_teacher"]
    for run in (teacher, none):
        assert not run.settings["cache_teacher"] and not shared & set(run.command)
    (*_, run) = plan("DKD", cache_dir="elsewhere")
    assert {"--cache_dir=elsewhere", "--cache_outputs=logits"} <= set(run.command)
    with pytest.raises(UserError, match="but FSP reads maps"):
        plan("None,DKD,FSP")


@pytest.mark.parametrize(
    ("given", "epochs"), [([], 12), (["--teacher_epochs=4"], 4), (["--epochs=3"], 3)]
)
def test_the_teachers_command_is_one_that_runs(tmp_path, monkeypatch, capsys, given, epochs):
    """Also where no epochs are given, which are then the script's own to choose."""
    monkeypatch.chdir(tmp_path)
    script = ROOT / "compare.py"
    out = run_script(monkeypatch, capsys, script, "--Distillation=FSP", *given, "--dry_run")
    command = next(line for line in out.splitlines() if line.startswith(" "))
    words = [*shlex.split(command)[1:], "--dry_run", "--images_per_second=100"]
    said = run_script(monkeypatch, capsys, *words)
    assert "VGG_teacher" in said and f": {epochs} epochs, batches of" in " ".join(said.split())


def test_a_comparison_in_the_folder_of_a_run(tmp_path, monkeypatch, capsys):
    with RunFolder(tmp_path / "run") as folder:
        folder.open({"seed": 0})
    words = [ROOT / "compare.py", "--Distillation=None", f"--compare_dir={tmp_path / 'run'}",
             "--dry_run"]
    with pytest.raises(AssertionError, match="holds a run with other settings"):
        run_script(monkeypatch, capsys, *words)
    assert "waiting: None" in run_script(monkeypatch, capsys, *words, "--overwrite")


def test_the_jobs_of_slurm_are_the_same_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = run_script(
        monkeypatch, capsys, ROOT / "compare.py", "--Distillation=AT,FSP", "--seeds=2", "--seed=5",
        "--num_dfv=2", "--Distillation=SSKD_SVD,AT(weight=3)", "--noflip", "--compare_dir=c",
        "--takeover_seconds=60", "--submit=slurm", "--jobs=7", "--overwrite",
        "--job_options=partition=gpu,time=240", "--dry_run",
    )
    head, *_, words, place = out.splitlines()
    assert head == "7 Slurm jobs as one array, with partition=gpu, time=240, each:"
    assert shlex.split(words)[1] == str(ROOT / "compare.py")
    assert set(shlex.split(words)[2:]) == {
        "--Distillation=SSKD_SVD,AT(weight=3)", "--seeds=2", "--seed=5", "--num_dfv=2", "--noflip",
        "--compare_dir=c", "--takeover_seconds=60.0",
    }
    assert place == "    output in c/jobs" and not list(tmp_path.iterdir())


def test_flags_of_a_single_run_that_trains_nothing_are_not_there():
    with own_flags(compare.define):
        assert not {"images_per_second", "list_layers"} & set(flags.FLAGS)
        with pytest.raises(flags.UnrecognizedFlagError, match="list_layers"):
            flags.FLAGS(["compare.py", "--list_layers"])
        compare.given()


def test_a_shard_lists_its_own_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    out = run_script(
        monkeypatch, capsys, ROOT / "compare.py", "--Distillation=None,FSP", "--seeds=2",
        "--shard=2/3", "--dry_run",
    )
    assert [line for line in out.splitlines() if not line.startswith(" ")] == [
        "waiting: None, seed 0", "waiting: FSP, seed 1", "2 runs: 2 waiting"
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shard": "3/2"}, "expected NUMBER/COUNT"),
        ({"shard": "1/2", "overwrite": True}, "remove what other shards have begun"),
        ({"shard": "1/2", "submit": "slurm"}, "leave out --shard"),
        ({"job_options": ("time=3",)}, "--job_options needs --submit slurm"),
        ({"job_options": ("time",), "submit": "slurm"}, "expected NAME=VALUE"),
    ],
)
def test_what_does_not_go_together_on_several_machines(given, message):
    with pytest.raises(UserError, match=message):
        compare.check_sharing(compare.Comparison(**given))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("--teacher=missing.keras",), r"run FSP: missing\.keras does not exist"),
        (("--student_taps=stage1", "--teacher_taps=stage1"), "run FSP: .*at least 2, but got 1"),
        (("--quantize=int8", "--student_model={files}/swish.keras"),
         r"run None: layer 'odd' \(Conv2D\) cannot be quantised: its activation is silu"),
        (("--export=litert-int8", "--train_images=50"),
         "run None: --export litert-int8 calibrates on 100 training images"),
    ],
)
def test_what_does_not_fit_one_method_is_refused_before_another_is_trained(
    tmp_path, tmp_path_factory, monkeypatch, given, message
):
    files = tmp_path_factory.mktemp("files")
    image = keras.Input((32, 32, 3))
    maps = keras.layers.Conv2D(8, 3, activation="swish", name="odd")(image)
    logits = keras.layers.Dense(10)(keras.layers.Flatten()(maps))
    keras.Model(image, logits).save(files / "swish.keras")
    given = [word.format(files=files) for word in given]
    monkeypatch.chdir(tmp_path)
    words = ["--Distillation=None,FSP", "--net=MobileNet", "--train_images=200", "--epochs=1"]
    with own_flags(compare.define):
        flags.FLAGS(["compare.py", *words, *given])
        with pytest.raises(UserError, match=message):
            compare.main(*compare.given())
    assert not [*tmp_path.iterdir()]


def test_a_comparison_of_own_networks_goes_on_with_these_alone(tmp_path, capsys):
    """The teacher's own run has the teacher as its student."""
    image = keras.Input((8, 8, 3))
    maps = keras.layers.Conv2D(4, 3, name="maps")(image)
    pooled = keras.layers.GlobalAveragePooling2D()(maps)
    for name in ("teacher", "student"):
        model = keras.Model(image, keras.layers.Dense(10)(pooled))
        model.save(tmp_path / f"{name}.keras")
    words = [
        f"--teacher_model={tmp_path}/teacher.keras", f"--student_model={tmp_path}/student.keras",
        "--teacher_epochs=2", "--epochs=2", "--Distillation=None,RKD", "--image_size=8",
        f"--compare_dir={tmp_path}/c", "--seeds=1", "--dry_run",
    ]

    def main(begins=False):
        with own_flags(compare.define):
            flags.FLAGS(["compare.py", *words])
            given = compare.given()
            if begins:
                with RunFolder(tmp_path / "c") as folder:
                    folder.open(compare.FOLDER_SETTINGS)
                for run in compare.plan(*given):
                    with RunFolder(run.folder) as folder:
                        folder.open(run.settings)
                        folder.keep_facts(NETWORKS, run.networks())
            return compare.main(*given)

    assert main() == 0
    assert main(begins=True) == 0
    assert capsys.readouterr().out.count("unfinished: ") == 3
    keras.Model(image, keras.layers.Dense(10)(pooled)).save(tmp_path / "teacher.keras")
    with pytest.raises(UserError, match="the networks have changed .*c/teacher began: student_mod"):
        main()


def test_a_run_is_finished_when_its_exported_files_are_there():
    comparison = compare.Comparison(Distillation="AT", compare_dir="c", seeds=1)
    teacher, student = compare.plan(comparison, Settings(export="keras,saved_model"))
    assert (list(teacher.files), list(student.files)) == ([], ["student-raw.keras", "export/1"])


@pytest.mark.parametrize(
    ("given", "message"),
    [(["--submit=slurm"], "needs the package submitit"), ([], "in use by another process")],
)
def test_what_is_refused_removes_nothing(tmp_path, monkeypatch, given, message):
    monkeypatch.setitem(sys.modules, "submitit", None)
    monkeypatch.setattr(compare, "check_methods", lambda *_: None)  # which takes a while
    words = ["--Distillation=None", "--seeds=2", f"--compare_dir={tmp_path}", "--overwrite"]
    with own_flags(compare.define):
        flags.FLAGS(["compare.py", *words, *given])
        given = compare.given()
    runs = compare.plan(*given)
    with RunFolder(tmp_path) as folder:
        folder.open(compare.FOLDER_SETTINGS)
        folder.output("comparison.md").touch()
    for run in runs:
        carried_out(run)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    with RunFolder(runs[-1].folder) as folder:
        folder.open(runs[-1].settings)
        before.pop(runs[-1].folder / ".lock")
        with pytest.raises(UserError, match=message):
            compare.main(*given)
    after = {path: path.stat().st_mtime_ns for path in before if path.exists()}
    assert after == before


def carried_out(run):
    """The outcome of a run that is carried out in this moment, by a stub."""
    with RunFolder(run.folder) as folder:
        folder.open(run.settings, networks=run.networks())
        folder.finish(summary(0.5, 100.0, 0.6))
    outcome = Outcome(run)
    outcome.finish()
    return outcome


@pytest.mark.parametrize("found", ["checkpoint-3.npz", "student.keras"])
def test_students_are_told_by_the_teacher_that_taught_them(tmp_path, found):
    """And not by what its folder held when the comparison began: half of a training, or what
    --overwrite removed."""
    comparison = compare.Comparison(Distillation="AT", compare_dir=str(tmp_path), seeds=1)
    place = tmp_path / "teacher"
    with RunFolder(place) as folder:
        folder.open({})
        folder.output(found).write_text("a teacher of before")
    teacher, student = compare.plan(comparison, Settings())
    clear([teacher])
    (place / "student.keras").write_text("the teacher")
    outcome = carried_out(student)
    assert (outcome.status, outcome.error) == (FINISHED, "")
    assert survey([student])[0].status == FINISHED
    (place / "student.keras").write_text("another teacher")
    with pytest.raises(UserError, match="the networks have changed"):
        survey([student])


def test_runs_of_other_data_are_not_compared(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arrays = {
        "x_train": np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8),
        "y_train": np.arange(24) % 4,
    }
    arrays |= {"x_test": arrays["x_train"][:12], "y_test": arrays["y_train"][:12]}
    np.savez("data.npz", **arrays)
    comparison = compare.Comparison(Distillation="None,AT", compare_dir=".", seeds=2)
    settings = Settings(dataset="npz:data.npz", teacher="t")
    outcomes = [Outcome(run) for run in compare.plan(comparison, settings)]
    outcomes[0].status, outcomes[1].status = "finished", "unfinished"
    for each in outcomes[:2]:
        with RunFolder(each.run.folder) as folder:
            folder.open({})
            folder.keep_facts(DATA, settings.load_data().facts())
    compare.check_data(outcomes)
    np.savez("data.npz", **arrays | {"y_test": arrays["y_test"][::-1]})
    with pytest.raises(UserError, match="have changed since the run in None/seed0 began: test im"):
        compare.check_data(outcomes)
    for each in outcomes:  # nothing is left to train, and all have seen the same data
        each.status = "finished"
    compare.check_data(outcomes[:2])
    Path("AT/seed0/data.json").unlink()
    with RunFolder("AT/seed0") as folder:
        folder.open({})
        folder.keep_facts(DATA, settings.load_data().facts())
    with pytest.raises(UserError, match="have changed since the run in AT/seed0 began: test im"):
        compare.check_data(outcomes[:2])


def test_a_teacher_may_be_trained_by_labels_that_its_students_do_not_need(tmp_path, monkeypatch):
    """The run of the teacher keeps N labels a class; the students' runs have all images as they
    are. Both go on, though the facts of their data differ."""
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), np.uint8)
    np.savez("data.npz", x_train=images, y_train=np.arange(24) % 4, x_test=images[:8],
             y_test=np.arange(8) % 4)
    settings = Settings(dataset="npz:data.npz", main_loss="none", labelled_per_class=2)
    comparison = compare.Comparison(Distillation="SSKD_SVD,AT", compare_dir=".", seeds=1)
    outcomes = [Outcome(run) for run in compare.plan(comparison, settings)]
    assert [each.run.group for each in outcomes] == ["teacher", "SSKD_SVD", "AT"]
    labels = []
    for each, status in zip(outcomes, ("finished", "unfinished", "waiting"), strict=True):
        each.status = status
        if status != "waiting":
            facts = load_data(each.run.given).facts()
            labels.append(facts)
            with RunFolder(each.run.folder) as folder:
                folder.open({})
                folder.keep_facts(DATA, facts)
    assert labels[0] != labels[1]
    data = compare.check_data(outcomes)
    assert data.facts() == labels[1]


def test_finished_runs_of_other_methods_are_told(tmp_path):
    for method in ("None", "AT", "SSKD_SVD(num_dfv=2)"):
        folder = tmp_path / method / "seed0"
        folder.mkdir(parents=True)
        (folder / "summary.json").write_text(json.dumps({"method": method}))
    (tmp_path / "FSP" / "seed0").mkdir(parents=True)
    (tmp_path / "damaged" / "seed0").mkdir(parents=True)
    (tmp_path / "damaged" / "seed0" / "summary.json").write_text("{")
    runs = [Run(name, 0, tmp_path / name / "seed0", (), {}) for name in ("None", "FSP")]
    (told,) = compare.describe_left_out(tmp_path, runs)
    assert "also has finished runs of AT, SSKD_SVD(num_dfv=2): name them too" in told
    runs += [
        Run(name, 1, tmp_path / name / "seed1", (), {}) for name in ("AT", "SSKD_SVD(num_dfv=2)")
    ]
    assert compare.describe_left_out(tmp_path, runs) == []


@pytest.mark.slow
def test_a_real_comparison_finished_continued_and_refused(tmp_path, monkeypatch):
    words = [
        "--net=VGG_stride", "--teacher_options=width=8", "--student_options=width=8", "--epochs=1",
        "--train_images=200", "--compare_dir=c", "--Distillation=None,FSP", "--seeds=1",
    ]
    with ThreadPoolExecutor() as pool:  # two at once
        both = list(pool.map(lambda _: call(*words, cwd=tmp_path), range(2)))
    for done in both:
        assert done.returncode == 0, done.stdout + done.stderr
        assert "Not judged: None has only one run" in done.stdout
    tables = [done.stdout.partition("Not judged")[2] for done in both]
    assert tables[0] == tables[1]
    logs = [path.read_text() for path in (tmp_path / "c").rglob("run.log")]
    assert [log.count("$ ") for log in logs] == [1, 1, 1]
    assert not [path.name for path in (tmp_path / "c").rglob("*.claim.*")]
    folder = tmp_path / "c/FSP/seed0"
    made = json.loads((folder / "summary.json").read_text())
    teacher = json.loads((tmp_path / "c/teacher/summary.json").read_text())
    assert made["teacher_top1"] == pytest.approx(teacher["student_top1"], abs=1e-6)
    assert "1/1" in (folder / "run.log").read_text()

    (tmp_path / "c/None/seed0/summary.json").unlink()  # as if cut off after the last epoch
    (folder / "student.keras").write_text("nothing is run that reads it")
    done = call(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [line[:20] for line in done.stdout.splitlines() if "run" in line[:20]] == [
        "2 of 3 runs are fini", "run 2/3  None, seed "
    ]

    monkeypatch.chdir(tmp_path)
    with own_flags(compare.define):
        flags.FLAGS(["compare.py", *words, "--momentum=0.5"])
        with pytest.raises(UserError, match="momentum: 0.9 -> 0.5"):
            compare.main(*compare.given())
    (tmp_path / "c/teacher/student.keras").write_text("another teacher")
    with own_flags(compare.define):
        flags.FLAGS(["compare.py", *words, "--dry_run"])
        with pytest.raises(UserError, match="networks have changed since the run in .*FSP/seed0"):
            compare.main(*compare.given())


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    ("sharing", "division"),
    [({"takeover_seconds": 77.0}, ("Claims", 77.0)), ({"shard": "2/3"}, ("Shards", Shard(2, 3)))],
)
def test_how_runs_are_shared_out_is_as_set(tmp_path, monkeypatch, sharing, division, overwrite):
    found = {"cleared": False}
    runs = [Run("None", 0, tmp_path / "c/None/seed0", (), {})]
    for name, double in {
        "plan": lambda *_: runs,
        "survey": lambda runs, overwrite: found.update(surveyed=overwrite) or [],
        "check_data": lambda *_: None,
        "check_methods": lambda *_: None,
        "join": lambda folder, settings, reports, overwrite: found.update(joined=overwrite),
        "clear": lambda runs: found.update(cleared=True),
        "Claims": lambda seconds: ("Claims", seconds),
        "Shards": lambda shard: ("Shards", shard),
        "divide": lambda workers, gpus: ("places", workers),
        "write_report": lambda *_: None,
        "terminal_text": lambda *_: "",
        "execute": lambda *_, **given: found.update(given),
    }.items():
        monkeypatch.setattr(compare, name, double)
    comparison = compare.Comparison(
        compare_dir=str(tmp_path / "c"), workers=3, overwrite=overwrite, **sharing
    )
    assert compare.main(comparison, Settings()) == 0
    assert found == {
        "surveyed": overwrite, "joined": overwrite, "cleared": overwrite,
        "division": division, "places": ("places", 3),
    }
