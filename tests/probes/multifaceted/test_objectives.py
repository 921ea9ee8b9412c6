"""Objectives by hand on known tensors, their algebra, and what they refuse."""

import numpy as np
import pytest
import torch
from torch import nn

import interp
import probes
import saes
from interp.errors import ParameterError, ShapeError
from interp.hookpoints import HookPoint
from probes.multifaceted import objectives as o
from probes.multifaceted.objectives import Seen


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def seen(**held):
    n = len(next(iter(held.values())))
    points = {name: HookPoint(name, name) for name in held}
    return Seen(torch.rand(n, 1, 4, 4, generator=generator(), dtype=torch.float64), held, points)


def test_units_of_maps_tokens_and_rows():
    x = drawn(2, 5, 3, 4)
    s = seen(a=x, t=drawn(2, 6, 7), r=drawn(2, 9))
    torch.testing.assert_close(o.channel("a", 3).value(s), x[:, 3].mean((1, 2)))
    torch.testing.assert_close(o.unit("a", 3, position="max").value(s), x[:, 3].amax((1, 2)))
    torch.testing.assert_close(o.neuron("a", 3).value(s), x[:, 3, 1, 2])
    torch.testing.assert_close(o.neuron("a", 3, (2, 0)).value(s), x[:, 3, 2, 0])
    torch.testing.assert_close(o.unit("t", 6, position=5).value(s), s.held["t"][:, 5, 6])
    torch.testing.assert_close(o.unit("r", 8).value(s), s.held["r"][:, 8])
    last = {"a": HookPoint("a", "a", axis="last")}
    turned = Seen(s.images, {"a": x.permute(0, 2, 3, 1)}, last)
    torch.testing.assert_close(o.neuron("a", 3).value(turned), x[:, 3, 1, 2])
    heads = Seen(s.images, {"h": drawn(2, 4, 3, 5)}, {"h": HookPoint("h", "h", d_head=5)})
    torch.testing.assert_close(o.unit("h", 7).value(heads), heads.held["h"][:, :, 1, 2].mean(1))


def test_sums_and_products():
    s = seen(a=drawn(3, 4), b=drawn(3, 4, seed=1))
    a, b = o.unit("a", 0), o.unit("b", 1)
    x, y = s.held["a"][:, 0], s.held["b"][:, 1]
    for made, right in [
        (a + b, x + y),
        (a - 2 * b, x - 2 * y),
        (a * b, x * y),
        (1 - a, 1 - x),
        (-a + 0.5, 0.5 - x),
    ]:
        torch.testing.assert_close(made.value(s), right)
    assert (a + b * a).hookpoints == ("a", "b")
    assert (a - 2 * b).name == "(a[0] - (b[1] * 2))"
    with pytest.raises(ParameterError, match="objectives and finite numbers; got 'x'"):
        _ = a + "x"
    with pytest.raises(ParameterError, match="finite"):
        _ = a * float("nan")


def test_only_a_logit_has_a_probability_and_sums_keep_it():
    s = seen(output=drawn(3, 4), b=drawn(3, 4, seed=1))
    p = s.held["output"].softmax(1)[:, 2]
    torch.testing.assert_close(o.logit(2).probability.value(s), p)
    assert o.unit("b", 1).probability is None
    both = (o.logit(2) - 2 * o.unit("b", 1)).probability
    torch.testing.assert_close(both.value(s), p - 2 * s.held["b"][:, 1])
    assert (o.unit("b", 1) + 1).probability is None


def test_a_direction_is_an_inner_product_at_each_position():
    s = seen(a=drawn(2, 5, 3, 4))
    v = drawn(5, seed=3)
    torch.testing.assert_close(
        o.direction("a", v).value(s), torch.einsum("nchw,c->n", s.held["a"], v) / 12
    )
    with pytest.raises(ShapeError, match="a direction of 4 does not fit a, which is 5 wide"):
        o.direction("a", v[:4]).value(s)
    with pytest.raises(ShapeError, match="one finite vector"):
        o.direction("a", v[None])


def test_diversity_of_equal_images_is_b_less_one_and_of_orthogonal_styles_zero():
    same = drawn(1, 3, 2, 2).expand(5, -1, -1, -1)
    assert float(o.diversity("a").value(seen(a=same)).sum()) == pytest.approx(4)
    apart = torch.zeros(3, 3, 2, 2, dtype=torch.float64)
    for i in range(3):
        apart[i, i] = 1.0 + i
    assert float(o.diversity("a").value(seen(a=apart)).abs().sum()) == 0
    assert o.diversity("a").coupled and (o.unit("a", 0) - o.diversity("a")).coupled
    alone = o.diversity("a").value(seen(a=drawn(1, 3, 2, 2)))
    assert float(alone) == 0


def faceted_case():
    x = drawn(2, 3, 2, 2).requires_grad_()
    s = seen(a=x, b=(x**2).sum((2, 3)))
    return x, s, o.unit("b", 1), torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)


def test_a_facet_s_style_of_zero_leaves_the_plain_objective():
    _, s, base, style = faceted_case()
    none = o.faceted(base, {"a": torch.zeros(3)}, away=0.0)
    torch.testing.assert_close(none.value(s), base.value(s), rtol=0, atol=0)
    off = o.faceted(base, {"a": style}, strength=0.0, away=0.0)
    torch.testing.assert_close(off.value(s), base.value(s), rtol=0, atol=0)
    assert not torch.allclose(o.faceted(base, {"a": style}, away=0.0).value(s), base.value(s))


def test_a_facet_s_style_by_hand():
    x, s, base, style = faceted_case()
    slope = torch.zeros_like(x)
    slope[:, 1] = 2 * x.detach()[:, 1]  # d (sum of x_1 squared) / dx
    added = (style.view(1, 3, 1, 1) * x * slope.relu()).sum((1, 2, 3))
    grey = (s.images - 0.5).square().mean((1, 2, 3))
    found = o.faceted(base, {"a": style}, strength=5.0, away=10.0).value(s)
    torch.testing.assert_close(found, base.value(s) + 5 * added - 10 * grey)
    (gradient,) = torch.autograd.grad(found.sum(), x, retain_graph=True)  # the slope is held fixed
    by_hand = slope + 5 * style.view(1, 3, 1, 1) * slope.relu()
    torch.testing.assert_close(gradient, by_hand)
    flat = style.view(3, 1, 1).expand(3, 4, 4)
    torch.testing.assert_close(o.faceted(base, {"a": flat}).value(s), found)


def test_styles_that_do_not_fit_are_refused():
    _, s, base, style = faceted_case()
    with pytest.raises(ShapeError, match="a style of 2 does not fit a, which is 3 wide"):
        o.faceted(base, {"a": style[:2]}).value(s)
    with pytest.raises(ShapeError, match="styles by hook point"):
        o.faceted(base, {})
    s.held["c"] = drawn(2, 3).requires_grad_()
    s.points["c"] = HookPoint("c", "c")
    with pytest.raises(ParameterError, match=r"b\[1\] does not depend on c"):
        o.faceted(base, {"c": style}).value(s)


def test_what_is_not_there_is_refused_in_a_sentence():
    s = seen(a=drawn(2, 5, 3, 4), t=drawn(2, 6, 7))
    for objective, words in [
        (o.unit("a", 5), "units of a are 0..4; got 5"),
        (o.unit("t", 0, position=6), "t has positions 0..5; got 6"),
        (o.neuron("t", 0), "position at t must be mean, max or an index; got 'center'"),
        (o.neuron("a", 0, (3, 0)), "map of a is 3 x 4"),
        (o.unit("a", 0, position="middle"), "got 'middle'"),
    ]:
        with pytest.raises(ParameterError, match=words):
            objective.value(s)
    with pytest.raises(ParameterError, match="a whole number from 0; got -1"):
        o.unit("a", -1)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.relu = nn.ReLU()
        with torch.no_grad():
            self.conv.weight.copy_(torch.randn(6, 1, 3, 3, generator=generator(5)))
            self.conv.bias.zero_()

    def forward(self, x):
        return self.relu(self.conv(x)).mean((2, 3))


def a_topk(k=1):
    return saes.TopKSAE(saes.TopKConfig(n_latents=12, k=k), 6, generator=generator(2))


def test_a_latent_is_the_coder_s_and_a_silent_one_climbs():
    model, sae = interp.load(Net()), a_topk()
    images = torch.rand(8, 1, 5, 5, generator=generator())
    _, acts = interp.run_with_cache(model, images, ["relu"])
    rows = acts["relu"].flatten(2).transpose(1, 2)
    z = sae.encode(rows).detach()
    for i in range(12):
        found = probes.objective_values(model, images, o.latent("relu", sae, i))
        torch.testing.assert_close(torch.as_tensor(found).float(), z[..., i].mean(1))
    with pytest.raises(ParameterError, match="units of the coder are 0..11; got 12"):
        probes.objective_values(model, images, o.latent("relu", sae, 12))


def test_a_latent_that_is_silent_on_the_start_climbs_until_it_fires():
    model, images = interp.load(Net()), torch.rand(2, 1, 5, 5, generator=generator())
    _, acts = interp.run_with_cache(model, images, ["relu"])
    sae = saes.ReLUSAE(saes.ReLUConfig(n_latents=12, l1=0.0), 6, generator=generator(1))
    with torch.no_grad():
        sae.W_enc[:, 4] = torch.eye(6)[0]
        sae.b_enc[4] = -1.05 * acts["relu"][:, 0].max()
    schedule = probes.multifaceted.schedules.lucid(steps=100, rate=0.1)
    objective = o.latent("relu", sae, 4)
    climbed = probes.maximize(model, objective, starts=images, schedule=schedule)
    assert (climbed.start_activation == 0).all() and (climbed.activation > 0).all()
    plain = o.Objective(  # the arm: the latent alone has no gradient there
        "z", ("relu",), lambda seen: sae.encode(seen.units("relu"))[..., 4].mean(1)
    )
    still = probes.maximize(model, plain, starts=images, schedule=schedule)
    assert (still.activation == 0).all()
    assert still.reasons["image 0"] == "the gradient was zero at every step"
    np.testing.assert_allclose(still.images, images.clamp(1e-3, 1 - 1e-3), atol=1e-5)


def test_a_code_is_ranked_as_the_codebook_ranks_it():
    model = interp.load(Net())
    book = saes.Codebook(saes.CodebookConfig(n_codes=5, k=1), 6, generator=generator(4))
    images = torch.rand(4, 1, 5, 5, generator=generator())
    _, acts = interp.run_with_cache(model, images, ["relu"])
    rows = acts["relu"].flatten(2).transpose(1, 2)
    near = [o.code("relu", book, i, position=7) for i in range(5)]
    ranks = np.stack([probes.objective_values(model, images, code) for code in near])
    chosen = book.encode(rows)[:, 7].argmax(1)
    assert ranks.argmax(0).tolist() == chosen.tolist()
    climbed = probes.maximize(
        model,
        o.code("relu", book, 3, position=7),
        starts=images[:1],
        schedule=probes.multifaceted.schedules.lucid(steps=30),
    )
    assert climbed.activation[0] > climbed.start_activation[0]
