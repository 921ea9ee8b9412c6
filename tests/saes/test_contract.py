"""What every architecture of `saes.ARCHITECTURES` must do.

But VL-SAE, which takes a modality: test_vl.py has its contract.
"""

import copy
import json
import math

import pytest
import torch
from torch.testing import assert_close

from interp.errors import CheckpointError, DataError, ParameterError, ShapeError
from saes import ARCHITECTURES, SAE, Codes

every = pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"vl"}))
weighed = pytest.mark.parametrize("name", sorted(set(ARCHITECTURES) - {"codebook", "vl"}))
"""Those with an encoder, whose latents have a size; a codebook chooses from its one table."""


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@every
def test_config_and_class_belong_together(name, small):
    config_class, sae_class = ARCHITECTURES[name]
    sae = small(name)
    assert config_class.architecture == name == sae.architecture
    assert type(sae) is sae_class and type(sae.config) is config_class
    assert config_class.from_dict(sae.config.to_dict()) == sae.config
    assert json.loads(json.dumps(sae.config.to_dict())) == sae.config.to_dict()


@weighed
def test_parameters_are_latent_major_and_weights_are_views_of_them(name, small):
    sae = small(name)
    assert len(sae.encoder) == len(sae.decoder) == len(sae.b_enc) == sae.n_latents
    assert sae.encoder.is_contiguous() and sae.decoder.is_contiguous()
    assert sae.b_dec.shape == sae.out_shape
    assert sae.W_enc.shape[-1] == sae.W_dec.shape[-2] == sae.n_latents
    assert sae.W_enc.data_ptr() == sae.encoder.data_ptr()
    assert sae.W_dec.data_ptr() == sae.decoder.data_ptr()


@weighed
def test_first_weights(name, small):
    sae = small(name, fresh=True)
    assert_close(sae.decoder.norm(dim=1), torch.ones(sae.n_latents))
    assert_close(sae.encoder.norm(dim=1), torch.ones(sae.n_latents))
    assert torch.equal(sae.encoder, sae.decoder) == (not sae.transcodes)
    assert not sae.b_dec.any()
    again = small(name, fresh=True)  # the generator decides
    assert same(dict(sae.named_parameters()), dict(again.named_parameters()))
    torch_state = torch.random.get_rng_state()
    small(name)
    assert torch.equal(torch.random.get_rng_state(), torch_state)


@every
@pytest.mark.parametrize("leading", [(), (5,), (2, 3), (0,)])
def test_leading_axes_are_kept(name, leading, small, batch):
    sae = small(name)
    x = batch(sae, *leading)
    n = math.prod(leading)
    z, codes, output = sae.encode(x), sae.encode_sparse(x), sae(x)
    assert z.shape == (*leading, sae.n_latents)
    assert len(codes) == n and codes.dense(sae.n_latents).shape == (n, sae.n_latents)
    assert output.output.shape == sae.decode(z).shape == (*leading, *sae.out_shape)
    assert sae.decode(codes).shape == (n, *sae.out_shape)


@every
def test_dense_and_sparse_agree(name, small, batch):
    sae = small(name)
    x = batch(sae, 7, 5)
    z, codes = sae.encode(x), sae.encode_sparse(x)
    assert (z >= 0).all() and (z > 0).any() and (z == 0).any()
    assert torch.equal(codes.dense(sae.n_latents), z.view(35, -1))
    assert_close(sae.decode(codes), sae.decode(z).flatten(0, 1))
    output = sae(x)
    assert torch.equal(output.codes.dense(sae.n_latents), z.view(35, -1))
    assert_close(output.output, sae.decode(z))


@every
def test_a_row_means_the_same_alone(name, small, batch):
    sae = small(name)
    x = batch(sae, 6)
    alone = torch.cat([sae.encode(row[None]) for row in x])
    assert_close(sae.encode(x), alone)


@every
def test_no_active_latent_decodes_to_the_bias(name, small):
    sae = small(name)
    for none in (
        torch.zeros(3, sae.n_latents),
        Codes.from_dense(torch.zeros(3, sae.n_latents)),
        Codes(torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.long)),
    ):
        assert torch.equal(sae.decode(none), sae.b_dec.expand(3, *sae.out_shape))


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_what_goes_out_has_the_dtype_that_came_in(name, dtype, small, batch):
    sae = small(name)
    x = batch(sae, 6).to(dtype)
    z, codes, output = sae.encode(x), sae.encode_sparse(x), sae(x)
    assert {z.dtype, codes.values.dtype, output.output.dtype, output.codes.values.dtype} == {dtype}
    assert sae.decode(z).dtype == sae.decode(codes).dtype == dtype
    inside = sae(x.float())  # float32, as the parameters are
    assert torch.equal(output.output, inside.output.to(dtype))
    assert torch.equal(z, sae.encode(x.float()).to(dtype))


@every
def test_latents_are_linear_in_the_decoder(name, small):
    sae = small(name)
    z = torch.eye(sae.n_latents)[[3, 5]] * torch.tensor([[2.0], [0.5]])
    parts = sae.decode(z) - sae.b_dec
    rows = sae.decoder[[3, 5]] * torch.tensor([[2.0], [0.5]])
    assert_close(parts.flatten(1), rows)


@every
def test_the_loss_is_the_sum_of_its_parts(name, small, batch, loss_of):
    sae = small(name)
    x = batch(sae, 4, 5)
    loss = loss_of(sae, x, dead=torch.tensor([1, 2]))
    assert loss.total.ndim == 0 and all(part.ndim == 0 for part in loss.parts.values())
    assert_close(loss.total, sum(loss.parts.values()))
    target = batch(sae, 4, 5, seed=3, out=True) if sae.transcodes else x
    error = (loss.output - target.view(20, -1)).square().sum(1).mean()
    assert_close(loss.parts["reconstruction"], error)
    assert loss.active.shape == (sae.n_latents,) and not loss.active.is_floating_point()
    assert 0 < loss.active.sum() and loss.active.max() <= 20
    assert not loss.output.requires_grad


@every
def test_the_loss_reaches_every_parameter(name, small, batch, loss_of):
    sae = small(name)
    loss_of(sae, batch(sae, 64)).total.backward()
    for key, parameter in sae.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), key


@every
def test_a_few_steps_lower_the_loss(name, small, batch, loss_of):
    sae = small(name)
    x = batch(sae, 64)
    optimizer = torch.optim.Adam(sae.parameters(), lr=0.01)
    first = loss_of(sae, x).total.item()
    for _ in range(20):
        optimizer.zero_grad()
        loss_of(sae, x).total.backward()
        optimizer.step()
    assert loss_of(sae, x).total.item() < 0.9 * first


@every
def test_decoder_rows_are_held_at_length_one(name, small, batch, loss_of):
    sae = small(name)
    assert (sae.decoder.norm(dim=1) - 1).abs().max() > 0.1
    with torch.no_grad():
        sae.decoder[4] = 0
    directions = sae.decoder / sae.decoder.norm(dim=1, keepdim=True)
    sae.normalize_decoder()
    assert_close(sae.decoder[:4], directions[:4])
    assert not sae.decoder[4].any()
    loss_of(sae, batch(sae, 64)).total.backward()
    gradient = sae.decoder.grad.clone()
    assert (gradient * sae.decoder).sum(1).abs().max() > 1e-3
    sae.project_decoder_gradient()
    assert (sae.decoder.grad * sae.decoder).sum(1).abs().max() < 1e-5
    across = gradient - sae.decoder.grad  # what was taken off lies along the rows
    assert_close(across, (gradient * sae.decoder).sum(1, keepdim=True) * sae.decoder)


@every
def test_saved_and_loaded(name, small, batch, tmp_path):
    sae = small(name)
    sae.metadata = {"hookpoint": "resid_post.3", "layers": [1, 2]}
    assert sae.save_pretrained(tmp_path / "new" / "sae") == tmp_path / "new" / "sae"
    back = SAE.from_pretrained(tmp_path / "new" / "sae")
    assert type(back) is type(sae) and back.config == sae.config
    assert (back.d_in, back.d_out, back.transcodes) == (sae.d_in, sae.d_out, sae.transcodes)
    assert back.metadata == sae.metadata and not back.training
    assert same(back.state_dict(), sae.state_dict())
    x = batch(sae, 5)
    assert torch.equal(back(x).output, sae(x).output)
    assert type(type(sae).from_pretrained(str(tmp_path / "new" / "sae"))) is type(sae)
    first = (tmp_path / "new" / "sae" / "model.safetensors").read_bytes()
    back.save_pretrained(tmp_path / "again")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == first
    copied = copy.deepcopy(sae)
    copied.load_state_dict(sae.state_dict())
    assert torch.equal(copied(x).output, sae(x).output)


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_a_saved_sae_keeps_its_dtype(name, dtype, small, tmp_path):
    sae = small(name).to(dtype)
    sae.save_pretrained(tmp_path)
    back = SAE.from_pretrained(tmp_path)
    assert {p.dtype for p in back.parameters()} == {dtype}
    assert same(back.state_dict(), sae.state_dict())


@every
def test_a_file_of_another_architecture_is_refused(name, small, tmp_path):
    small(name).save_pretrained(tmp_path)
    for other in set(ARCHITECTURES) - {name}:
        wrong = ARCHITECTURES[other][1]
        with pytest.raises(CheckpointError, match=f"holds a {name} SAE, which is no"):
            wrong.from_pretrained(tmp_path)


@every
def test_bad_batches_are_refused(name, small, batch, loss_of):
    sae = small(name)
    x = batch(sae, 5)
    with pytest.raises(ShapeError, match=r"x must be \[\.\.\., .*8\]; got"):
        sae.encode(x[..., :-1])
    with pytest.raises(ShapeError, match="must be"):
        loss_of(sae, x[..., :-1])
    with pytest.raises(ShapeError, match=r"\[\.\.\., 24\]; got \[5, 23\]"):
        sae.decode(torch.zeros(5, 23))
    with pytest.raises(DataError, match="floating-point"):
        sae.encode(x.long())
    with pytest.raises(DataError, match="no rows"):
        loss_of(sae, x[:0])
    for bad in (torch.nan, torch.inf):
        x[3] = bad
        with pytest.raises(DataError, match=r"nan or inf \(first in row 3 of 5\)"):
            loss_of(sae, x)


@every
def test_targets_are_for_transcoders(name, small, batch):
    sae = small(name)
    x = batch(sae, 5)
    y = batch(sae, 5, out=True)
    if not sae.transcodes:
        with pytest.raises(ParameterError, match="predicts x; give no y"):
            sae.loss(x, y)
        return
    with pytest.raises(ParameterError, match="needs y"):
        sae.loss(x)
    with pytest.raises(ShapeError, match="5 rows and y 4"):
        sae.loss(x, y[:4])


@every
def test_k_is_scheduled_where_there_is_one(name, small, batch, loss_of):
    sae = small(name)
    x = batch(sae, 50)
    if not hasattr(sae.config, "k"):
        with pytest.raises(ParameterError, match="no k; got k=2"):
            loss_of(sae, x, k=2)
        return
    assert loss_of(sae, x, k=1).active.sum() < loss_of(sae, x).active.sum()
    for k in (0, 25):
        with pytest.raises(ParameterError, match=f"from 1 to 24; got k={k}"):
            loss_of(sae, x, k=k)


@every
def test_configs_refuse_what_they_do_not_know(name, small_config):
    config_class = ARCHITECTURES[name][0]
    good = small_config(name).to_dict()
    width = "n_codes" if name == "codebook" else "n_latents"
    with pytest.raises(ParameterError, match=f"no field '{width[:-1]}'; did you mean '{width}'"):
        config_class.from_dict({**good, width[:-1]: 3})
    del good[width]
    with pytest.raises(ParameterError, match=rf"lacks a field \({width}"):
        config_class.from_dict(good)
    for wrong in (0, -1, 2.0, True, "3", None):
        with pytest.raises(ParameterError, match=f"{width} must be a whole number of at least 1"):
            small_config(name, n_latents=wrong)


@every
def test_wrong_configs_and_widths_are_refused(name, small_config):
    sae_class = ARCHITECTURES[name][1]
    other = next(n for n in sorted(ARCHITECTURES) if n != name)
    with pytest.raises(ParameterError, match=f"{sae_class.__name__} takes a"):
        sae_class(small_config(other), 8)
    for width in (0, 1.5, True, "8"):
        with pytest.raises(ParameterError, match="d_in must be a whole number above 0"):
            sae_class(small_config(name), width)


@every
def test_a_nan_shows_with_gradients_and_without(name, small, batch):
    sae = small(name).eval()
    x = batch(sae, 3)
    x[1] = float("nan")
    for mode in (torch.enable_grad, torch.no_grad):
        with mode():
            z, output = sae.encode(x), sae(x).output
        shows = name == "codebook" or z[1].isnan().any()  # whose latents are counts, 1 / k each
        assert shows and output[1].isnan().any(), mode
        assert z[[0, 2]].isfinite().all() and output[[0, 2]].isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_large_batch_in_half_precision_has_a_loss(dtype, small, batch, loss_of):
    sae = small("topk")
    x = batch(sae, 4000)
    expected = loss_of(sae, 4 * x).parts["reconstruction"]
    got = loss_of(sae.to(dtype), (4 * x).to(dtype)).parts["reconstruction"]
    assert expected * 4000 > torch.finfo(torch.float16).max
    assert got.dtype == dtype and torch.isclose(got.float(), expected, rtol=0.05)
