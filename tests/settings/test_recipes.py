"""Which recipe a run gets, what it sets, and that given flags win."""

import dataclasses
import json
import re
from pathlib import Path

import keras
import numpy as np
import pytest
from absl import flags

import compare
import nets
from experiment.run.processor import computes_bfloat16
from registry import UserError
from settings import distillation
from settings.distillation import OF_RECIPE, Settings, determining_settings
from settings.networks import create_method
from settings.recipes import RECIPES, Facts, StepBudget, choose
from settings.run_facts import has_batch_normalization, has_trained_weights
from tests.commands import own_flags

ROOT = Path(__file__).parents[2]
PAPER = {
    "epochs": 200, "batch_size": 128, "optimizer": "sgd", "learning_rate": 1e-2,
    "schedule": "step", "warmup_epochs": 0, "weight_decay": 1e-4, "rotation": 15,
    "crop_padding": 4, "random_resized_crop": 0, "color_jitter": 0, "randaugment": (0, 0),
    "mixup": 0, "cutmix": 0, "label_smoothing": 0, "mixed_precision": False,
}
SMALL = {"student_options": ("width=4",), "teacher_options": ("width=4",)}


def save(path, images, size):
    """An archive of black images; the compressed file is small however many there are."""
    x, y = np.zeros((images, size, size, 3), np.uint8), np.arange(images) % 2
    np.savez_compressed(path, x_train=x, y_train=y, x_test=x[:2], y_test=y[:2])
    return f"npz:{path}"


def chosen(settings):
    return {name: getattr(settings, name) for name in OF_RECIPE}


@pytest.mark.parametrize(
    ("facts", "name"),
    [
        (Facts(720, (64, 64)), "small"), (Facts(9_999, (32, 32)), "small"),
        (Facts(10_000, (32, 32)), "cifar"), (Facts(50_000, (95, 200)), "cifar"),
        (Facts(10_000, (96, 96)), "imagenet"), (Facts(1_281_167, (224, 224)), "imagenet"),
        (Facts(1_281_167, (224, 224), pretrained=True), "finetune"),
        (Facts(720, (64, 64), pretrained=True), "finetune"),
    ],
)
def test_the_recipe_that_fits(facts, name):
    assert choose(facts) == name


def test_papers_data_and_networks_keep_the_papers_training():
    for dataset in ("cifar10", "cifar100"):
        for net in ("VGG", "VGG_stride", "MobileNet", "ResNeXt"):
            settings = Settings(dataset=dataset, net=net).spelled()
            assert (settings.recipe, chosen(settings)) == ("paper", PAPER)
    assert Settings().spelled().recipe == "digits"


def test_digits_have_small_networks_where_no_pair_is_named(tmp_path):
    small = ("width=32",)
    settings = Settings().spelled()
    options = settings.teacher_options, settings.student_options
    assert (settings.net, *options) == ("VGG", small, small)
    assert settings.mixed_precision == computes_bfloat16()
    alone = settings.of_teacher(tmp_path).spelled()
    assert (alone.student_net, alone.student_options) == ("VGG_teacher", small)
    for same in ({"teacher": "some/run"}, {"student_net": "vgg-teacher"}):
        assert Settings(**same).spelled().student_options == small
    for named in ({"net": "VGG"}, {"student_options": ("width=64",)}, {"dataset": "cifar100"},
                  {"student_net": "ResNet_student"}, {"student_init": "tte:run"}):
        assert Settings(**named).spelled().student_options == named.get("student_options", ())
    assert Settings(net="VGG").spelled().mixed_precision is False
    assert Settings(mixed_precision=False).spelled().mixed_precision is False


@pytest.mark.parametrize(("images", "epochs"), [(720, 95), (64, 100), (3_000, 24), (9_000, 20)])
def test_own_data_is_trained_on_by_its_size(tmp_path, images, epochs):
    data = save(tmp_path / "own.npz", images, 16)
    settings = Settings(dataset=data, net="ResNet", validation_fraction=0.1, **SMALL).spelled()
    left = images - round(0.1 * images)
    batch = min(32, left // 8)
    assert (settings.recipe, settings.batch_size) == ("small", batch)
    assert settings.epochs == min(max(round(2000 / -(-left // batch)), 20), 100) == epochs
    assert (settings.optimizer, settings.learning_rate, settings.schedule) == (
        "adam", 1e-3, "cosine"
    )
    assert settings.warmup_epochs == pytest.approx(0.05 * epochs, abs=0.01)


def test_networks_without_batch_normalisation_get_a_lower_rate(tmp_path):
    data = save(tmp_path / "own.npz", 12_000, 16)

    def of(teacher, student, **more):
        return Settings(
            dataset=data, teacher_net=f"{teacher}_teacher", student_net=f"{student}_student",
            **SMALL, **more,
        )

    plain, normalised = "VGG", "ResNet"
    assert of(plain, "VGG_stride").spelled().learning_rate == 1e-2
    assert of(plain, normalised).spelled().learning_rate == 0.2
    assert of(normalised, plain, recipe="cifar").spelled().learning_rate == 1e-2
    assert of(normalised, plain, learning_rate=0.1).spelled().learning_rate == 0.1
    # A teacher that is trained first has a rate of its own, one that learns beside it the same.
    assert of(plain, normalised).of_teacher(tmp_path).spelled().learning_rate == 1e-2
    assert of(plain, normalised, Distillation="DML").spelled().learning_rate == 1e-2


def test_a_student_with_trained_weights_is_finetuned(tmp_path):
    student = nets.build("ResNet_student", (16, 16, 3), 2, width=4)
    student.save(tmp_path / "new.keras")
    student.get_layer("logits").bias.assign([0.1, -0.1])
    student.save(tmp_path / "trained.keras")
    data = save(tmp_path / "own.npz", 300, 16)
    for file, name in (("new", "small"), ("trained", "finetune")):
        settings = Settings(
            Distillation="None", dataset=data, student_model=str(tmp_path / f"{file}.keras")
        ).spelled()
        assert settings.recipe == name
    assert settings.learning_rate == 1e-4 and settings.epochs == 30


def test_a_student_of_another_library_with_weights_is_finetuned(tmp_path):
    network = keras.applications.MobileNet(
        (32, 32, 3), alpha=0.25, include_top=True, weights=None, classes=9
    )
    network.save_weights(tmp_path / "own.weights.h5")
    data = save(tmp_path / "own.npz", 300, 32)
    own = {"Distillation": "None", "dataset": data, "student_options": ("alpha=0.25",),
           "student_model": "keras.applications:MobileNet"}
    weights = str(tmp_path / "own.weights.h5")
    assert Settings(**own).spelled().recipe == "small"
    assert Settings(**own, student_weights=weights).spelled().recipe == "finetune"
    teacher = Settings(
        dataset=data, student_net="ResNet_student", teacher_weights=weights,
        teacher_options=("alpha=0.25",), teacher_model="keras.applications:MobileNet",
    ).of_teacher(tmp_path)
    assert teacher.spelled().recipe == "finetune"


def test_each_given_flag_wins():
    given = {
        "epochs": 7, "batch_size": 16, "optimizer": "adam", "learning_rate": 0.3,
        "schedule": "cosine", "warmup_epochs": 0.5, "weight_decay": 0.0, "rotation": 0.0,
        "crop_padding": 0, "random_resized_crop": 0.3, "color_jitter": 0.1, "randaugment": (2, 9),
        "mixup": 0.2, "cutmix": 1.0, "label_smoothing": 0.1, "mixed_precision": True,
    }
    assert set(given) == set(OF_RECIPE)
    for name, value in given.items():
        changed = {"schedule": "cosine"} if name == "warmup_epochs" else {}
        settings = Settings(dataset="cifar100", recipe="Paper", **{name: value}, **changed)
        expected = PAPER | changed | {name: value}
        if name == "optimizer":  # a rate for SGD is none for Adam
            expected["learning_rate"] = 5e-4
        assert chosen(settings.spelled()) == expected, name
    assert chosen(Settings(**given).spelled()) == given


def test_the_same_run_however_it_is_written(tmp_path):
    data = save(tmp_path / "own.npz", 200, 16)
    short = Settings(dataset=data, net="resnet", **SMALL)
    spelled = short.spelled()
    assert spelled.spelled() == spelled
    long = Settings(dataset=data, net="ResNet", **SMALL, **chosen(spelled))
    method = create_method(spelled)
    assert determining_settings(long.spelled(), method) == determining_settings(spelled, method)


def test_what_does_not_fit_is_refused():
    with pytest.raises(UserError, match="unknown recipe 'ciffar' .did you mean 'cifar'"):
        Settings(recipe="ciffar").spelled()
    with pytest.raises(UserError, match="--warmup_epochs is 2 and --schedule step: only"):
        Settings(warmup_epochs=2.0).spelled()
    with pytest.raises(UserError, match="is 12; expected less than --epochs, 12"):
        Settings(schedule="cosine", warmup_epochs=12.0).spelled()
    for wrong in ((2,), (1.5, 3), (2, 11)):
        with pytest.raises(UserError, match="--randaugment is .*; expected N,M"):
            Settings(randaugment=wrong).spelled()


def test_every_recipe_can_be_spelled_out():
    facts = Facts(5_000, (32, 32))
    for name in RECIPES.names():
        filled = RECIPES.get(name).fill(dict.fromkeys(OF_RECIPE), facts)
        assert None not in filled.values()
        dataclasses.replace(Settings(), recipe=name, **filled).check_schedule()
    assert StepBudget(2000, 20, 100).epochs(0, 32) == 100


def spelled_flags(file, *words):
    """The settings of a comparison by a flag file."""
    with own_flags(compare.define):
        flags.FLAGS(["compare.py", f"--flagfile={ROOT / 'benchmarks/evidence' / file}", *words])
        return distillation.given_settings()


@pytest.mark.parametrize("file", ["residual.flags", "signs.flags", "teacher.flags"])
def test_the_evidence_was_made_by_the_cifar_recipe(tmp_path, file):
    """But for the warm-up, which it had not, and its number of epochs."""
    given = spelled_flags(file, f"--dataset={save(tmp_path / 'c.npz', 12_000, 32)}")
    made = chosen(dataclasses.replace(given, Distillation="None", train_images=None).spelled())
    recipe = chosen(Settings(
        Distillation="None", dataset=given.dataset, net="ResNet", recipe="cifar",
        epochs=given.epochs, warmup_epochs=0.0, mixed_precision=True,
    ).spelled())
    assert made == recipe


def test_the_included_teacher_is_one_of_the_cifar_recipe():
    card = json.loads((ROOT / "pretrained/cifar100_resnet20.json").read_text())["recipe"]
    recipe = RECIPES.get("cifar")
    for name in ("batch_size", "optimizer", "learning_rate", "schedule", "weight_decay",
                 "rotation", "crop_padding"):
        assert card[name] == getattr(recipe, name), name


def test_runs_of_a_comparison_choose_for_themselves_what_it_expects(tmp_path):
    """It hands on what was given, and knows what each run makes of it."""
    data = save(tmp_path / "own.npz", 12_000, 16)
    settings = Settings(
        dataset=data, teacher_net="VGG_teacher", student_net="ResNet_student", **SMALL
    )
    runs = compare.plan(
        compare.Comparison(Distillation="None,AT", seeds=2, compare_dir=str(tmp_path / "c")),
        settings,
    )
    assert [run.group for run in runs] == ["teacher", "None", "AT", "None", "AT"]
    for run in runs:
        assert run.settings["learning_rate"] == (1e-2 if run.group == "teacher" else 0.2)
        assert run.settings["epochs"] == 60
        with own_flags(distillation.define):
            flags.FLAGS(["train_w_distill.py", *run.command[2:]])
            made = distillation.given_settings().spelled()
        assert determining_settings(made, create_method(made)) == run.settings


def test_an_empty_flag_of_a_method_resets_it():
    """Such as one of a file of flags, where another method is given."""
    words = ("--solver=svd", "--num_dfv=2", "--solver=", "--Distillation=AT", "--num_dfv=")
    with own_flags(distillation.define):
        flags.FLAGS(["train_w_distill.py", *words])
        settings = distillation.given_settings()
    assert settings.hyper_parameters == {} and settings.spelled().Distillation == "AT"
    with own_flags(distillation.define):
        flags.FLAGS(["train_w_distill.py", "--Distillation=AT", "--weight=0"])
        assert distillation.given_settings().hyper_parameters == {"weight": 0}


def test_normalisation_is_found_in_inner_models():
    image = keras.Input((8, 8, 3))
    inner = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.BatchNormalization()])
    model = keras.Model(image, keras.layers.Flatten()(inner(image)))
    assert has_batch_normalization(model) and not has_trained_weights(model)
    plain = keras.Model(image, keras.layers.Dense(2)(keras.layers.Flatten()(image)))
    assert not has_batch_normalization(plain)


def test_recipes_are_what_the_guide_says():
    guide = (ROOT / "docs/guides/training.md").read_text()
    row = r"^\| `(\w+)` \| [^|]+ \| ((?:SGD|Adam) at .+) \|$"
    rows = dict(re.findall(row, guide, re.MULTILINE))
    assert set(rows) == set(RECIPES.names())
    for name, said in rows.items():
        recipe = RECIPES.get(name)
        optimizer, rate = re.match(r"(\w+) at ([\d.e-]+),", said).groups()
        batch = int(re.search(r"batches of (\d+)", said)[1])
        assert (optimizer.lower(), float(rate), batch) == (
            recipe.optimizer, recipe.learning_rate, recipe.batch_size
        )
        assert ("cosine" in said) == (recipe.schedule == "cosine")
        if isinstance(recipe.epochs, StepBudget):
            found = re.search(r"about ([\d,]+) steps \((\d+) to (\d+) epochs\)", said).groups()
            assert StepBudget(*(int(each.replace(",", "")) for each in found)) == recipe.epochs
        else:
            assert int(re.search(r"(\d+) epochs", said)[1]) == recipe.epochs
