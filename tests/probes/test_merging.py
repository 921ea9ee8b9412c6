"""Feature complexity: duplicates merge without loss, batch norm too; scales as claimed."""

import copy

import pytest
import torch
from torch import nn

from interp.errors import ModelError, ParameterError
from probes.merging import channel_axes, feature_complexity, merge_channels


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def simplex(bias=True):
    """Four distinct channels, all equally far apart, each there twice."""
    net = nn.Sequential(nn.Linear(4, 8, bias=bias), nn.ReLU(), nn.Linear(8, 4, bias=bias)).double()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(4).repeat(2, 1))
        net[2].weight.copy_(torch.eye(4).repeat(1, 2))
        if bias:
            net[0].bias.copy_(torch.randn(4, generator=generator()).repeat(2))
    return net.requires_grad_(False)


def convolutional(double=False):
    """Random convolutions with batch norm; with ``double`` each hidden channel is there twice."""
    g = generator()

    def drawn(*shape):
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    net = nn.Sequential(
        nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 4, 3),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3),
    ).double()  # fmt: skip
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(drawn(*p.shape))
        net[1].running_mean.copy_(drawn(5))
        net[1].running_var.copy_(drawn(5).square() + 0.1)
    if not double:
        return net.eval().requires_grad_(False)
    wide = nn.Sequential(
        nn.Conv2d(3, 10, 3, bias=False), nn.BatchNorm2d(10), nn.ReLU(), nn.Conv2d(10, 4, 3),
        nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(36, 3),
    ).double()  # fmt: skip
    state = net.state_dict()
    for key in ("0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var"):
        state[key] = torch.cat([state[key]] * 2)
    state["3.weight"] = torch.cat([state["3.weight"] / 2] * 2, 1)
    wide.load_state_dict(state)
    return wide.eval().requires_grad_(False)


@pytest.mark.parametrize("distance", ["balanced", "paper"])
@pytest.mark.parametrize("beta", [0.0, 0.001, 0.1, 0.5, 0.99])
def test_duplicates_leave_the_distinct_channels_and_the_function(beta, distance):
    net = simplex()
    smaller, merges = merge_channels(net, beta, distance=distance)
    assert len(smaller[0].weight) == 4 and len(merges["0"]) == 4
    x = torch.randn(20, 4, generator=generator(1), dtype=torch.float64)
    torch.testing.assert_close(smaller(x), net(x), rtol=1e-12, atol=1e-12)
    assert feature_complexity(net, [beta], distance=distance).kept.tolist() == [[4]]
    assert len(net[0].weight) == 8  # the model itself is left alone


def test_batch_norm_of_duplicates_is_merged_without_loss_and_summed_variances_are_not():
    wide, x = convolutional(double=True), torch.randn(6, 3, 10, 10, generator=generator(2)).double()
    smaller, _ = merge_channels(wide, 0.0)
    assert smaller[0].weight.shape[0] == 5
    torch.testing.assert_close(smaller(x), wide(x), rtol=1e-10, atol=1e-10)
    wrong = copy.deepcopy(smaller)  # the released rule: variances are summed
    wrong[1].running_var.div_(2)
    assert float((wrong(x) - wide(x)).abs().max()) > 0.1


def test_flattened_channels_are_read_by_all_their_places():
    net = convolutional()
    axes = channel_axes(net)
    assert [(a.producer, a.consumer, a.norm) for a in axes] == [("0", "3", "1"), ("3", "7", None)]
    smaller, merges = merge_channels(net, 0.9)
    assert any(merges.values())
    kept = len(smaller[3].weight)
    assert smaller[7].weight.shape == (3, 9 * kept) and smaller[7].in_features == 9 * kept
    assert smaller(torch.zeros(1, 3, 10, 10, dtype=torch.float64)).shape == (1, 3)


def rescaled(net):
    """The same function: a layer scaled up, and its readers down."""
    other = copy.deepcopy(net)
    other[1].weight.mul_(27)
    other[1].bias.mul_(27)
    other[3].weight.div_(27)
    return other


def test_scale_changes_the_paper_s_count_and_not_the_balanced_one():
    net = convolutional()
    x = torch.randn(2, 3, 10, 10, generator=generator(3)).double()
    torch.testing.assert_close(net(x), rescaled(net)(x))
    betas = [0.05, 0.1, 0.2, 0.3, 0.5, 0.7]
    counts = [[feature_complexity(m, betas, distance=d).kept for m in (net, rescaled(net))]
              for d in ("balanced", "paper")]  # fmt: skip
    assert (counts[0][0] == counts[0][1]).all() and (counts[1][0] != counts[1][1]).any()


def test_the_order_of_channels_changes_nothing():
    net = convolutional()
    moved, order = copy.deepcopy(net), torch.tensor([3, 0, 4, 1, 2])
    moved[0].weight.copy_(net[0].weight[order])
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(moved[1], name).copy_(getattr(net[1], name)[order])
    moved[3].weight.copy_(net[3].weight[:, order])
    one, two = (feature_complexity(m, [0.3, 0.6]).kept for m in (net, moved))
    assert (one == two).all()


def test_residual_streams_are_left_alone_and_a_result_saves(tmp_path):
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 6), nn.Linear(6, 4)
            self.head = nn.Linear(4, 2)

        def forward(self, x):
            x = torch.relu(self.a(x))
            return self.head(x + self.c(torch.relu(self.b(x))))

    found = feature_complexity(Block())
    assert found.layers == ("b",) and found.widths == (6,)
    assert found.to_frame().shape == (1, 2 + len(found.betas))
    loaded = type(found).load(found.save(tmp_path / "r.json"))
    assert (loaded.kept == found.kept).all()


def test_a_layer_of_one_repeated_channel_is_one_and_of_two_different_ones_two():
    net = simplex(bias=False)
    net[0].weight.copy_(net[0].weight[:1].expand(8, 4))
    net[2].weight.copy_(net[2].weight[:, :1].expand(4, 8))
    assert feature_complexity(net, [0.0]).kept.tolist() == [[1]]
    two = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    assert feature_complexity(two, [0.9]).kept.tolist() == [[2]]


def test_refusals():
    with pytest.raises(ParameterError, match="beta from 0 to below 1"):
        merge_channels(simplex(), 1.0)
    with pytest.raises(ModelError, match="no hidden layer"):
        channel_axes(nn.Sequential(nn.Linear(2, 2), nn.GELU(), nn.Linear(2, 2)))
    with pytest.raises(ParameterError, match="needs a threshold"):
        feature_complexity(simplex(), [])


def test_channels_that_read_one_input_each_are_left_alone():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 1), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.ReLU(), nn.Conv2d(6, 2, 1),
        nn.ReLU(), nn.Conv2d(2, 4, 1),
    )  # fmt: skip
    with torch.no_grad():
        net[2].weight.copy_(net[2].weight[:1].expand(6, 1, 3, 3))  # alike, but of other inputs
    assert [a.producer for a in channel_axes(net)] == ["4"]
    smaller, _ = merge_channels(net, 0.5)
    x = torch.randn(2, 3, 8, 8, generator=generator())
    torch.testing.assert_close(smaller(x), net(x))


def test_what_reads_three_channels_is_their_mean_and_none_weighs_more():
    net = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)).double().requires_grad_(False)
    net[0].weight.copy_(torch.tensor([[1.0, 2], [1, 2], [1, 2], [-9, 4]]))
    net[0].bias.copy_(torch.tensor([0.5, 0.5, 0.5, 0]))
    net[2].weight.copy_(torch.tensor([[1.0, 1.01, 1.3, -5], [2.0, 2.0, 2.2, 7]]))
    x = torch.randn(20, 2, generator=generator(1), dtype=torch.float64)
    for distance in ("paper", "balanced"):
        smaller, merges = merge_channels(net, 0.5, distance=distance)
        assert len(merges["0"]) == 2 and len(smaller[0].weight) == 2
        torch.testing.assert_close(smaller(x), net(x), rtol=1e-12, atol=1e-12)
