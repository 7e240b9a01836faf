"""The script as a person at the keyboard sees it: what it prints, writes and refuses."""

import json
import shutil
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import dataloader
import evaluate
import nets
from dataloader.data import TEST_FACTS
from experiment.command.main import run
from experiment.run.export import export_saved_model
from registry import UserError
from settings import evaluation
from targets import scoring
from targets.encoders import open_encoder
from targets.target import Material
from tests.commands import script_caller
from tests.dataloader.pictures import picture, save
from tests.targets import small

QUICK = (
    "--fine_tuning_steps=5", "--detection_steps=5", "--metric_steps=5", "--image_size=16",
    "--train_images=200", "--fractions=0.1",
)
FIGURES = {"classification": 3, "detection": 2, "clustering": 35}


@pytest.fixture
def script(monkeypatch, capsys):
    """Call the script within this process: ``script(*arguments)`` gives status, out and err."""

    def begin():
        run(evaluate.main, evaluation.read_settings(evaluate.__doc__))

    return script_caller("evaluate.py", begin, monkeypatch, capsys)


def save_run(
    path, encoder, tasks=("rotation", "reconstruction"), flip=None, export=False, **hyper_parameters
):
    """The folder of a TTE run of `encoder`, as far as evaluate.py reads it; `export`: with its
    SavedModel."""
    path.mkdir(parents=True)
    embedding = encoder.model.output["embedding"]
    keras.Model(encoder.model.input, embedding, name=encoder.name).save(path / "encoder.keras")
    statistics = {
        "mean": encoder.standardize.mean, "deviation": encoder.standardize.deviation
    }
    (path / "summary.json").write_text(
        json.dumps({
            "kind": "tte", "image_shape": [16, 16, 3], "preprocessing": statistics, "settings": {
                "tasks": ",".join(tasks), "hyper_parameters": hyper_parameters, "flip": flip,
            },
        })
    )
    if export:
        export_saved_model(
            encoder.model, path / "export" / "1", image_shape=(16, 16, 3),
            outputs=lambda found: {"embedding": found["embedding"]}, **statistics,
        )
    return path


@pytest.mark.slow
def test_encoders_side_by_side(script, tmp_path):
    save_run(tmp_path / "run", small.encoder(seed=1), export=True)
    names = [f"{tmp_path}/run", f"random:{tmp_path}/run", f"{tmp_path}/run/export/1", "pixels"]
    arguments = (f"--encoder={','.join(names)}", "--seeds=2", f"--out_dir={tmp_path}/out", *QUICK)
    done = script(*arguments)
    assert done.status == 0, done.err
    assert all(len(line) <= 80 for line in done.out.splitlines() if str(tmp_path) not in line)
    written = json.loads((tmp_path / "out" / "targets.json").read_text())
    found = written["targets"]
    run_name, random, export, pixels = found
    assert (run_name, pixels) == ("run", "pixels") and written["seeds"] == [0, 1]
    counts = {target: len(figures) for target, figures in found[run_name].items()}
    assert counts == FIGURES and set(found[random]) == set(FIGURES)
    assert set(found[pixels]) == set(found[export]) == {"classification", "clustering"}
    for figures in found[run_name].values():
        for entry in figures.values():
            assert len(entry["values"]) == 2
            assert entry["mean"] == pytest.approx(np.mean(entry["values"]))
            assert entry["deviation"] == pytest.approx(np.std(entry["values"], ddof=1))

    # Scored from the export it gives the same numbers.
    for target, figures in found[export].items():
        for name, entry in figures.items():
            assert entry["values"] == pytest.approx(found[run_name][target][name]["values"])
    # Fresh weights are others with each seed, a saved encoder's the same.
    probes = {name: found[name]["classification"]["linear_probe"]["values"] for name in found}
    assert probes[random][0] != probes[random][1] and probes[run_name][0] == probes[run_name][1]

    for file in ("targets.png", "embedding.png", "detections-run.png",
                 "projector/projector_config.pbtxt"):
        assert (tmp_path / "out" / file).stat().st_size > 0
    again = script(*arguments)
    assert again.status == 0 and "is finished" in again.out
    assert done.out.split("classification: ")[1].split("\nin ")[0].strip() in again.out


@pytest.mark.slow
def test_each_seed_of_a_run_scores_its_own_encoder_once(script, tmp_path, monkeypatch):
    """Cut off after the first encoder of the second seed, and gone on with."""
    for seed in (0, 1):
        save_run(tmp_path / f"run/seed{seed}", small.encoder(seed=seed))
        (tmp_path / f"run/seed{seed}.log").touch()
    scored, score = [], scoring.score

    def score_and_die(own, encoder, material, seed):
        if len(scored) == 3:
            scored.append("died")
            raise KeyboardInterrupt
        scored.append(seed)
        yield from score(own, encoder, material, seed)

    monkeypatch.setattr(scoring, "score", score_and_die)
    names = f"{tmp_path}/run,{tmp_path}/run/seed0"

    def go_on():
        return script(
            f"--encoder={names}", "--seeds=2", f"--out_dir={tmp_path}/out", "--targets=clustering",
            *QUICK,
        )

    assert go_on().status == 130
    kept = json.loads((tmp_path / "out/scores.json").read_text())
    assert [len(seeds) for seeds in kept.values()] == [2, 1]
    done = go_on()
    assert done.status == 0, done.err
    assert scored == [0, 0, 1, "died", 1]
    found = json.loads((tmp_path / "out/targets.json").read_text())["targets"]
    figures = {name: each["clustering"]["recall_1"]["values"] for name, each in found.items()}
    assert figures["run"][0] == figures["seed0"][0]
    assert kept["run"][1]["clustering"]["recall_1"] == figures["run"][1] != figures["seed0"][1]
    retrained = small.encoder(seed=2)
    shutil.rmtree(tmp_path / "run/seed1")
    save_run(tmp_path / "run/seed1", retrained)
    refused = go_on()
    assert refused.status == 2 and refused.err.count("\n") == 1
    assert f"networks have changed since the run in {tmp_path}/out began" in refused.err
    assert "run/seed1: " in refused.err and "run/seed0: " not in refused.err
    refused = script(f"--encoder={tmp_path}/run", "--seeds=3", f"--out_dir={tmp_path}/other")
    assert refused.status == 2 and "has the seeds 0, 1, but seed 2 is to be" in refused.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ([], "images: held in memory (--in_memory auto)"),
        (["--in_memory=no"], "images: read from disk as they are needed (--in_memory no)"),
    ],
)
def test_it_says_where_a_folders_images_stay(script, tmp_path, given, said):
    for number in range(16):
        part, name = ("train", "test")[number // 8], "abcd"[number % 4]
        save(picture(number, (20, 20, 3)), tmp_path / "data" / part / name / f"{number}.png")
    small.encoder().model.save(tmp_path / "small.keras")
    done = script(
        f"--encoder={tmp_path}/small.keras", "--targets=clustering", "--dry_run",
        f"--dataset=folder:{tmp_path}/data", f"--out_dir={tmp_path}/out", *given,
    )
    assert done.status == 0, done.err
    assert said in done.out.splitlines()


def test_detection_alone_of_a_voc_folder(script, tmp_path):
    from PIL import Image

    from tests.dataloader.test_voc import write_xml

    for part in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (tmp_path / "voc" / part).mkdir(parents=True)
    for number in range(6):
        image = Image.fromarray(np.full([40, 40, 3], 40 * number, np.uint8))
        image.save(tmp_path / "voc" / "JPEGImages" / f"{number}.png")
        box = (9, 9, 9, 20) if number == 0 else (5, 5, 30, 30)
        write_xml(tmp_path / "voc" / "Annotations" / f"{number}.xml",
                  [("cell", box, False), ("cell", (2, 2, 20, 20), False)], size=(40, 40))
    lists = tmp_path / "voc" / "ImageSets" / "Main"
    (lists / "train.txt").write_text("0\n1\n2\n3\nabsent\n")
    (lists / "test.txt").write_text("4\n5\n")
    small.encoder().model.save(tmp_path / "small.keras")
    done = script(
        f"--encoder={tmp_path}/small.keras", "--targets=detection", f"--dataset=voc:{tmp_path}/voc",
        "--scene_size=32", "--detection_steps=3", "--seeds=1", f"--out_dir={tmp_path}/out",
    )
    assert done.status == 0, done.err
    assert "0.xml: the box of object 1 (cell) has no area; left out" in done.out
    assert "absent.xml" in done.out and "1 of 7 images left out" in done.out
    written = json.loads((tmp_path / "out" / "targets.json").read_text())
    assert set(written["targets"]["small.keras"]) == {"detection"}
    refused = script(
        f"--encoder={tmp_path}/small.keras", "--targets=detection", f"--dataset=voc:{tmp_path}/voc",
        "--max_bad=0", f"--out_dir={tmp_path}/refused",
    )
    assert refused.status == 2 and "1 of 7 images are faulty, 0 allowed" in refused.err
    assert refused.err.count("\n") == 1 and not (tmp_path / "refused").exists()


def test_bias_of_an_encoder_with_itself_is_zero(script, tmp_path):
    encoder = small.encoder()
    several = save_run(tmp_path / "several", encoder, ("rotation", "reconstruction"))
    alone = save_run(tmp_path / "alone", encoder, ("rotation",))
    other = save_run(tmp_path / "other", small.encoder(seed=3), ("reconstruction",))
    done = script(
        f"--encoder={several},{alone},{other}", "--bias", "--bias_epochs=1", "--seeds=1",
        f"--out_dir={tmp_path}/out", *QUICK,
    )
    assert done.status == 0, done.err
    found = json.loads((tmp_path / "out" / "bias.json").read_text())["several"]
    assert found["rotation"]["bias"][0] == pytest.approx(0, abs=1e-3)
    multi, single = found["reconstruction"]["multi"][0], found["reconstruction"]["single"][0]
    assert found["reconstruction"]["bias"][0] == pytest.approx(multi / single - 1)
    assert multi != single and "rotation" in done.out
    planned = script(
        f"--encoder={several},{alone}", "--bias", "--dry_run", f"--out_dir={tmp_path}/planned",
        "--image_size=16",
    )
    assert planned.status == 0 and not (tmp_path / "planned").exists()
    assert "several: no run of reconstruction alone is given; left out" in planned.out
    assert "bias of several for rotation, into" in planned.out


def test_bias_is_measured_by_the_tasks_of_the_runs(script, tmp_path, monkeypatch):
    seen, orders = [], []

    def heads(encoder, tasks, images, batches, held_out, **options):
        seen.append((tasks, images.flip))
        index = np.concatenate([batch["index"] for batch in batches])
        orders.append(index.reshape(options["epochs"], -1).tolist())
        return {task.name: {"loss": 2.0} for task in tasks}

    monkeypatch.setattr(evaluate, "retrained_heads", heads)
    encoder, asked = small.encoder(), {"reconstruction_masked": 0.5}
    several = save_run(tmp_path / "several", encoder, reconstruction_weight=3.0, **asked)
    alone = save_run(tmp_path / "alone", encoder, ("reconstruction",), **asked)
    words = [f"--encoder={several},{alone}", "--bias", "--seeds=1", "--bias_epochs=2", *QUICK]
    done = script(*words, f"--out_dir={tmp_path}/digits")
    assert done.status == 0, done.err
    assert [flip for _, flip in seen] == [False, False], "digits are not mirrored in training"
    assert [task.masked for (task,), _ in seen] == [0.5, 0.5]
    first, second = orders[0]  # the epochs of one training: all images, shuffled anew
    assert first != second and sorted(first) == sorted(second) == list(range(200))
    assert orders[1] == orders[0]

    mirrored = save_run(tmp_path / "mirrored", encoder, ("reconstruction",), flip=True)
    refused = script(
        f"--encoder={several},{mirrored}", "--bias", "--seeds=1", f"--out_dir={tmp_path}/no", *QUICK
    )
    assert refused.status == 2 and refused.err.count("\n") == 1
    assert "masked 0.5 and 0.25, mirrored images False and True" in refused.err

    larger = [*words, "--image_size=20", f"--out_dir={tmp_path}/no"]
    refused = script(*larger)
    assert refused.status == 2 and refused.err.count("\n") == 1
    assert "several was trained on 16x16x3" in refused.err and "has 20x20x3" in refused.err


def test_an_interrupted_bias_goes_on_where_it_was(script, tmp_path, monkeypatch):
    trained = []

    def heads_and_die(encoder, tasks, *_, seed, **__):
        if len(trained) == 3:
            trained.append("died")
            raise KeyboardInterrupt
        trained.append((tasks[0].name, seed))
        loss = 1.0 + len(trained) if len(trained) > 1 else np.nan
        return {tasks[0].name: {"loss": loss}}

    monkeypatch.setattr(evaluate, "retrained_heads", heads_and_die)
    for seed in range(2):
        save_run(tmp_path / f"several/seed{seed}", small.encoder())
        save_run(tmp_path / f"alone/seed{seed}", small.encoder(), ("rotation",))
    words = (f"--encoder={tmp_path}/several,{tmp_path}/alone", "--bias", "--seeds=2",
             f"--out_dir={tmp_path}/out", *QUICK)
    assert script(*words).status == 130
    done = script(*words)
    assert done.status == 0, done.err
    assert trained == [("rotation", seed) for seed in (0, 1, 0)] + ["died", ("rotation", 1)]
    found = json.loads((tmp_path / "out/bias.json").read_text())["several"]["rotation"]
    assert (found["multi"], found["single"]) == ([None, 3.0], [4.0, 6.0])
    assert found["bias"] == [None, pytest.approx(3 / 6 - 1)]


def test_detection_alone_is_scored_on_the_named_set():
    def scenes(**given):
        return evaluation.Settings(encoder=("x",), **given).spelled().scenes_name()

    assert scenes(dataset="coco/2017", targets="detection") == "coco/2017"
    assert scenes(dataset="tfds:kitti", targets="detection") == "tfds:kitti"
    assert scenes(dataset="npz:a.npz", targets="detection") == "digits"
    assert scenes(dataset="tfds:cifar100", targets="detection,classification") == "digits"


def test_pixels_that_do_not_fit_in_memory_are_refused(script, monkeypatch, tmp_path):
    def refuse(data):
        raise UserError("give other encoders than pixels")

    monkeypatch.setattr(evaluate.targets, "check_pixels", refuse)
    done = script("--encoder=pixels", "--targets=clustering", f"--out_dir={tmp_path}/out")
    assert done.status == 2 and "other encoders than pixels" in done.err
    assert not (tmp_path / "out").exists()


def test_runs_that_were_trained_on_other_data_are_told(tmp_path):
    for name, data in (("a", "digits"), ("b", "npz:one.npz"), ("c", "npz:one.npz")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "summary.json").write_text(json.dumps({"settings": {"dataset": data}}))
    settings = evaluation.Settings(
        encoder=tuple(f"{tmp_path}/{name}" for name in "abc") + ("pixels", "random:x"), seeds=1,
        targets="classification",
    )
    data = dataloader.load("digits", image_size=(8, 8))
    assert evaluate.describe_other_data(settings, data) == [
        "scored on digits (--dataset), but trained on npz:one.npz: "
        f"{tmp_path}/b, {tmp_path}/c"
    ]


def test_runs_that_were_tested_on_other_images_are_told(tmp_path):
    """What they call training images may be test images here."""
    data = dataloader.load("digits", image_size=(8, 8))
    facts = json.loads(json.dumps(data.facts()))
    others = {
        "same": facts, "larger": {**facts, "image shape": [9, 9, 3], TEST_FACTS: [
            *facts[TEST_FACTS][:2], 1.0]},
        "other": {**facts, TEST_FACTS: [*facts[TEST_FACTS][:2], 1.0]},
        "fewer": {**facts, "image shape": [9, 9, 3], TEST_FACTS: [7, *facts[TEST_FACTS][1:]]},
    }
    for name, kept in others.items():
        (tmp_path / name).mkdir()
        stated = {"settings": {"dataset": "digits"}}
        (tmp_path / name / "summary.json").write_text(json.dumps(stated))
        (tmp_path / name / "data.json").write_text(json.dumps(kept))
    settings = evaluation.Settings(
        encoder=tuple(f"{tmp_path}/{name}" for name in others), targets="classification"
    )
    assert [note.split()[1] for note in evaluate.describe_other_data(settings, data)] == [
        f"{tmp_path}/other", f"{tmp_path}/fewer"
    ]


@pytest.mark.parametrize(("flip", "expected"), [(None, False), (True, True)])
def test_images_are_mirrored_in_fine_tuning_as_the_flag_says(flip, expected):
    settings = evaluation.Settings(
        encoder=("pixels",), targets="clustering", flip=flip, image_size=8
    ).spelled()
    assert evaluate.open_all(settings).material.data.default_flip == expected  # of the digits


def test_a_seed_that_is_not_finished_is_refused_before_another_is_scored(script, tmp_path):
    save_run(tmp_path / "run" / "seed0", small.encoder())
    (tmp_path / "run" / "seed1").mkdir()
    words = (f"--encoder={tmp_path}/run", "--seeds=2", f"--out_dir={tmp_path}/out", *QUICK)
    refused = script(*words)
    assert refused.status == 2 and refused.err.count("\n") == 1
    assert "run/seed1 is not finished: run its command again" in refused.err
    assert not (tmp_path / "out").exists()


def test_two_runs_of_one_task_have_no_bias(script, tmp_path):
    runs = {"several": ("rotation", "reconstruction"), "one": ("rotation",), "two": ("rotation",)}
    for name, tasks in runs.items():
        save_run(tmp_path / name, small.encoder(), tasks)
    names = ",".join(f"{tmp_path}/{name}" for name in runs)
    refused = script(f"--encoder={names}", "--bias", f"--out_dir={tmp_path}/no", *QUICK)
    assert refused.status == 2 and refused.err.count("\n") == 1
    assert "two runs of rotation alone, one and two" in refused.err


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    save_run(folder / "run", small.encoder(), export=True)
    (folder / "unfinished").mkdir()
    (folder / "unfinished" / "settings.json").write_text("{}")
    (folder / "foreign").mkdir()
    (folder / "foreign" / "thesis.tex").write_text("x")
    (folder / "text.keras").write_text("x")
    small.encoder(channels=1).model.save(folder / "grey.keras")
    image = keras.Input((16, 16, 3))
    tied = keras.layers.Conv2D(3, 3, name="maps")(image)
    tied = keras.layers.Reshape((14, 42, 1))(tied)
    tied = keras.layers.Dense(2)(keras.layers.Reshape((7, 84, 1))(tied))
    keras.Model(image, tied, name="tied").save(folder / "tied.keras")
    return folder


MISTAKES = {
    "no encoder": ([], "no --encoder given"),
    "an encoder twice": (["--encoder=pixels,pixels"], "--encoder has pixels twice"),
    "no file": (["--encoder={files}/none"], "none does not exist"),
    "a file of text": (["--encoder={files}/text.keras"], "text.keras is damaged"),
    "an unfinished run": (["--encoder={files}/unfinished"], "is not finished"),
    "a folder of something else": (["--encoder={files}/foreign"], "holds no finished run"),
    "unknown net": (["--encoder=random:MobilNet_student"], "did you mean 'MobileNet_student'?"),
    "no run to make random": (["--encoder=random:runs/none"], "runs/none does not exist"),
    "unknown option": (
        ["--encoder=random:MobileNet_student", "--net_options=widht=3"], "did you mean 'width'?",
    ),
    "unknown target": (["--encoder=pixels", "--targets=clusterin"], "did you mean 'clustering'?"),
    "pixels detected": (["--encoder=pixels", "--targets=detection"], "no feature maps"),
    "folders without scenes": (["--encoder=pixels", "--images=x"], "give --scenes voc:DIR"),
    "target twice": (["--encoder=pixels", "--targets=detection,detection(train_encoder=1)"],
                     "given twice"),
    "grey encoder": (["--encoder={files}/grey.keras"], "takes images of 1 channels"),
    "tied encoder": (["--encoder={files}/tied.keras"], "cannot take images of 64x64"),
    "export of another size": (
        ["--encoder={files}/run/export/1", "--image_size=20"], "export for images of 16x16x3",
    ),
    "fraction": (["--encoder=pixels", "--fractions=0,1"], "fractions must be above 0, not 0.0"),
    "fractions": (["--encoder=pixels", "--fractions=few"], "fractions must be a number, not 'few'"),
    "seeds": (["--encoder=pixels", "--seeds=0"], "must be at least 1"),
    "boxes to classify": (["--encoder=pixels", "--dataset=voc:x"], "has boxes, no classes"),
    "two sets of scenes": (
        ["--encoder={files}/run", "--targets=detection", "--dataset=voc:x", "--scenes=digits"],
        "give only one",
    ),
    "no voc": (["--encoder={files}/run", "--scenes=voc:{files}/none"], "expected voc:DIR"),
    "bias of pixels": (["--encoder=pixels", "--bias"], "pixels is not one"),
    "bias of one": (["--encoder={files}/run", "--bias"], "run: rotation, reconstruction"),
    "out_dir": (["--encoder=pixels", "--out_dir={files}/foreign"], "holds no run"),
    "a word": (["--encoder=pixels", "word"], "unexpected argument 'word'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_takes_one_line_and_leaves_nothing(script, files, tmp_path, monkeypatch, name):
    given, expected = MISTAKES[name]
    monkeypatch.chdir(tmp_path)
    done = script("--image_size=16", *(each.replace("{files}", str(files)) for each in given))
    assert (done.status, done.out) == (2, ""), done.err
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert expected in done.err
    assert not any(tmp_path.iterdir())


def test_names_are_short_where_that_is_clear():
    assert evaluate.short_names(["runs/a", "runs/b/", "random:VGG_student", "pixels"]) == [
        "a", "b", "random:VGG_student", "pixels"
    ]
    assert evaluate.short_names(["x/a", "y/a"]) == ["x/a", "y/a"]
    assert evaluate.short_names(["runs/a", "runs/a/export/1", "random:runs/a"]) == [
        "a", "a/export/1", "random:a"
    ]


def test_fresh_weights_are_those_that_a_run_begins_with(tmp_path):
    split = small.data().train
    standardize = nets.Standardize((60.0,) * 3, (70.0,) * 3)
    options = ["width=8", "first=4"]
    named = open_encoder(
        "random:MobileNet_student", split, standardize, standardize, options, seed=3
    )
    save_run(tmp_path / "run", named)
    of_run = open_encoder(
        f"random:{tmp_path}/run", split, standardize, standardize, seed=3
    )
    for a, b in zip(named.model.get_weights(), of_run.model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_file_takes_images_as_the_person_or_its_layers_say(tmp_path):
    image = keras.Input([16, 16, 3])
    maps = keras.layers.Conv2D(4, 3)(keras.layers.Rescaling(1 / 255)(image))
    model = keras.Model(image, maps)
    model.save(tmp_path / "own.keras")
    split = small.data().train
    standardize = nets.Standardize((60.0,) * 3, (70.0,) * 3)
    images = split.images(range(4)).numpy().astype("float32")
    standardized = (images - 60) / 70
    ways = {"none": images, "tf": images / 127.5 - 1, "data": standardized, None: images}
    for name, taken in ways.items():
        of_files = name and nets.named_preprocessing(
            name, standardize.mean, standardize.deviation
        )
        encoder = open_encoder(f"{tmp_path}/own.keras", split, standardize, of_files)
        expected = model(taken).numpy().mean((1, 2))
        np.testing.assert_allclose(encoder(images)["embedding"], expected, rtol=1e-4, atol=1e-5)
    silent = keras.Model(image, keras.layers.Conv2D(4, 3)(image))
    silent.save(tmp_path / "own.keras")
    encoder = open_encoder(f"{tmp_path}/own.keras", split, standardize, None)
    expected = silent(standardized).numpy().mean((1, 2))
    np.testing.assert_allclose(encoder(images)["embedding"], expected, rtol=1e-4, atol=1e-5)


def test_fresh_weights_have_the_statistics_of_the_images():
    split = small.data().train
    standardize = nets.Standardize((60.0,) * 3, (70.0,) * 3)
    encoder = open_encoder(
        "random:MobileNet_student", split, standardize, standardize, ["width=8", "first=4"]
    )
    first = encoder.model.get_layer("conv0")
    maps = first(standardize(split.images(range(len(split))))).numpy()
    norm = encoder.model.get_layer("conv0_bn")
    np.testing.assert_allclose(norm.moving_mean, maps.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)


def test_an_encoder_without_maps_has_a_gap_in_the_table_of_detection(script, tmp_path):
    save_run(tmp_path / "run", small.encoder())
    arguments = (f"--encoder={tmp_path}/run,pixels", "--targets=detection(detection_steps=2)",
                 "--scene_size=32", "--seeds=1", f"--out_dir={tmp_path}/out")
    done = script(*arguments)
    assert (done.status, done.err) == (0, "")
    rows = [line.split() for line in done.out.splitlines()]
    assert ["pixels", "-", "-"] in rows
    found = json.loads((tmp_path / "out" / "targets.json").read_text())["targets"]
    assert set(found["run"]["detection"]) == {"map", "map_50"} and found["pixels"] == {}


def test_an_evaluation_from_python_is_that_of_the_command_line(script, tmp_path):
    save_run(tmp_path / "run", small.encoder())
    done = script(
        f"--encoder={tmp_path}/run,pixels", "--targets=clustering(metric_steps=0)", "--seeds=1",
        "--image_size=16", "--train_images=50", "--restarts=2", f"--out_dir={tmp_path}/command",
    )
    assert (done.status, done.err) == (0, "")
    summary = evaluate.evaluate(evaluate.Settings(
        encoder=(f"{tmp_path}/run", "pixels"), targets="clustering(restarts=2)", seeds=1,
        image_size=16, train_images=50, hyper_parameters={"metric_steps": 0},
        out_dir=f"{tmp_path}/python",
    ))
    stated = json.loads((tmp_path / "command" / "summary.json").read_text())
    assert summary["targets"] == stated["targets"]
    names = ("command", "python")
    first, second = [(tmp_path / name / "settings.json").read_text() for name in names]
    assert first == second


@pytest.mark.parametrize(
    ("name", "mean", "deviation"),
    [("data", 60, 70), ("none", 0, 1), ("unit", 0, 255), ("tf", 127.5, 127.5)],
)
def test_a_file_takes_images_as_the_flag_says(tmp_path, name, mean, deviation):
    small.encoder().model.save(tmp_path / "small.keras")
    settings = evaluation.Settings(
        encoder=(f"{tmp_path}/small.keras",), encoder_preprocessing=name, targets="clustering",
    ).spelled()
    (encoder,) = evaluate.open_encoders(settings, 0, Material(small.data()))
    images = np.random.default_rng(0).uniform(0, 255, (2, 16, 16, 3)).astype("float32")
    expected = (images - mean) / deviation
    np.testing.assert_allclose(encoder.standardize(images), expected, rtol=1e-5, atol=1e-5)


def test_hyper_parameters_of_targets_arrive(monkeypatch):
    asked = {}

    def asked_of(name, found):
        def score(*_, **given):
            asked[name] = given
            return found

        return score

    # By their modules' names, as `targets` has functions of these names.
    modules = {name: sys.modules[f"targets.{name}"]
               for name in ("classification", "detection", "clustering")}
    monkeypatch.setattr(modules["classification"], "classification", asked_of("classification", {}))
    monkeypatch.setattr(modules["clustering"], "clustering", asked_of("clustering", {}))
    detections = SimpleNamespace(metrics=lambda: {})
    monkeypatch.setattr(modules["detection"], "detect", asked_of("detection", detections))
    settings = evaluation.Settings(
        encoder=("x",), hyper_parameters={
            "fine_tuning_steps": 7, "fractions": (0.2, 0.5), "detection_steps": 9,
            "train_encoder": True, "metric_steps": 11, "restarts": 3,
        },
    ).spelled()
    found = scoring.score(settings.create_targets(), small.encoder(), Material(), 5)
    assert {name for name, _ in found} == set(asked)
    assert asked == {
        "classification": {"seed": 5, "steps": 7, "fractions": (0.2, 0.5)},
        "detection": {"seed": 5, "steps": 9, "trains_encoder": True},
        "clustering": {"seed": 5, "tuning_steps": 11, "restarts": 3},
    }


def test_heads_are_trained_in_batches_of_the_size_as_set(monkeypatch):
    asked = {}

    def heads(encoder, tasks, images, batches, held_out, **given):
        sizes = [max(len(batch["image"]) for batch in part) for part in (batches, held_out)]
        asked.update(given, sizes=sizes)
        return {task.name: {"loss": 2.0} for task in tasks}

    monkeypatch.setattr(evaluate, "retrained_heads", heads)
    settings = evaluation.Settings(
        encoder=("x",), bias=True, bias_batch_size=24, bias_epochs=3, seed=5, seeds=1
    )
    (task,) = evaluate.TASKS.create("rotation", {})
    run = evaluate.PretrainingRun("x", (small.encoder(),), {"rotation": task}, (16, 16, 3), None)
    assert evaluate.task_loss(settings, run, "rotation", small.data(), 0) == 2.0
    assert asked == {"sizes": [24, 24], "epochs": 3, "seed": 5, "steps_per_epoch": 4}
