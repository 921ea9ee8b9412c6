"""A watched model is the same model before, after, and where ReLUs redirect their gradients."""

import pytest
import torch
from torch import nn

import interp
from interp.errors import LayerNotFound, ModelError, ParameterError
from probes.multifaceted import objectives as o
from probes.multifaceted.frames import frame_of
from probes.multifaceted.watching import Watched, redirected_relu


class Net(nn.Module):
    def __init__(self, inplace=False):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.relu1 = nn.ReLU(inplace=inplace)
        self.conv2 = nn.Conv2d(4, 5, 3, padding=1)
        self.relu2 = nn.ReLU(inplace=inplace)
        self.fc = nn.Linear(5, 3)
        drawn = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for p in self.parameters():
                if p is not self.bn.weight:
                    p.copy_(torch.randn(p.shape, generator=drawn) / p[0].numel() ** 0.5)

    def forward(self, x):
        x = self.relu1(self.bn(self.conv1(x)))
        return self.fc(self.relu2(self.conv2(x)).mean((2, 3)))


def images(n=3):
    return torch.rand(n, 2, 6, 6, generator=torch.Generator().manual_seed(1))


def watched(module, objective, **options):
    model = interp.load(module)
    return Watched(model, objective, frame_of(model, starts=images(), **options))


def hooks(module):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())


def test_the_model_is_as_it_was_after_also_after_an_error():
    module = Net().train()
    module.relu1.eval()
    module.fc.weight.requires_grad_(False)
    before = {k: v.clone() for k, v in module.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"):
        with watched(module, o.logit(1)) as w:
            assert not module.training and hooks(module) > 0
            assert not any(p.requires_grad for p in module.parameters())
            w.redirect = True
            w.values(images().requires_grad_()).sum().backward()
            raise RuntimeError("stop")
    assert module.training and not module.relu1.training and hooks(module) == 0
    wanting = [n for n, p in module.named_parameters() if not p.requires_grad]
    assert wanting == ["fc.weight"]
    assert all(p.grad is None for p in module.parameters())
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_values_are_those_of_the_model_on_normalised_images():
    module = Net().eval()
    mean, std = (0.4, 0.6), (0.2, 0.3)
    column = (-1, 1, 1)
    x = (images() - torch.tensor(mean).view(column)) / torch.tensor(std).view(column)
    with torch.no_grad():
        right = module(x)
    with watched(module, o.logit(2), normalise=(mean, std)) as w:
        torch.testing.assert_close(w.values(images()), right[:, 2])
    with watched(module, o.logit(2)) as w:  # the arm
        assert not torch.allclose(w.values(images()), right[:, 2])


@pytest.mark.parametrize("inplace", [False, True])
def test_what_is_seen_is_not_changed_by_what_works_in_place_after_it(inplace):
    module = Net(inplace).eval()
    with torch.no_grad():
        right = module.bn(module.conv1(images()))[:, 1].mean((1, 2))
    for redirect in (False, True):
        with watched(module, o.unit("bn", 1) + 0 * o.logit(0)) as w:
            w.redirect = redirect
            torch.testing.assert_close(w.values(images()), right)


def test_the_forward_ends_where_the_last_hook_point_fired():
    module = Net().eval()
    ran = []
    module.fc.register_forward_hook(lambda *a: ran.append(1))
    with watched(module, o.unit("relu1", 0)) as w:
        w.values(images())
        assert not ran
        w.check(images()[:1])
        assert ran  # the check runs to the end


def dead(inplace=False):
    module = Net(inplace).eval()
    with torch.no_grad():
        module.conv2.bias[2] = -50.0
    return module


@pytest.mark.parametrize("inplace", [False, True])
def test_a_dead_unit_has_a_gradient_where_relus_redirect(inplace):
    x = images()
    with watched(dead(inplace), o.channel("relu2", 2)) as w:
        plain = x.clone().requires_grad_()
        value = w.values(plain)
        assert float(value.detach().abs().max()) == 0
        (none,) = torch.autograd.grad(value.sum(), plain)
        w.redirect = True
        leaf = x.clone().requires_grad_()
        found = w.values(leaf)
        assert torch.equal(found, value)  # the forward is the same
        (slope,) = torch.autograd.grad(found.sum(), leaf)
    assert float(none.abs().max()) == 0 and float(slope.abs().max()) > 0


def test_redirected_gradients_by_hand():
    x = torch.tensor([[-1.0, 2.0], [-1.0, -2.0]], requires_grad=True)
    weights = torch.tensor([[3.0, 4.0], [5.0, -6.0]])
    (slope,) = torch.autograd.grad((redirected_relu(x) * weights).sum(), x)
    # image 0 has one alive unit: a plain ReLU; image 1 has none: up passes, further down does not
    assert slope.tolist() == [[0.0, 4.0], [5.0, 0.0]]
    (plain,) = torch.autograd.grad((x.relu() * weights).sum(), x)
    assert plain.tolist() == [[0.0, 4.0], [0.0, 0.0]]


def test_what_does_not_work_is_said():
    with pytest.raises(ParameterError, match=r"looks at one hook point; 'relu\*' means 2"):
        watched(Net(), o.unit("relu*", 0))
    with pytest.raises(LayerNotFound, match="no hook point matches 'relu3'"):
        watched(Net(), o.unit("relu3", 0))

    class Two(nn.Module):
        def forward(self, x, y):
            return x + y

    with pytest.raises(ModelError, match=r"Two fails on images \[1, 2, 6, 6\]: .*'y'"):
        with watched(Two(), o.logit(0)) as w:
            w.check(images()[:1])

    shared = nn.Sequential(nn.Conv2d(2, 2, 1), relu := nn.ReLU(), nn.Conv2d(2, 2, 1), relu)
    with pytest.raises(LayerNotFound, match="fires 2 times"):
        with watched(shared, o.unit("1", 0)) as w:
            w.check(images()[:1])
    assert hooks(shared) == 0


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("relu", ["function", "torch", "method", "dropped"])
def test_relus_written_as_functions_redirect_too(relu, inplace):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 1)
            self.after = nn.Identity()

        def forward(self, x):
            x = self.conv(x)
            if relu == "function":
                x = nn.functional.relu(x, inplace=inplace)
            elif relu == "torch":
                x = torch.relu_(x) if inplace else torch.relu(x)
            elif relu == "method":
                x = x.relu_() if inplace else x.relu()
            else:  # what works in place may be called for that alone
                nn.functional.relu(x, inplace=True)
            return self.after(x)

    module = Functional().eval()
    with torch.no_grad():
        module.conv.bias[1] = -50.0
        right = module(images())
    with watched(module, o.channel("after", 1) + o.channel("after", 0)) as w:
        w.redirect = True
        torch.testing.assert_close(w.values(images()), right[:, :2].mean((2, 3)).sum(1))
    with watched(module, o.channel("after", 1)) as w:
        for redirect in (False, True):
            w.redirect = redirect
            leaf = images().requires_grad_()
            (slope,) = torch.autograd.grad(w.values(leaf).sum(), leaf)
            assert bool(slope.any()) is redirect
