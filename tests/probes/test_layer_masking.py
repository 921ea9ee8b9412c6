"""Layer masking: all kept is the model bit for bit, taken pixels never matter, rings by hand."""

import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import interp
from interp.errors import ModelError, ShapeError
from probes.layer_masking import fill_from_neighbours, layer_masked


class Residual(nn.Module):
    """What a ResNet has: strides, a sliced and padded shortcut, batch norm, a mean at the end."""

    def __init__(self, seed=0):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 12, 3, stride=2, padding=1), nn.BatchNorm2d(12)
        self.head = nn.Linear(12, 4)
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randn(p.shape, generator=g) * 0.3)
            for bn in (self.bn1, self.bn2):
                bn.running_mean.copy_(torch.randn(bn.running_mean.shape, generator=g))

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        return self.head(F.relu(self.bn2(self.conv2(x)) + short).mean((2, 3)))


def pooled():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.SiLU(), nn.MaxPool2d(2), nn.Conv2d(6, 6, 3, dilation=2),
        nn.GELU(), nn.AvgPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape, generator=g) * 0.3)
    return net


MODELS = {"residual": Residual, "pooled": pooled}
IMAGES = torch.randn(4, 3, 20, 20, generator=torch.Generator().manual_seed(2))
MASKS = torch.ones(4, 20, 20, dtype=torch.bool)
MASKS[1, :, :9] = False
MASKS[2, 5:15, 5:15] = False
MASKS[3] = torch.rand(20, 20, generator=torch.Generator().manual_seed(3)) > 0.5


@pytest.fixture(params=sorted(MODELS))
def model(request):
    return MODELS[request.param]().eval().requires_grad_(False)


def test_all_kept_is_the_model_itself_bit_for_bit(model):
    own = model(IMAGES)
    assert torch.equal(layer_masked(model, IMAGES, torch.ones(20, 20)), own)
    found = layer_masked(model, IMAGES, MASKS)
    assert torch.equal(found[0], own[0])  # also beside images of which something is taken
    assert not torch.allclose(found[1:], own[1:], atol=1e-3)
    assert type(found) is torch.Tensor


@pytest.mark.parametrize("paint", [0.0, 100.0, float("inf"), float("nan")])
@pytest.mark.parametrize("neighbours", [True, False])
def test_taken_pixels_never_matter(model, paint, neighbours):
    painted = IMAGES.masked_fill(~MASKS[:, None], paint)
    clean = layer_masked(model, IMAGES, MASKS, neighbours=neighbours)
    assert torch.equal(layer_masked(model, painted, MASKS, neighbours=neighbours), clean)
    if paint == 100.0:  # painting over does matter to the model itself, and kept pixels do too
        assert not torch.allclose(model(painted)[1:], model(IMAGES)[1:], atol=1e-2)
        other = layer_masked(model, IMAGES + MASKS[:, None], MASKS, neighbours=neighbours)
        assert not torch.allclose(other, clean, atol=1e-3)


def test_rings_by_hand():
    x = torch.diag(torch.tensor([1.0, 0, 3]))[None, None]
    kept = x > 0
    found = fill_from_neighbours(x, kept)[0, 0]
    assert found.tolist() == [[1, 1, 0], [1, 2, 3], [0, 3, 3]]
    assert torch.equal(fill_from_neighbours(x, kept, 0), x)
    assert bool((fill_from_neighbours(x, kept, 2) > 0).all())
    assert torch.equal(
        fill_from_neighbours(IMAGES, MASKS[:1, None].expand(4, 1, 20, 20), 3), IMAGES
    )


def test_an_empty_mask_is_an_empty_map_and_one_for_all():
    net = Residual().eval().requires_grad_(False)
    found = layer_masked(net, IMAGES, torch.zeros(20, 20))
    torch.testing.assert_close(found, net.head.bias.expand(4, 4))
    assert not torch.allclose(net(IMAGES)[0], net(IMAGES)[1], atol=1e-3)


def test_a_uniform_image_keeps_its_features_where_it_is_seen():
    net = nn.Conv2d(1, 1, 3, bias=False).requires_grad_(False)
    net.weight.fill_(1.0)
    flat, mask = torch.full((1, 1, 8, 8), 2.0), torch.ones(8, 8)
    mask[:, :3] = 0
    with_rings = layer_masked(net, flat, mask)
    assert torch.equal(with_rings[..., 1:], torch.full((1, 1, 6, 5), 18.0))  # no edge is seen
    assert float(layer_masked(net, flat, mask, neighbours=False)[0, 0, 3, 1]) == 6.0


def test_hooks_see_the_layers_gradients_flow_and_the_model_is_as_it_was():
    net = Residual()
    net.train()
    x = IMAGES.clone().requires_grad_()
    with interp.record(net, ["bn1"], grad=True) as acts:
        layer_masked(net, x, MASKS)[:, 0].sum().backward()
    assert acts["bn1"].shape == (4, 8, 20, 20)
    assert x.grad is not None and float(x.grad[0].abs().sum()) > 0
    assert float((x.grad * ~MASKS[:, None]).abs().max()) == 0
    assert net.training and net.bn1.num_batches_tracked == 0


def test_refusals(build=None):
    with pytest.raises(ShapeError, match=r"\[h, w\] or \[n, h, w\]; got \[3, 3\]"):
        layer_masked(Residual(), IMAGES, torch.ones(3, 3))

    class Patches(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 4, stride=4)

        def forward(self, x):
            return self.conv(x).flatten(2).transpose(1, 2)

    with pytest.raises(ModelError, match="of a transformer drop tokens"):
        layer_masked(Patches(), IMAGES, MASKS)


@pytest.mark.real
def test_resnet20_is_itself_when_all_is_kept_and_survives_more_than_paint(real):
    sys.path.insert(0, str(real))
    try:
        import resnet20
    finally:
        sys.path.remove(str(real))
    net = resnet20.load()
    x, y, _ = resnet20.images()
    x, y = x[::20], y[::20]
    with torch.no_grad():
        assert torch.equal(layer_masked(net, x, torch.ones(32, 32)), net(x))
        mask = torch.rand(len(x), 8, 8, generator=torch.Generator().manual_seed(0)) > 0.5
        mask = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)
        masked = layer_masked(net, x, mask)
        painted = layer_masked(net, x.masked_fill(~mask[:, None], 9.0), mask)
        black = net(x.masked_fill(~mask[:, None], 0))
    assert torch.equal(masked, painted)
    right = [float((out.argmax(1) == y).float().mean()) for out in (masked, black)]
    assert right[0] > right[1]


class Turned(nn.Module):
    """Moves or mixes positions in a way that keeps the shape of square maps."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.how = nn.Conv2d(3, 20, 3, padding=1), how

    def forward(self, x):
        return self.how(self.conv(x)).mean((2, 3))


@pytest.mark.parametrize(
    "how",
    [
        lambda x: x.transpose(2, 3),
        lambda x: x.permute(0, 2, 3, 1),  # 20 channels of 20 x 20 places
        lambda x: x.flip(3),
        lambda x: x @ torch.eye(20).flip(0),
        nn.GroupNorm(2, 20),
        nn.LayerNorm((20, 20, 20)),
        nn.Linear(20, 20),
    ],
)
def test_what_moves_or_mixes_places_is_refused_though_the_shape_stays(how):
    with pytest.raises(ModelError, match="no mask for what"):
        layer_masked(Turned(how).requires_grad_(False), IMAGES, MASKS)


def test_the_greatest_of_a_window_is_one_that_is_kept():
    mask = torch.ones(4, 4)
    mask[0, :3] = 0
    mask[1, :2] = 0
    below = -torch.arange(1.0, 17).reshape(1, 1, 4, 4)  # a zero would be above all of them
    found = layer_masked(nn.MaxPool2d(2), below, mask)
    assert found[0, 0].tolist() == [[0, -4], [-9, -11]]  # the first window has none
