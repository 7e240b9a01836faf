"""Sums of methods, and Keras' own losses, within the distiller."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import distillers
from distillers import FSP, SSKD_SVD, Distiller, KerasLoss, SoftLogits, Sum
from distillers.objective import weight_in_epoch
from nets import feature_extractor
from nets.copying import global_policy
from registry import UserError
from tests.distillers.models import CLASSES, batch, network, outputs


def distiller_of(method, **options):
    student, teacher = network(1, "student"), network(2, "teacher", width=2)
    distiller = Distiller(
        student, method, teacher, student_outputs=outputs(student),
        teacher_outputs=outputs(teacher), weight_decay=0.0, **options,
    )
    # Tracing takes longer than a step does; sums run as graphs in test_data_parallel.py.
    distiller.compile(keras.optimizers.SGD(1.0), run_eagerly=True)
    return distiller


def moved(method, **options):
    """By how much one step of plain SGD with rate 1 changes each variable: the gradients."""
    distiller = distiller_of(method, **options)
    before = [np.array(v) for v in distiller.student.trainable_variables]
    logs = distiller.train_on_batch(batch(3, unlabelled=(1,)), return_dict=True)
    after = [np.array(v) for v in distiller.student.trainable_variables]
    return [b - a for b, a in zip(before, after, strict=True)], logs


def test_a_person_writes_sums_with_plus():
    method = distillers.create("sskd-svd(num_dfv=2)+Soft_Logits", temperature="2", solver="svd")
    assert isinstance(method, Sum)
    svd, soft = method.members
    assert (svd.num_dfv, svd.solver, soft.temperature) == (2, "svd", 2.0)
    assert distillers.spelled(" sskd-svd( num_dfv=2 )+ soft-logits") == (
        "SSKD_SVD(num_dfv=2)+Soft_logits"
    )
    assert method.settings()["SSKD_SVD.num_dfv"] == 2
    assert method.name == "SSKD_SVD+Soft_logits" and method.needs_teacher
    assert [method.does_read(key) for key in ("maps", "embedding", "logits")] == [True, False, True]
    assert distiller_of(method).stage.main_weight == 0.7


@pytest.mark.parametrize(
    ("one", "other"),
    [("Soft_logits(alpha=1)", "FSP"), ("FitNet(alpha=1)", "FSP"), ("FitNet", "FSP"),
     ("Hard_logits(alpha=1)", "AT"), ("LogitStd(main_weight=0)", "RKD"), ("AB(alpha=1)", "FSP")],
)
def test_every_method_of_a_sum_takes_part_whatever_their_order(one, other):
    found = []
    for specification in (f"{one}+{other}", f"{other}+{one}"):
        stages = distiller_of(distillers.create(specification)).stages
        found.append([
            (sorted(term.loss.method.name for term in stage.terms), stage.main_weight)
            for stage in stages
        ])
    assert found[0] == found[1]
    assert other in found[0][-1][0]
    assert {name for names, _ in found[0] for name in names} == {one.partition("(")[0], other}


def test_clipped_against_what_is_not_clipped_where_labels_have_no_weight():
    """FSP's part of the step is a tenth of Soft_logits' at most, however large it is."""
    added = Sum([FSP(clip=0.1), SoftLogits(alpha=1.0)])
    assert distiller_of(added).stage.main_weight == 0
    (alone, _), (both, logs) = moved(SoftLogits(alpha=1.0)), moved(added)
    length = np.sqrt(sum(np.sum((b - a) ** 2) for a, b in zip(alone, both, strict=True)))
    bound = 0.1 * np.sqrt(sum(np.sum(a**2) for a in alone))
    assert 0 < length <= bound * (1 + 1e-4) and 0 < logs["clip_share"] < 1


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("FSP+FSP", "two or more different"),
        ("None+FSP", "None has no distillation loss"),
        ("FSP+Soft_logit", "did you mean 'Soft_logits'"),
    ],
)
def test_sums_that_make_no_sense_are_refused(specification, message):
    with pytest.raises(UserError, match=message):
        distillers.create(specification)


@pytest.mark.parametrize(
    ("specification", "message"),
    [
        ("AT+SP", r"AT and SP both have 'weight': give it with one of them, as in AT\(weight=7\)"),
        ("AT(weight=1)+SP", "AT and SP both have 'weight'"),
        ("AT+SP+Soft_logits", "AT and SP both have 'weight'"),
    ],
)
def test_a_hyper_parameter_that_several_members_have_is_refused(specification, message):
    with pytest.raises(UserError, match=message):
        distillers.create(specification, weight=7)


def test_hyper_parameters_of_each_member():
    at, sp = distillers.create("AT(weight=1)+SP(weight=2)").members
    assert (at.weight, sp.weight) == (1, 2)
    at, soft = distillers.create("AT+Soft_logits", weight="7", alpha=0.5).members
    assert (at.weight, soft.alpha) == (7, 0.5)


def test_a_member_counts_with_the_weight_of_the_stage_whose_loss_is_computed():
    """AB's second stage has soft logits with the weight alpha."""
    random = np.random.default_rng(0)
    taps = [[tf.constant(random.normal(size=(3, 4, 4, 2)), tf.float32)] for _ in range(2)]
    logits = [tf.constant(random.normal(size=(3, CLASSES)), tf.float32) for _ in range(2)]
    features = [{"maps": m, "logits": z} for m, z in zip(taps, logits, strict=True)]
    ab, soft, at = map(distillers.create, ("AB(alpha=0.9)", "Soft_logits(temperature=3)", "AT"))
    expected = 0.9 * soft.compute_loss(*logits) + at.weight * at.compute_loss(*taps)
    np.testing.assert_allclose(Sum([ab, at]).compute_loss(*features), expected, rtol=1e-6)


def test_metrics_of_each_member_have_its_name():
    """SSKD_SVD and KD_SVD both say which share of the images they dropped."""
    _, logs = moved(distillers.create("SSKD_SVD+KD_SVD"))
    for name in ("SSKD_SVD", "KD_SVD"):
        assert {f"{name}_loss", f"{name}_dropped_share"} <= set(logs)
    assert "dropped_share" not in logs and "weighted_distillation_loss" not in logs
    _, alone = moved(distillers.create("SSKD_SVD"))
    assert "dropped_share" in alone and "SSKD_SVD_loss" not in alone


def test_each_bound_is_there_once():
    def bounds(name):
        stages = distiller_of(distillers.create(name)).stages
        return [tuple(group.bound for group in stage.clip_groups) for stage in stages]

    assert bounds("OFD(clip=0.2)") == [(0.2,)] and bounds("SSKD_SVD") == [(1,)]
    assert bounds("OFD(clip=0.2)+SSKD_SVD") == [(0.2, 1)]
    assert bounds("SSKD_SVD+KD_SVD+Soft_logits") == [(1,)] and bounds("Soft_logits") == [()]
    assert bounds("MHGD(clip=0.4)+OFD(clip=0.2)") == [(0.2,), (0.4, 0.2)]


def test_a_method_of_one_stage_takes_part_where_there_is_a_main_loss():
    """FSP's first stage has none: it stays FSP's alone."""
    stages = distiller_of(distillers.create("FSP(staged=true)+Soft_logits")).stages
    names = [[term.name for term in stage.terms] for stage in stages]
    assert names == [["FSP"], ["Soft_logits"]]
    with pytest.raises(UserError, match="one method with stages, not FSP and FitNet"):
        distiller_of(distillers.create("FSP(staged=true)+FitNet"))


def test_a_warm_up_goes_on_through_another_methods_stages():
    """AB's first stage lasts two epochs of eight, the warm-up of DKD four, from the start."""
    distiller = distiller_of(distillers.create("AB(init_share=0.25)+DKD(warmup=0.5,weight=3)"))
    shares = []
    for part in distiller.parts(8):
        distiller.enter(part)
        (term,) = [term for term in part.stage.terms if term.name == "DKD"]
        for epoch in range(part.first, part.last):
            distiller.epoch.assign(epoch)
            since = distiller._epochs_since(term.begins)
            shares.append(float(weight_in_epoch(term, since, 8)) / 3)
            begins = {group.bound: group.begins for group in part.stage.clip_groups}
            opening = begins[term.stage.clip]
            assert int(distiller._epochs_since(opening)) == epoch
    np.testing.assert_allclose(shares, [0.25, 0.5, 0.75, 1, 1, 1, 1, 1])


@pytest.mark.parametrize("method", ["AB", "FitNet(alpha=0)", "FSP(staged=true)"])
def test_a_stage_without_anything_to_learn_is_refused_at_once(method):
    with pytest.raises(UserError, match="stage 'train' of .* learns from the main loss alone"):
        distiller_of(distillers.create(method), main_loss="none")


def test_the_teacher_of_dml_is_as_it_was_in_a_stage_without_dml():
    distiller = distiller_of(distillers.create("FitNet(hint_share=0.5)+DML"))
    distiller.enter(distiller.parts(2)[0])
    distiller.compile(keras.optimizers.SGD(1e-2), run_eagerly=True)
    before = [keras.ops.convert_to_numpy(variable) for variable in distiller.teacher.variables]
    distiller.fit(tf.data.Dataset.from_tensors(batch(3)), epochs=1, verbose=0)
    for variable, value in zip(distiller.teacher.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_hyper_parameter_that_no_member_has():
    with pytest.raises(UserError, match="num_dvf.*num_dfv"):
        distillers.create("SSKD_SVD+Soft_logits", num_dvf=1)


def test_without_a_main_loss_the_gradients_add_up():
    """Nothing to clip against: the sum's gradient is that of the weighted losses."""
    soft = SoftLogits(alpha=0.5)
    alone = [moved(method, main_loss="none")[0] for method in (SSKD_SVD(), soft)]
    together, logs = moved(Sum((SSKD_SVD(), SoftLogits(alpha=0.5))), main_loss="none")
    for one, other, both in zip(*alone, together, strict=True):
        np.testing.assert_allclose(one + other, both, rtol=1e-4, atol=1e-6)
    svd, soft = logs["SSKD_SVD_loss"], logs["Soft_logits_loss"]
    np.testing.assert_allclose(logs["distillation_loss"], svd + soft, rtol=1e-5)
    np.testing.assert_allclose(logs["weighted_distillation_loss"], svd + 0.5 * soft, rtol=1e-5)


def test_what_is_clipped_is_clipped_against_main_and_added_losses():
    """By hand: g0 of the main loss and of the soft logits, g1 of the SVD loss, sigmoid(0)."""
    rest = moved(SoftLogits())[0]
    svd = moved(SSKD_SVD(), main_loss="none")[0]
    together, logs = moved(Sum((SoftLogits(), SSKD_SVD())))
    for g0, g1, both in zip(rest, svd, together, strict=True):
        bound = 0.5 * np.linalg.norm(g0)
        scale = min(1, bound / max(np.linalg.norm(g1), 1e-30))
        np.testing.assert_allclose(both, g0 + scale * g1, rtol=1e-3, atol=2e-6)
    assert 0 < logs["clip_share"] <= 1


def test_no_member_is_clipped_by_the_bound_of_another():
    """NST's generous bound leaves that of SSKD_SVD as the paper has it."""
    main = moved(distillers.create("None"))[0]
    svd, nst = SSKD_SVD(), distillers.get("NST")(clip=1e9)
    alone = [moved(method, main_loss="none")[0] for method in (svd, nst)]
    together, _ = moved(Sum((nst, svd)))
    for g0, g_svd, g_nst, both in zip(main, *alone, together, strict=True):
        scale = min(1, 0.5 * np.linalg.norm(g0) / max(np.linalg.norm(g_svd), 1e-30))
        np.testing.assert_allclose(both, g0 + g_nst + scale * g_svd, rtol=1e-3, atol=5e-6)


def test_the_loss_of_a_sum_called_by_itself():
    student, teacher = network(1, "student"), network(2, "teacher", width=2)
    image = batch(0)["image"]
    found = [feature_extractor(m, outputs(m))(image) for m in (teacher, student)]
    total = Sum((FSP(), SoftLogits(alpha=0.4))).compute_loss(*found)
    fsp = FSP().compute_loss(*(f["maps"] for f in found))
    soft = SoftLogits().compute_loss(*(f["logits"] for f in found))
    np.testing.assert_allclose(total, fsp + 0.4 * soft, rtol=1e-6)


def test_each_member_gets_what_it_takes():
    x, labels = tf.random.normal([3, 5]), [0, 1, 2]
    wkd, soft = distillers.create("WKD_L(gamma=1)"), SoftLogits(alpha=0.5)
    total = Sum((wkd, soft)).compute_loss(
        {"logits": x}, {"logits": -x}, labels=labels, teacher_classifier=tf.eye(5)
    )
    alone = wkd.compute_loss(x, -x, labels=labels, teacher_classifier=tf.eye(5))
    np.testing.assert_allclose(total, alone + 0.5 * soft.compute_loss(x, -x), rtol=1e-6)
    with pytest.raises(TypeError, match="WKD_L.Soft_logits takes no classifier"):
        Sum((wkd, soft)).compute_loss({"logits": x}, {"logits": x}, classifier=tf.eye(5))


# Keras' losses in our distiller


class Twice(keras.distillation.DistillationLoss):
    """A person's own loss, with Keras' signature and nothing more."""

    def compute_loss(self, teacher_outputs, student_outputs):
        return 2 * keras.ops.mean(keras.ops.square(teacher_outputs - student_outputs))


def test_keras_logits_distillation_is_soft_logits():
    # Named "kl_divergence", its default, the loss is Keras' function, which takes the logits of
    # Keras 3.15 for probabilities; as an instance it gets the probabilities.
    divergence = keras.losses.KLDivergence()
    keras_loss = KerasLoss(keras.distillation.LogitsDistillation(temperature=4.0, loss=divergence))
    found, logs = moved(keras_loss, main_loss="none")
    expected, own_logs = moved(SoftLogits(temperature=4.0, alpha=1.0), main_loss="none")
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(
        logs["distillation_loss"], own_logs["distillation_loss"], rtol=1e-4
    )


def test_keras_feature_distillation_names_its_layers():
    loss = keras.distillation.FeatureDistillation(
        loss="mse", teacher_layer_name="deep", student_layer_name="deep"
    )
    student, teacher = network(1, "student"), network(2, "teacher", width=2)
    distiller = Distiller(student, loss, teacher, main_loss="none", weight_decay=0.0)
    distiller.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    head = np.array(student.trainable_variables[-1])
    logs = distiller.train_on_batch(batch(0), return_dict=True)
    maps = [feature_extractor(m, outputs(m)) for m in (network(1, "s"), network(2, "t", width=2))]
    image = batch(0)["image"]
    ours, theirs = maps[0](image, training=True)["maps"][1], maps[1](image)["maps"][1]
    np.testing.assert_allclose(
        logs["distillation_loss"], np.mean((np.array(ours) - np.array(theirs)) ** 2), rtol=1e-4
    )
    np.testing.assert_array_equal(np.array(student.trainable_variables[-1]), head)


def test_a_persons_own_keras_loss():
    student, teacher = network(1, "student"), network(2, "teacher", width=2)
    distiller = Distiller(student, Twice(), teacher, main_loss="none")
    distiller.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    image = batch(0)["image"]
    logs = distiller.train_on_batch(batch(0), return_dict=True)
    expected = network(1, "again")(image, training=True), teacher(image)
    difference = np.array(expected[0]) - np.array(expected[1])
    np.testing.assert_allclose(
        logs["distillation_loss"], 2 * np.mean(difference**2), rtol=1e-4
    )


def test_teacher_of_another_dtype_and_a_model_of_two_outputs():
    """Keras' own Distiller refuses the first."""
    with global_policy("mixed_bfloat16"):
        teacher = network(2, "teacher", width=2)
    student = network(1, "student")
    two = [
        keras.Model(m.input, [m.output, m.get_layer("embedding").output], name=m.name)
        for m in (student, teacher)
    ]
    loss = keras.distillation.LogitsDistillation(loss=[keras.losses.KLDivergence(), None])
    distiller = Distiller(two[0], loss, two[1])
    distiller.compile(keras.optimizers.SGD(0.1), run_eagerly=True)
    assert np.isfinite(distiller.train_on_batch(batch(0), return_dict=True)["distillation_loss"])


# Our losses in Keras' distiller


@pytest.mark.parametrize(
    ("name", "read"),
    [("Soft_logits", "logits"), ("DIST", "logits"), ("SSKD_SVD", "maps"), ("SP", "maps")],
)
def test_our_losses_in_keras_distiller(name, read):
    """Losses across taps need models whose outputs are the taps, and no supervised loss."""
    models = []
    for seed, width in ((2, 2), (1, 1)):
        model = network(seed, f"net{seed}", width=width)
        if read == "maps":
            taps = [model.get_layer(tap).output for tap in ("shallow", "deep")]
            model = keras.Model(model.input, taps)
        models.append(model)
    teacher, student = models
    loss = distillers.get(name)()
    distiller = keras.distillation.Distiller(teacher, student, loss, student_loss_weight=0.0)
    supervised = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(
        "sgd", loss=supervised if read == "logits" else [supervised] * 2,
        run_eagerly=name == "SSKD_SVD",  # the graph of which takes longest to make
    )
    image = batch(0)["image"]
    label = batch(0)["label"]
    assert label.max() < CLASSES
    targets = label if read == "logits" else [label, label]
    logs = distiller.train_on_batch(image, targets, return_dict=True)
    again = network(1, "again")
    given = [again(image, training=True)] if read == "logits" else None
    if read == "maps":
        taps = [again.get_layer(tap).output for tap in ("shallow", "deep")]
        given = keras.Model(again.input, taps)(image, training=True)
    theirs = teacher(image)
    expected = loss.compute_loss(theirs, given[0] if read == "logits" else given)
    expected = float(tf.cast(expected, tf.float32))
    assert logs["distillation_loss"] == pytest.approx(expected, rel=1e-3) and expected > 0
