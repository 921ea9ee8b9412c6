"""What is particular to one architecture, and where one becomes another."""

import math

import pytest
import torch
from torch.testing import assert_close

from interp.errors import NotFitted, ParameterError
from saes import (
    SAE,
    BatchTopKConfig,
    BatchTopKSAE,
    Crosscoder,
    CrosscoderConfig,
    GatedConfig,
    JumpReLUConfig,
    JumpReLUSAE,
    MatryoshkaConfig,
    MatryoshkaSAE,
    ReLUConfig,
    ReLUSAE,
    SAEConfig,
    TopKConfig,
    TopKSAE,
    Transcoder,
    TranscoderConfig,
)


def test_topk_has_at_most_k_and_batch_topk_k_in_the_mean(small, batch):
    sae = small("topk")
    assert (sae.encode_sparse(batch(sae, 200)).l0() <= 3).all()
    other = small("batch_topk")
    assert other.loss(batch(other, 200)).active.sum() == 600


def test_batch_topk_needs_a_threshold_to_encode(small, batch):
    sae = small("batch_topk", fresh=True)
    x = batch(sae, 50)
    with pytest.raises(NotFitted, match="no threshold to encode with; train it, or set"):
        sae.encode(x)
    sae.eval().loss(x)
    assert sae.threshold.isnan(), "only training moves it"
    sae.train().loss(x)
    pre = (x - sae.b_dec) @ sae.encoder.T + sae.b_enc
    smallest = pre.flatten().sort(descending=True).values[149]
    assert_close(sae.threshold, smallest.detach())
    z = sae.encode(x)
    assert (z > 0).sum() == 149, "all that the batch kept, but the one at the threshold"


def test_batch_topk_threshold_is_a_running_mean(small, batch):
    sae = small("batch_topk")
    with torch.no_grad():
        sae.threshold.fill_(torch.nan)
    least, thresholds = [], []
    for seed in range(5):
        x = batch(sae, 40, seed=seed)
        pre = (x - sae.b_dec) @ sae.encoder.T + sae.b_enc
        least.append(pre.flatten().sort(descending=True).values[119].item())
        sae.loss(x)
        thresholds.append(sae.threshold.item())
    expected = least[0]
    for new, threshold in zip(least, thresholds, strict=True):
        expected += 0.01 * (new - expected)
        assert math.isclose(threshold, expected, rel_tol=1e-5)
    assert len(set(thresholds)) == 5
    with torch.no_grad():
        sae.b_enc.fill_(-1e4)
    sae.loss(x)
    assert sae.threshold.item() == thresholds[-1], "a batch without a positive value is passed over"


def test_batch_topk_threshold_keeps_k_on_new_data(small, batch):
    sae = small("batch_topk", fresh=True)
    for seed in range(20):
        sae.loss(batch(sae, 400, seed=seed))
    new = sae.encode_sparse(batch(sae, 4000, seed=99)).l0().float().mean()
    assert abs(new - 3) < 0.15
    with torch.no_grad():
        sae.threshold.fill_(0)
    assert sae.encode_sparse(batch(sae, 4000, seed=99)).l0().float().mean() > 6


def test_jumprelu_gradients_by_hand():
    """One latent, threshold 1, bandwidth 0.5: of four rows, those at 0.9 and 1.2 are near it."""
    sae = JumpReLUSAE(JumpReLUConfig(n_latents=1, l0=2.0, bandwidth=0.5, first_threshold=1.0), 1)
    with torch.no_grad():
        sae.encoder.fill_(1)
        sae.decoder.fill_(1)
    x = torch.tensor([[0.5], [0.9], [1.2], [3.0]])
    assert sae.encode(x).flatten().tolist() == pytest.approx([0, 0, 1.2, 3.0])
    loss = sae.loss(x)
    assert_close(loss.parts["reconstruction"], torch.tensor((0.25 + 0.81) / 4))
    assert_close(loss.parts["sparsity"], torch.tensor(2 * 2 / 4))
    # d L0 / dt = -(1 / 0.5) in two rows of four
    (grad,) = torch.autograd.grad(loss.parts["sparsity"], sae.log_threshold, retain_graph=True)
    assert_close(grad, torch.tensor([2 * -2 * 2 / 4]))
    # d error / dt = 2 (z - x) * -(t / 0.5): -1.8 * -2 in the row at 0.9, 0 in the row at 1.2
    (grad,) = torch.autograd.grad(loss.parts["reconstruction"], sae.log_threshold)
    assert_close(grad, torch.tensor([-1.8 * -2 / 4]))


def test_jumprelu_target():
    sae = JumpReLUSAE(JumpReLUConfig(n_latents=1, l0=3.0, l0_target=0.25, first_threshold=1.0), 1)
    with torch.no_grad():
        sae.encoder.fill_(1)
    x = torch.tensor([[0.5], [0.9], [1.2], [3.0]])  # active in half of the rows
    assert_close(sae.loss(x).parts["sparsity"], torch.tensor(3.0))
    sae.config = JumpReLUConfig(n_latents=1, l0=3.0, l0_target=0.5, first_threshold=1.0)
    assert sae.loss(x).parts["sparsity"] == 0


def test_gated_latents_by_hand(small):
    sae = small("gated", n_latents=2, fresh=True)
    with torch.no_grad():
        sae.encoder.copy_(torch.eye(8)[:2])
        sae.b_enc.copy_(torch.tensor([-1.0, 1.0]))
        sae.b_mag.copy_(torch.tensor([0.5, -5.0]))
        sae.r_mag.copy_(torch.tensor([2.0, 3.0]).log())
    x = torch.zeros(3, 8)
    x[:, :2] = torch.tensor([[2.0, 1.0], [0.5, 2.0], [1.5, -2.0]])
    # gates 1, 2; -0.5, 3; 0.5, -1    magnitudes 4.5, 0; 1.5, 1; 3.5, 0
    assert_close(sae.encode(x), torch.tensor([[4.5, 0], [0, 1], [3.5, 0]]))


def test_gated_with_one_bias_is_relu(small, batch):
    gated, relu = small("gated"), small("relu")
    with torch.no_grad():
        gated.r_mag.zero_()
        gated.b_mag.copy_(gated.b_enc)
        for name, parameter in relu.named_parameters():
            parameter.copy_(getattr(gated, name))
    x = batch(relu, 30)
    assert_close(gated(x).output, relu(x).output)


def test_matryoshka_with_one_prefix_is_batch_topk(batch):
    one = MatryoshkaSAE(
        MatryoshkaConfig(n_latents=24, k=3, prefixes=(24,)),
        8,
        generator=torch.Generator().manual_seed(0),
    )
    plain = BatchTopKSAE(
        BatchTopKConfig(n_latents=24, k=3), 8, generator=torch.Generator().manual_seed(0)
    )
    x, dead = batch(plain, 50), torch.tensor([3, 4])
    a, b = one.loss(x, dead=dead), plain.loss(x, dead=dead)
    assert a.parts["prefixes"] == 0 and torch.equal(a.total, b.total)
    assert torch.equal(a.active, b.active) and torch.equal(one.threshold, plain.threshold)
    a.total.backward()
    b.total.backward()
    for p, q in zip(one.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)
    two = MatryoshkaSAE(MatryoshkaConfig(n_latents=24, k=3, prefixes=(12, 24)), 8)
    two.load_state_dict(one.state_dict())
    assert two.loss(x, dead=dead).parts["prefixes"] > 0


def test_matryoshka_prefixes():
    assert MatryoshkaConfig(n_latents=64, k=2).prefixes == (4, 8, 16, 32, 64)
    assert MatryoshkaConfig(n_latents=3, k=1).prefixes == (1, 3)
    for wrong in ((), (3,), (0, 8), (4, 4, 8), (8, 4), (2.0, 8), "8"):
        with pytest.raises(ParameterError, match="prefixes must be whole numbers that rise"):
            MatryoshkaConfig(n_latents=8, k=1, prefixes=wrong)


def test_transcoder_to_its_own_input_is_topk_but_for_the_bias(batch):
    sae = TopKSAE(TopKConfig(n_latents=24, k=3), 8, generator=torch.Generator().manual_seed(0))
    coder = Transcoder(TranscoderConfig(n_latents=24, k=3), 8)
    x = batch(sae, 40)
    coder.load_state_dict(sae.state_dict())
    assert_close(coder.loss(x, x).total, sae.loss(x).total)  # b_dec is 0
    with torch.no_grad():
        sae.b_dec.copy_(x.mean(0))
        coder.b_dec.copy_(x.mean(0))
    assert not torch.allclose(coder.encode(x), sae.encode(x)), "b_dec stays on the input"
    with torch.no_grad():
        coder.b_enc.copy_(-sae.encoder @ sae.b_dec)
    assert_close(coder.encode(x), sae.encode(x))
    assert_close(coder(x).output, sae(x).output)


def test_transcoder_skip(small, batch, tmp_path):
    sae = small("transcoder", skip=True, d_out=5)
    x = batch(sae, 10)
    assert sae.W_skip.shape == (5, 8)
    assert_close(sae(x).output, sae.decode(sae.encode(x)) + x @ sae.W_skip.T)
    sae.save_pretrained(tmp_path)
    assert torch.equal(SAE.from_pretrained(tmp_path)(x).output, sae(x).output)
    fresh = small("transcoder", skip=True, fresh=True)
    assert not fresh.W_skip.any() and small("transcoder").W_skip is None


def test_crosscoder_with_one_layer_is_relu(batch):
    generator = torch.Generator().manual_seed(0)
    one = Crosscoder(CrosscoderConfig(n_latents=24, n_layers=1), 8, generator=generator)
    plain = ReLUSAE(ReLUConfig(n_latents=24), 8, generator=torch.Generator().manual_seed(0))
    x = batch(plain, 40)
    a, b = one.loss(x[:, None]), plain.loss(x)
    assert torch.equal(one(x[:, None]).output[:, 0], plain(x).output)
    assert a.parts == b.parts
    a.total.backward()
    b.total.backward()
    for p, q in zip(one.parameters(), plain.parameters(), strict=True):
        assert torch.equal(p.grad.view_as(q), q.grad)


def test_crosscoder_weights_have_a_leading_layer_axis(small, batch):
    sae = small("crosscoder")
    assert sae.W_enc.shape == (3, 8, 24) and sae.W_dec.shape == (3, 24, 8)
    assert sae.b_dec.shape == (3, 8)
    x = batch(sae, 10)
    z = (torch.einsum("nld,ldf->nf", x - sae.b_dec, sae.W_enc) + sae.b_enc).relu()
    assert_close(sae.encode(x), z)
    assert_close(sae(x).output, torch.einsum("nf,lfd->nld", z, sae.W_dec) + sae.b_dec)
    with pytest.raises(ParameterError, match="give no d_out"):
        Crosscoder(CrosscoderConfig(n_latents=4, n_layers=2), 8, 8)


def test_from_config_gives_the_right_class(small_config):
    assert type(SAE.from_config(small_config("jumprelu"), 8)) is JumpReLUSAE
    assert SAE.from_config(small_config("topk"), 8, 5).decoder.shape == (24, 5)
    with pytest.raises(ParameterError, match="takes a config of relu, gated"):
        SAE.from_config(SAEConfig(n_latents=4), 8)


@pytest.mark.parametrize(
    ("config", "fields", "sentence"),
    [
        (TopKConfig, {"k": 9}, "k must be at most 8; got 9. It cannot exceed n_latents."),
        (TopKConfig, {"k": 0}, "k must be a whole number of at least 1; got 0."),
        (TopKConfig, {"k": 2, "k_aux": 0}, "k_aux must be a whole number of at least 1; got 0."),
        (TopKConfig, {"k": 2, "auxk": -1.0}, "auxk must be a finite number of at least 0"),
        (TopKConfig, {"k": 2, "multi_k": 1}, "multi_k must be True or False; got 1."),
        (ReLUConfig, {"l1": math.nan}, "l1 must be a finite number of at least 0; got nan."),
        (GatedConfig, {"l1": "5"}, "l1 must be a finite number of at least 0; got '5'."),
        (JumpReLUConfig, {"bandwidth": 0.0}, "bandwidth must be a finite number above 0"),
        (JumpReLUConfig, {"l0_target": 0}, "l0_target must be a finite number above 0"),
        (JumpReLUConfig, {"first_threshold": math.inf}, "first_threshold must be a finite"),
        (CrosscoderConfig, {"n_layers": 0}, "n_layers must be a whole number of at least 1"),
        (TranscoderConfig, {"k": 2, "skip": None}, "skip must be True or False; got None."),
    ],
)
def test_configs_are_checked(config, fields, sentence):
    with pytest.raises(ParameterError) as error:
        config(n_latents=8, **fields)
    assert f"{config.__name__}: {sentence}" in str(error.value)
