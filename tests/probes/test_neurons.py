"""Activation sparsity: hand-counted cases, streams, refusals, and what the real models hold."""

import inspect
import textwrap

import numpy as np
import pytest
import torch

import interp
import probes
from interp.capturing import Capture
from interp.errors import DataError, ParameterError, ShapeError
from probes import SparsityCounter, sparsity
from probes.criteria import CRITERIA

PRE = torch.tensor([[1, -2, 3, 0], [-1, 0.5, 0, 2], [4, -1, -1, -1]])


def relu(n, d, seed=0, shift=0.0):
    return (torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift).relu()


# ---- reference checks of the methods file, section 3


def test_the_counted_case():
    found = sparsity(PRE.relu(), "exact")
    assert found.density[0] == 5 / 12
    np.testing.assert_array_equal(found.rates[0], [2 / 3, 1 / 3, 1 / 3, 1 / 3])
    assert found.dead == (0,) and found.tokens == (3,) and found.n == 3
    assert found.quantiles[0].tolist() == [1, 1, 2, 2, 2]  # tokens hold .5, .5 and .25 of four
    with pytest.raises(ParameterError, match="negative values"):
        sparsity(PRE, "exact")  # the arm: without the ReLU it is refused


def test_random_weights_leave_half():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(512, 768, generator=generator)
    w = torch.randn(768, 3072, generator=generator) / 768**0.5
    assert 0.49 < sparsity((x @ w).relu(), "exact").density[0] < 0.51
    assert sparsity((x @ w - 1).relu(), "exact").density[0] < 0.2  # it can be otherwise


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_stream_is_one_shot(criterion):
    """Whole numbers: shuffled rows in unequal batches, and merged counters, give the same bits."""
    x = relu(700, 24, shift=-0.5)
    x[::7, 3] = float("nan")
    whole = SparsityCounter(criterion).update(x).result().metrics()
    order = torch.randperm(700, generator=torch.Generator().manual_seed(1))
    parts = torch.split(x[order], [1, 0, 13, 400, 286])
    one, other = SparsityCounter(criterion), SparsityCounter(criterion)
    for i, part in enumerate(parts):
        (one, other)[i % 2].update(part)
    assert other.merge(one).result().metrics() == whole
    wrong = np.mean([SparsityCounter(criterion).update(p).result().density[0] for p in parts if
                     len(p)])  # fmt: skip
    assert wrong != whole["density"][0]  # means of unequal batches are another number


# ---- criteria, by hand


@pytest.mark.parametrize(
    ("criterion", "options", "expected"),
    [
        ("abs_eps", {"level": 0.5}, [[1, 0, 0, 1]]),
        ("rel_eps", {"level": 0.1}, [[1, 0, 0, 1]]),
        ("rel_eps", {"level": 0.02}, [[1, 1, 0, 1]]),
        ("rel_eps", {"level": 0.1, "norm": "rms"}, [[1, 0, 0, 1]]),  # rms 5.0003
        ("mass", {"level": 0.5}, [[1, 0, 0, 0]]),
        ("mass", {"level": 0.9}, [[1, 0, 0, 1]]),  # 8 of 14.3, then 14
        ("mass", {"level": 0.99}, [[1, 1, 0, 1]]),
        ("mass", {"level": 0.99, "norm": "l2"}, [[1, 0, 0, 1]]),  # 100 of 100.09
        ("topk_ratio", {"level": 0.25}, [[1, 0, 0, 0]]),
        ("topk_ratio", {"level": 0.99}, [[1, 1, 0, 1]]),  # a zero is never active
        ("exact", {"gated": True}, [[1, 1, 0, 1]]),
    ],
)  # fmt: skip
def test_criteria_by_hand(criterion, options, expected):
    x = torch.tensor([[-8.0, 0.3, 0.0, 6.0]])
    found = sparsity(x, criterion, **options)
    np.testing.assert_array_equal(found.active[0], expected[0])
    assert found.criterion == criterion and found.dtypes == ("float32",)


def test_ties_go_to_the_lower_index_and_keep_exactly_k():
    x = torch.tensor([[0.0, 0.0, 3.0, 3.0, 3.0, 1.0]])
    assert sparsity(x, "topk_ratio", level=1 / 3).active[0].tolist() == [0, 0, 1, 1, 0, 0]


@pytest.mark.parametrize("criterion", ["rel_eps", "mass", "topk_ratio"])
def test_a_row_s_scale_does_not_matter(criterion):
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)).double()
    scale = torch.rand(50, 1, generator=torch.Generator().manual_seed(1)).double() + 0.5
    a, b = sparsity(x, criterion), sparsity(x * scale, criterion)
    np.testing.assert_array_equal(a.active[0], b.active[0])
    fixed = [sparsity(y, "abs_eps", level=0.5).active[0] for y in (x, x * scale)]
    assert (fixed[0] != fixed[1]).any()


# ---- what must never look like a good score


@pytest.mark.parametrize("activation", ["gelu", "silu", "selu"])
def test_exact_is_refused_for_another_non_linearity(activation):
    x = getattr(torch.nn.functional, activation)(PRE * 3)
    with pytest.raises(ParameterError, match=r"it is no ReLU.*rel_eps"):
        sparsity(x, "exact")
    assert 0 < sparsity(x, "rel_eps").density[0] <= 1


def test_exact_is_refused_where_nothing_is_zero():
    with pytest.raises(ParameterError, match="no exact zero among 12 values"):
        sparsity(torch.ones(3, 4), "exact")
    constant = sparsity(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), "exact")
    assert constant.always_on == (1,) and constant.dead == (1,)


def test_a_product_of_a_relu_gate_may_be_negative():
    x = torch.tensor([[-1.0, 0.0, 2.0]])
    with pytest.raises(ParameterError, match="gated=True"):
        sparsity(x, "exact")
    assert sparsity(x, "exact", gated=True).density[0] == 2 / 3
    with pytest.raises(ParameterError, match="no exact zero"):
        sparsity(x[:, ::2], "exact", gated=True)


def test_nan_is_neither_active_nor_inactive():
    x = torch.tensor([[1.0, float("nan"), 0.0], [2.0, float("inf"), 0.0], [0.0, float("nan"), 1.0]])
    found = sparsity(x, "exact")
    assert found.not_finite == (3,) and found.density[0] == 3 / 6
    assert np.isnan(found.rates[0][1]) and found.dead == (0,)
    assert sparsity(x, "rel_eps").density[0] == 3 / 6
    empty = sparsity(torch.full((2, 2), float("nan")), "rel_eps")
    assert np.isnan(empty.density[0]) and empty.dead == (0,)
    assert "no finite value" in empty.reasons["density.activations"]


def test_an_empty_input_is_an_error_and_a_map_of_zeros_is_legal():
    with pytest.raises(DataError, match="no rows"):
        sparsity(torch.zeros(0, 4), "exact")
    for criterion in CRITERIA:
        found = sparsity(torch.zeros(5, 4), criterion)
        assert found.density[0] == 0 and found.dead == (4,)
        assert np.isnan(found.live_density[0])
        assert "no neuron was active" in found.reasons["live_density.activations"]


def test_dead_neurons_do_not_flatter_the_live_ones():
    x = torch.cat([relu(100, 8), torch.zeros(100, 24)], dim=1)
    found = sparsity(x, "exact")
    assert found.dead == (24,)
    assert found.live_density[0] == pytest.approx(4 * found.density[0], rel=1e-12)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("magic",), "criterion must be one of"),
        (("exact", 0.1), "exact has no level"),
        (("rel_eps", -1.0), "at least 0"),
        (("mass", 1.0), "below 1"),
        (("mass", 0.9, "max"), "l1 or l2"),
        (("abs_eps", 0.9, "l1"), "left out"),
        (("mass", 0.9, None, True), "gated says"),
    ],
)
def test_wrong_settings_are_refused(arguments, said):
    with pytest.raises(ParameterError, match=said):
        SparsityCounter(*arguments)


def test_wrong_rows_are_refused():
    with pytest.raises(ShapeError, match="a row a token"):
        sparsity(torch.ones(4), "abs_eps")
    with pytest.raises(ShapeError, match="floats"):
        sparsity(torch.ones(4, 2, dtype=torch.int64), "abs_eps")
    counter = SparsityCounter("abs_eps").update(torch.ones(4, 2))
    with pytest.raises(ShapeError, match="2 neurons"):
        counter.update(torch.ones(4, 3))
    with pytest.raises(ParameterError, match="do not merge"):
        counter.merge(SparsityCounter("mass"))
    with pytest.raises(ParameterError, match="takes a store"):
        sparsity(3, "abs_eps")


# ---- experts, histograms, the initial value


def test_each_expert_has_its_own_denominator():
    experts = {"expert.0": relu(90, 6), "expert.1": relu(10, 6, shift=-1), "expert.2": PRE[:0]}
    found = sparsity(experts, "exact")
    assert found.tokens == (90, 10, 0) and found.n == 90
    assert found.density[1] == float((experts["expert.1"] > 0).double().mean())
    assert np.isnan(found.density[2]) and "no token" in found.reasons["density.expert.2"]
    together = sparsity(torch.cat([experts["expert.0"], experts["expert.1"]]), "exact")
    assert together.density[0] != pytest.approx(found.density[:2].mean())


def test_the_histogram_holds_every_neuron_once():
    x = torch.zeros(10, 4)
    x[:3, 0] = x[:10, 1] = x[:1, 2] = 1
    edges, counts = sparsity(x, "exact").histogram(10)
    assert edges[3] == pytest.approx(0.3) and counts[0].tolist() == [1, 1, 0, 1, 0, 0, 0, 0, 0, 1]
    assert sparsity(x, "exact").rare()[0] == 0.25  # .1 is not below .1


def test_the_initial_value_stands_beside():
    x, x0 = relu(40, 6, shift=-1), relu(30, 6)
    found = sparsity(x, "exact", initial=x0)
    assert found.initial_density[0] == sparsity(x0, "exact").density[0] > found.density[0]
    assert found.initial["tokens"] == [30]
    with pytest.raises(ParameterError, match="counts by rel_eps"):
        found.beside(sparsity(x0, "rel_eps"))
    with pytest.raises(ShapeError, match="other hook points"):
        found.beside(sparsity(relu(30, 7), "exact"))


def test_it_saves_and_loads(tmp_path):
    found = sparsity({"a": relu(20, 5), "b": relu(20, 3)}, "mass", initial={"a": relu(9, 5, 1),
                     "b": relu(9, 3, 2)})  # fmt: skip
    again = interp.Result.load(found.save(tmp_path / "r.json"))
    assert isinstance(again, probes.Sparsity) and again.metrics() == found.metrics()
    assert again.to_frame().equals(found.to_frame())


# ---- models


def test_a_stream_of_a_model_is_its_store(gpt2, texts):
    points = ["mlp_act.*"]
    store = interp.capture(gpt2, texts, points, pool="all")
    streamed = sparsity(Capture(gpt2, texts, points, "all", batch_size=5), "rel_eps", name="x")
    stored = sparsity(store, "rel_eps", name="x")
    assert stored.tokens == streamed.tokens == (sum(len(t.split()) for t in texts),) * 3  # no pads
    assert streamed.metrics() == stored.metrics()
    with pytest.raises(ParameterError, match="mlp_act.0 has negative values"):
        sparsity(store, "exact")  # GELU


def test_a_gated_mlp_is_measured_at_the_product(tiny, tokenizer, texts):
    model = interp.Model(tiny("llama"), spec="tiny", tokenizer=tokenizer())
    _, cache = interp.run_with_cache(model, texts[0], ["mlp_act.1", "model.layers.1.mlp.act_fn"])
    _, up = interp.run_with_cache(model, texts[0], ["model.layers.1.mlp.up_proj"])
    product = cache["model.layers.1.mlp.act_fn"] * up["model.layers.1.mlp.up_proj"]
    found = sparsity(Capture(model, texts[:1], ["mlp_act.1"], "all"), "rel_eps")
    expected = sparsity(product[0], "rel_eps")
    assert found.density[0] == expected.density[0]
    assert found.sites == ("model.layers.1.mlp.down_proj:in",)


def test_training_makes_pylm_sparse():
    model = interp.load("demo:pylm")
    source = inspect.getsource(textwrap)
    data = [source[i : i + 250] for i in range(0, 12000, 250)]
    points = ["mlp_act.*"]
    fresh = Capture(model.reinitialised(0), data, points, "all")
    found = sparsity(Capture(model, data, points, "all"), "exact", initial=fresh)
    np.testing.assert_allclose(found.initial_density, 0.5, atol=0.03)
    assert found.density.mean() < 0.2 and (found.density[1:] < 0.1).all()


@pytest.mark.slow
def test_training_makes_resnet20_sparser(real):
    model = interp.load(f"{real / 'resnet20.py'}:load")
    data = interp.read(f"{real / 'resnet20.py'}:images")
    data = interp.Dataset(
        name="images", kind="tensor", inputs=data.inputs[:256], rows=data.rows[:256]
    )
    points = ["layer*.*.relu1"]
    fresh = Capture(model.reinitialised(0), data, points, "all")
    found = sparsity(Capture(model, data, points, "all"), "exact", initial=fresh)
    assert (found.initial_density > 0.45).all()
    assert found.density.mean() < 0.4 and found.density.min() < 0.25
