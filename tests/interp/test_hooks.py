"""The hook primitive: it sees, it replaces, and it is gone."""

from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from transformers.utils import ModelOutput

import interp
from interp.errors import LayerNotFound, ShapeError
from interp.hooks import evaluating, hooked

Pair = namedtuple("Pair", ["first", "second"])


@dataclass
class Output(ModelOutput):
    last_hidden_state: Tensor | None = None
    other: Tensor | None = None


SHAPES = {
    "tensor": lambda x, y: x,
    "tuple": lambda x, y: (x, y),
    "none first": lambda x, y: (None, x, y),
    "list": lambda x, y: [x, y],
    "named": lambda x, y: Pair(x, y),
    "output": lambda x, y: Output(last_hidden_state=x, other=y),
    "dict": lambda x, y: {"logits": x, "other": y},
}


class Inner(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x, scale=1.0):
        return self.wrap(x * scale, x - 7)


class Outer(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.inner = Inner(wrap)

    def forward(self, x):
        self.got = self.inner(x, scale=2.0)
        return self.got


def parts(output):
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if hasattr(output, "values") else output
    return [v for v in values if v is not None]


@pytest.mark.parametrize("kind", list(SHAPES))
def test_every_kind_of_output_is_seen_and_replaced(kind):
    model, x = Outer(SHAPES[kind]), torch.arange(6.0).reshape(1, 2, 3)
    plain = model(x)
    with interp.record(model, "inner") as acts:
        model(x)
    assert torch.equal(acts["inner"], 2 * x)
    with interp.splice(model, "inner", lambda v: v + 100):
        changed = model(x)
    assert type(changed) is type(plain)
    assert torch.equal(parts(changed)[0], 2 * x + 100)
    for a, b in zip(parts(changed)[1:], parts(plain)[1:], strict=True):
        assert torch.equal(a, b)  # the rest is untouched
    assert torch.equal(parts(plain)[0], 2 * x)  # and so is what was given before


def test_a_replaced_model_output_keeps_its_attributes_and_keys():
    model, x = Outer(SHAPES["output"]), torch.ones(1, 2, 3)
    with interp.splice(model, "inner", lambda v: v * 0):
        changed = model(x)
    assert torch.equal(changed.last_hidden_state, changed["last_hidden_state"])
    assert float(changed.last_hidden_state.sum()) == 0
    assert torch.equal(changed[1], x - 7)


@pytest.mark.parametrize("by_name", [False, True])
def test_inputs_are_seen_and_replaced_however_they_are_passed(by_name):
    class Caller(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Inner(SHAPES["tensor"])

        def forward(self, x):
            return self.inner(x=x, scale=3.0) if by_name else self.inner(x, 3.0)

    model, x = Caller(), torch.ones(1, 2, 3)
    with interp.record(model, "inner:in") as acts:
        model(x)
    assert torch.equal(acts["inner:in"], x)
    with interp.splice(model, "inner:in", lambda v: v + 1):
        assert torch.equal(model(x), 6 * x)
    assert torch.equal(model(x), 3 * x)


def test_an_output_without_a_tensor_is_refused():
    model = Outer(lambda x, y: "text")
    with pytest.raises(ShapeError, match="inner is a str without a tensor"):
        interp.run_with_cache(model, torch.ones(1, 2), "inner")


def count(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def contexts(model):
    return {
        "record": lambda: interp.record(model, ["0", "1:in"]),
        "steer": lambda: interp.steer(model, "0", torch.ones(3)),
        "ablate": lambda: interp.ablate(model, "0", [1]),
        "patch": lambda: interp.patch(model, {"0": torch.ones(2, 3)}),
        "splice": lambda: interp.splice(model, "0", lambda x: x),
    }


@pytest.mark.parametrize("name", ["record", "steer", "ablate", "patch", "splice"])
def test_hooks_are_gone_after_the_context_and_after_an_exception(name):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    context = contexts(model)[name]
    with context():
        assert count(model) > 0
        model(torch.ones(2, 3))
    assert count(model) == 0
    with pytest.raises(ZeroDivisionError), context():
        _ = 1 / 0
    assert count(model) == 0
    model[1].register_forward_hook(lambda *a: 1 / 0)  # a forward that fails inside
    with pytest.raises(ZeroDivisionError), context():
        model(torch.ones(2, 3))
    assert count(model) == 1


def test_no_hook_is_left_when_setting_them_fails():
    model = nn.Sequential(nn.Linear(3, 3))
    good = interp.load(model).resolve("0")
    bad = [*good, interp.HookPoint("gone", "gone")]
    with pytest.raises(KeyError), hooked(model, bad, lambda p, x: None):
        pass
    assert count(model) == 0


def test_record_names_what_never_fired_but_not_over_another_error():
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    with pytest.raises(LayerNotFound, match="b never fired"), interp.record(model, ["a", "b"]):
        model["a"](torch.ones(1, 2))
    with pytest.raises(ZeroDivisionError), interp.record(model, ["a", "b"]):
        _ = 1 / 0


def test_calls_of_a_module_that_fires_twice():
    model = nn.Sequential(nn.Linear(2, 2))
    with interp.record(model, "0") as acts:
        first = model(torch.ones(1, 2))
        second = model(torch.zeros(1, 2))
    assert torch.equal(acts.calls("0")[0], first) and torch.equal(acts.calls("0")[1], second)
    with pytest.raises(LayerNotFound, match=r"0 fired 2 times; use .calls\('0'\)"):
        acts["0"]
    with pytest.raises(LayerNotFound, match="'1' was not recorded"):
        acts.calls("1")
    assert list(acts) == ["0"] and len(acts) == 1
    assert acts.to(torch.float64).calls("0")[0].dtype == torch.float64


def test_gradients_flow_only_where_asked():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 1))
    x = torch.ones(1, 2)
    with interp.record(model, "0") as acts:
        model(x)
    assert not acts["0"].requires_grad
    out, acts = interp.run_with_cache(model, x, "0", grad=True)
    acts["0"].retain_grad()
    out.sum().backward()
    by_hand = model[2].weight * (acts["0"] > 0)
    torch.testing.assert_close(acts["0"].grad, by_hand)
    out, _ = interp.run_with_cache(model, x, "0")
    assert not out.requires_grad


def test_evaluating_puts_each_mode_back():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.Dropout(), nn.Linear(2, 2))).train()
    model[1].eval()
    model[1][1].train()
    before = [m.training for m in model.modules()]
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert not any(m.training for m in model.modules())
        _ = 1 / 0
    assert [m.training for m in model.modules()] == before
    assert any(before) and not all(before)
