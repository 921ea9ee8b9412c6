"""Activation maximisation: planted facets, independence of a batch, determinism, real networks."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import interp
import probes
from interp.errors import DataError, LayerNotFound, ModelError, ParameterError
from interp.results import Result
from probes.multifaceted import objectives as o
from probes.multifaceted import schedules

SHORT = {
    "lucid": schedules.lucid(steps=80),
    "mfv_mean": schedules.mfv_mean().shortened(0.3),
    "mfv_cbr": schedules.mfv_cbr().shortened(0.2),
    "corrected": schedules.mfv_mean(corrected=True).shortened(0.3),
    "maco": schedules.maco(steps=12, crops=3, canvas=1.0),
}
SIDE = 24


def planted():
    """Two patterns of -1 and 1, left against right and top against bottom, orthogonal."""
    w = torch.ones(2, 1, SIDE, SIDE, dtype=torch.float64)
    w[0, :, :, SIDE // 2 :] = -1
    w[1, :, SIDE // 2 :] = -1
    return w


class Either(nn.Module):
    """The larger of two linear units, the second ``behind`` by some; reads pixels as -1..1."""

    def __init__(self, behind=0.0):
        super().__init__()
        self.w = nn.Parameter(planted().flatten(1))
        self.behind = behind

    def forward(self, x):
        one, two = (x.flatten(1) @ self.w.T).unbind(1)
        best = torch.maximum(one, two - self.behind) / x[0].numel()
        return torch.stack([best, torch.zeros_like(best)], 1)


class Net(nn.Module):
    """A small ReLU network of images with any number of channels, in float64."""

    def __init__(self, channels=3):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 3, padding=1)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1)
        self.relu2 = nn.ReLU()
        self.fc = nn.Linear(8, 4)
        drawn = torch.Generator().manual_seed(0)
        self.double()
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(
                    torch.randn(p.shape, generator=drawn, dtype=torch.float64) / p[0].numel() ** 0.5
                )

    def forward(self, x):
        x = self.relu2(self.conv2(self.relu1(self.conv1(x))))
        return self.fc(x.mean((2, 3)))


def blobs(w, count=15, seed=0):
    """The mean of images about each pattern: weak, and noisy."""
    drawn = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, *w.shape, generator=drawn, dtype=torch.float64)
    return (0.5 + 0.15 * w + 0.1 * noise).clamp(0, 1).mean(0)


def cosines(images):
    x = torch.as_tensor(images).double().flatten(1) * 2 - 1
    return nn.functional.normalize(x) @ nn.functional.normalize(planted().flatten(1)).T


PLAIN = schedules.Schedule(
    name="plain",
    parameterisation="pixel",
    octaves=(schedules.Octave(steps=100, rate=(2, 2)),),
    optimiser="mean_abs",
)
PLANTED = {  # schedule, least cosine from a mean image, and from noise
    "plain pixels": (PLAIN, 0.999, 0.999),
    "plain Fourier": (replace(schedules.lucid(steps=200), views=None), 0.999, 0.8),
    "mfv_mean": (schedules.mfv_mean(), 0.99, 0.99),
    "mfv_cbr": (schedules.mfv_cbr(), 0.99, 0.99),
    "corrected": (schedules.mfv_mean(corrected=True), 0.99, 0.99),
    "lucid": (schedules.lucid(steps=160), 0.95, 0.8),  # its turns and shifts blur the edges
}


@pytest.mark.parametrize("name", PLANTED)
def test_each_planted_facet_is_reached_from_its_mean_image_and_only_one_from_noise(name):
    behind = 100.0  # of 576: the second unit must be begun near
    model = interp.load(Either(behind).double())
    schedule, near, near_random = PLANTED[name]
    options = {"schedule": schedule, "normalise": (0.5, 0.5)}
    found = probes.maximize(model, o.logit(0), starts=blobs(planted()), **options)
    reached = cosines(found.images)
    assert reached.diagonal().min() >= near
    assert reached[0, 1].abs() < 0.1 and reached[1, 0].abs() < 0.1
    random = probes.maximize(model, o.logit(0), n=3, size=SIDE, channels=1, **options)
    reached = cosines(random.images)
    assert reached[:, 0].min() >= near_random and reached[:, 1].abs().max() < 0.1


def starts(n=3, c=3, h=10, w=8, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    return 0.2 + 0.6 * torch.rand(n, c, h, w, generator=drawn, dtype=torch.float64)


@pytest.mark.parametrize("name", SHORT)
def test_an_image_is_the_same_alone_and_among_others(name):
    model, schedule = interp.load(Net()), SHORT[name].shortened(0.3)
    together = probes.maximize(model, o.logit(1), starts=starts(), schedule=schedule)
    tight = probes.maximize(model, o.logit(1), starts=starts(), schedule=schedule, batch_size=2)
    for i in range(3):
        alone = probes.maximize(model, o.logit(1), starts=starts()[i : i + 1], schedule=schedule)
        for found in (alone.images[0], tight.images[i]):
            np.testing.assert_allclose(found, together.images[i], atol=1e-6)
        np.testing.assert_allclose(alone.trace[:, 0], together.trace[:, i], rtol=1e-9)
    assert np.abs(together.images[0] - together.images[1]).max() > 0.01
    random = probes.maximize(model, o.logit(1), n=3, size=8, schedule=schedule)
    few = probes.maximize(model, o.logit(1), n=2, size=8, schedule=schedule)
    many = probes.maximize(model, o.logit(1), n=3, size=8, schedule=schedule, batch_size=1)
    np.testing.assert_allclose(few.images, random.images[:2], atol=1e-6)
    np.testing.assert_allclose(many.images, random.images, atol=1e-6)


def test_a_coupled_objective_does_depend_on_the_others():
    objective = o.logit(1) - 5 * o.diversity("relu1")
    options = {"schedule": SHORT["lucid"], "starts": starts()}
    together = probes.maximize(Net(), objective, **options)
    alone = probes.maximize(Net(), objective, schedule=SHORT["lucid"], starts=starts()[:1])
    assert np.abs(together.images[0] - alone.images[0]).max() > 0.01
    with pytest.raises(ParameterError, match="couples images, so all 3 go in one batch"):
        probes.maximize(Net(), objective, batch_size=2, **options)
    with pytest.raises(ParameterError, match="couples images"):
        probes.objective_values(Net(), starts(), objective)


@pytest.mark.parametrize("name", SHORT)
def test_the_same_seed_gives_the_same_image_and_it_climbs(name):
    model, state = interp.load(Net()), torch.get_rng_state()
    options = {"n": 2, "size": 9, "schedule": SHORT[name]}
    one, two = (probes.maximize(model, o.logit(2), seed=5, **options) for _ in range(2))
    assert np.array_equal(one.images, two.images) and np.array_equal(one.trace, two.trace)
    other = probes.maximize(model, o.logit(2), seed=6, **options)
    assert not np.array_equal(one.images, other.images)
    assert torch.equal(torch.get_rng_state(), state)  # nothing seeds globally
    if name != "mfv_cbr":  # so short, its first octaves' smoothing is not made good
        assert (one.activation > one.start_activation).all()
    assert one.images.min() >= 0 and one.images.max() <= 1 and one.images.dtype == np.float32
    assert one.trace.shape == (SHORT[name].steps, 2)
    again = probes.objective_values(model, one.images, o.logit(2))
    np.testing.assert_allclose(again, one.activation, atol=1e-5)


def test_pixels_grow_and_the_middle_is_what_the_model_reads():
    found = probes.maximize(Net(), o.logit(0), starts=starts(1, 3, 20, 20), schedule="mfv_mean")
    assert found.canvas.shape == (1, 3, 24, 24) and found.images.shape == (1, 3, 20, 20)
    np.testing.assert_array_equal(found.canvas[:, :, 2:22, 2:22], found.images)
    assert found.mode == "released_code" and "as released" in " ".join(found.notes)
    assert len(found.trace) == 370


def test_margins_keep_gradients_in_the_middle():
    octave = schedules.Octave(steps=3, rate=(2, 2), margin=50 / 227)
    schedule = schedules.Schedule(
        name="m", parameterisation="pixel", octaves=(octave,), optimiser="mean_abs"
    )
    begun = starts(1, 1, 227, 227)
    found = probes.maximize(Net(1), o.logit(0), starts=begun, schedule=schedule)
    moved = np.abs(found.images[0, 0] - begun[0, 0].float().numpy()) > 1e-6
    assert moved[50:177, 50:177].mean() > 0.9 and not moved[:50].any() and not moved[177:].any()
    assert not moved[:, :50].any() and not moved[:, 177:].any()
    # the mean of |g| is over the whole crop: steps are (227 / 127) ** 2 = 3.19 times as long
    middle = np.abs(found.images[0, 0] - begun[0, 0].float().numpy())[50:177, 50:177]
    whole = replace(schedule, octaves=(replace(octave, margin=0.0),))
    free = probes.maximize(Net(1), o.logit(0), starts=begun, schedule=whole)
    all_over = np.abs(free.images[0, 0] - begun[0, 0].float().numpy())
    assert middle.mean() / all_over.mean() == pytest.approx((227 / 127) ** 2, rel=0.02)


def test_a_dead_unit_is_said_to_be_dead_unless_relus_redirect():
    net = Net()
    with torch.no_grad():
        before = net.conv2(net.relu1(net.conv1(starts(2))))[:, 3]
        net.conv2.bias[3] -= before.max() + 0.05
    begun = starts(2)
    dead = probes.maximize(net, o.channel("relu2", 3), starts=begun, schedule=SHORT["mfv_mean"])
    assert dead.reasons == {f"image {i}": "the gradient was zero at every step" for i in (0, 1)}
    assert np.isfinite(dead.images).all() and (dead.activation == 0).all()
    schedule = schedules.lucid(steps=80, rate=0.1, redirect=60)
    alive = probes.maximize(net, o.channel("relu2", 3), starts=begun, schedule=schedule)
    assert not alive.reasons and (alive.activation > 0).all()
    plain = schedules.lucid(steps=80, rate=0.1, redirect=0)
    assert probes.maximize(net, o.channel("relu2", 3), starts=begun, schedule=plain).reasons


def test_an_image_that_dies_on_the_way_is_said_to():
    class Falls(nn.Module):  # fires below .6 alone: a step of 20 grey levels upwards ends it
        def forward(self, x):
            x = x.mean((2, 3))
            return torch.where(x < 0.6, x, 0 * x.detach())

    octave = schedules.Octave(steps=9, rate=(20, 20))
    plan = schedules.Schedule(
        name="s", parameterisation="pixel", octaves=(octave,), optimiser="mean_abs"
    )
    begun = torch.tensor([0.5, 0.3, 0.0]).view(3, 1, 1, 1).expand(-1, -1, 4, 4)
    found = probes.maximize(Falls(), o.logit(0), starts=begun.clone(), schedule=plan)
    # .5 and .3 pass .6 after 2 and 4 steps of 20 / 255, 0 after 8
    wanted = {f"image {i}": f"the gradient was zero in the last {9 - m} of 9 steps"
              for i, m in enumerate((2, 4, 8))}  # fmt: skip
    assert found.reasons == wanted
    assert not probes.maximize(Falls(), o.logit(0), starts=begun.clone(),
                               schedule=plan.shortened(2 / 9)).reasons  # fmt: skip


def test_crops_finer_than_a_model_of_small_images_knows_are_said():
    for size, side, said in ((32, (0.5, 0.05), True), (32, (1.0, 0.6), False),
                             (224, (0.5, 0.05), False)):  # fmt: skip
        schedule = schedules.maco(steps=1, crops=1, side=side)
        found = probes.maximize(Net(), o.logit(0), size=size, schedule=schedule)
        assert ("the last crops are 4 pixels wide" in " ".join(found.notes)) is said


@pytest.mark.parametrize("c", [1, 3, 5])
def test_any_size_and_number_of_channels(c):
    schedule = schedules.lucid(steps=10)
    found = probes.maximize(Net(c), o.channel("relu2", 1), size=(7, 11), schedule=schedule)
    assert found.images.shape == (1, c, 7, 11) and found.started == "random"


def test_a_vit_at_its_own_size_and_at_another(tiny):
    model = interp.load(tiny("vit"))
    schedule = schedules.lucid(steps=12)
    for objective in (o.logit(1), o.unit("mlp_act.1", 3), o.unit("head_out.1", 9, position=2)):
        found = probes.maximize(model, objective, schedule=schedule)
        assert found.images.shape == (1, 3, 16, 16)
        assert found.activation[0] > found.start_activation[0]
    larger = probes.maximize(model, o.unit("mlp_act.1", 3), size=24, schedule=schedule)
    assert larger.images.shape == (1, 3, 24, 24)


def test_a_dual_encoder_s_vision_tower(tiny):
    model = interp.load(tiny("clip"))
    found = probes.maximize(model, o.unit("vision.mlp_act.1", 3), schedule=schedules.lucid(steps=8))
    assert found.images.shape == (1, 3, 16, 16) and np.isfinite(found.trace).all()


def test_facets_in_a_style_and_progress():
    told = []
    style = {"relu1": torch.randn(6, generator=torch.Generator().manual_seed(1))}
    objective = o.faceted(o.channel("relu2", 1), style)
    schedule = schedules.lucid(steps=20)
    found = probes.maximize(
        Net(), objective, starts=starts(), schedule=schedule, batch_size=2,
        progress=lambda done, of, what: told.append((done, of, what)),
    )  # fmt: skip
    assert (found.activation > found.start_activation).all()
    assert told[0] == (1, 40, "steps") and told[-1] == (40, 40, "steps") and len(told) == 40
    plain = probes.maximize(Net(), o.channel("relu2", 1), starts=starts(), schedule=schedule)
    none = o.faceted(o.channel("relu2", 1), {"relu1": torch.zeros(6)}, away=0.0)
    same = probes.maximize(Net(), none, starts=starts(), schedule=schedule)
    np.testing.assert_allclose(same.images, plain.images, atol=1e-6)
    assert np.abs(found.images - plain.images).max() > 0.01


def test_a_result_is_saved_and_read_again(tmp_path):
    found = probes.maximize(Net(), o.logit(0), n=2, size=8, schedule=schedules.lucid(steps=5))
    again = Result.load(found.save(tmp_path / "m.json"))
    assert np.array_equal(again.images, found.images) and again.metrics() == found.metrics()
    assert list(found.to_frame().columns) == ["image", "start_activation", "activation"]
    assert found.inputs.shape == found.images.shape


def test_what_cannot_be_done_is_refused_in_a_sentence():
    net = Net()
    for call, error, words in [
        (dict(objective="fc"), ParameterError, "takes an objective, as objectives.unit"),
        (dict(objective=o.logit(9), size=8), ParameterError, "units of output are 0..3; got 9"),
        (dict(objective=o.unit("fcc", 0), size=8), LayerNotFound, "no hook point matches 'fcc'"),
        (dict(objective=o.logit(0)), ParameterError, "does not say the size"),
        (dict(objective=o.logit(0), size=8, channels=2), ModelError, r"fails on images \[1, 2"),
        (dict(objective=o.logit(0), starts=starts(), n=2), ParameterError, "number of starts, 3"),
        (dict(objective=o.logit(0), starts=starts() * 9), DataError, "starts must lie in 0..1"),
        (dict(objective=o.logit(0), size=8, n=0), ParameterError, "n must be at least 1"),
        (dict(objective=o.logit(0), size=8, batch_size=0), ParameterError, "batch_size must"),
        (dict(objective=o.logit(0), size=8, schedule="x"), ParameterError, "schedule must be one"),
    ]:
        with pytest.raises(error, match=words):
            probes.maximize(net, **call)
    with torch.no_grad():
        net.fc.bias[0] = float("nan")
    with pytest.raises(ModelError, match=r"output\[0\] becomes NaN or infinity"):
        probes.maximize(net, o.logit(0), size=8)
    assert all(len(m._forward_hooks) == 0 for m in net.modules())


@pytest.mark.real
def test_images_fire_a_logit_and_a_hidden_channel_of_resnet20_more_than_any_real_image(real):
    model = interp.load(f"{real / 'resnet20.py'}:load")
    data = interp.read(f"{real / 'resnet20.py'}:images")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    column = (-1, 1, 1)
    images = data.inputs * torch.tensor(std).view(column) + torch.tensor(mean).view(column)
    images = images.clamp(0, 1)
    for objective in (o.logit(8), o.channel("layer3.1.relu2", 5)):
        options = {"normalise": (mean, std)}
        values = probes.objective_values(model, images, objective, batch_size=200, **options)
        if objective.hookpoints == ("output",):
            with torch.no_grad():
                logits = model.module(data.inputs[:50])[:, 8]
            np.testing.assert_allclose(values[:50], logits, atol=1e-3)
        best = values.argsort()[::-1][:45].copy()
        starts = images[best].view(3, 15, 3, 32, 32).mean(1)
        for schedule in (schedules.lucid(steps=48), schedules.mfv_mean(corrected=True)):
            found = probes.maximize(model, objective, starts=starts, schedule=schedule, **options)
            assert (found.start_activation < values.max()).all()
            assert (found.activation > values.max()).all()
            assert not found.reasons
