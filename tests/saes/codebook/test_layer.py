"""The layer: hand-computed choices, outputs and gradients, and what it refuses."""

import copy

import pytest
import torch
from torch.testing import assert_close

import saes
from interp.errors import ParameterError
from saes.codebook import layer
from saes.codebook.layer import Codebook, CodebookConfig
from saes.initialise import fold_scale

X = torch.tensor([[1.0, 2.0, 3.0, 6.0]])
CODES = torch.tensor([[0.0, 0, 0, 1], [-2, 0, 0, 2], [0, -1, 0, 0], [5, 5, 5, 5]])
NORMED = torch.tensor([[-1.069043, -0.534522, 0.0, 1.603565]])


def book(k=2, codes=CODES, d=4, **fields):
    made = Codebook(CodebookConfig(n_codes=len(codes), k=k, **fields), d)
    made.codes.data = codes.clone()
    return made


def random_book(groups=1, n_codes=11, k=3, d=16, seed=0, **fields):
    config = CodebookConfig(n_codes=n_codes, k=k, groups=groups, **fields)
    return Codebook(config, d, generator=torch.Generator().manual_seed(seed))


def random_rows(n=9, d=16, seed=1):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


# ---- by hand (C1 to C4)


def test_snap_by_hand():
    made = book()
    a = made.normed(X)
    assert_close(a, NORMED, atol=2e-5, rtol=0)  # the norm adds 1e-5 to the variance
    ids, similarity = made.nearest(a, 4)
    assert ids.tolist() == [[[1, 0, 2, 3]]]
    logits = similarity[0, 0] * a.norm()
    assert_close(logits, torch.tensor([1.889820, 1.603565, 0.534522, 0.0]), atol=2e-5, rtol=0)
    snap = made.snap(X)
    assert snap.ids.tolist() == [[[1, 0]]]
    assert_close(snap.output, torch.tensor([[-1.0, 0, 0, 1.5]]))
    assert made.reconstruction(snap).item() == pytest.approx(0.301206, abs=2e-5)
    assert_close(book(reduce="sum").snap(X).output, torch.tensor([[-2.0, 0, 0, 3]]))


@pytest.mark.parametrize(
    "commitment, wanted",
    [(0.0, (0.1, 0.2, 0.3, 0.4)), (0.25, (0.065478, -0.067261, 0.3, 0.451783))],
)
def test_gradients_by_hand(commitment, wanted):
    made = book(commitment=commitment)
    snap = made.snap(X)
    snap.normed.retain_grad()
    g = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    ((snap.output * g).sum() + made.reconstruction(snap)).backward()
    row = torch.tensor([0.119043, 0.634522, 0.15, 0.096435])
    assert_close(made.codes.grad, torch.stack([row, row, 0 * row, 0 * row]), atol=2e-5, rtol=0)
    assert_close(snap.normed.grad, torch.tensor([wanted]), atol=2e-5, rtol=0)
    if not commitment:  # the norm gets what passes straight through, and no reconstruction
        assert_close(made.norm_bias.grad, g[0])


def test_gradients_scale_with_the_loss():
    """The reconstruction term is part of the loss: half of the loss is half of the gradient."""
    grads = []
    for factor in (1.0, 0.5):
        made = book()
        snap = made.snap(X)
        (factor * (snap.output.sum() + made.reconstruction(snap))).backward()
        grads.append(made.codes.grad)
    assert_close(grads[1], grads[0] / 2)


def test_disabled_and_replaced_codes_by_hand():
    made = book()
    out = torch.tensor([1])
    snap = made.snap(X, blocked=out)
    assert snap.ids.tolist() == [[[0, 2]]]
    assert_close(snap.output, torch.tensor([[0.0, -0.5, 0, 0.5]]))
    snap = made.snap(X, blocked=out, refill=False)
    assert snap.ids.tolist() == [[[-1, 0]]]
    assert_close(snap.output, torch.tensor([[0.0, 0, 0, 0.5]]))

    def last(ids):
        ids = ids.clone()
        ids[..., -1] = 3
        return ids

    snap = made.snap(X, edit=last)
    assert snap.ids.tolist() == [[[1, 3]]]
    assert_close(snap.output, torch.tensor([[1.5, 2.5, 2.5, 3.5]]))


def test_groups_are_codebooks_of_their_own():
    narrow = random_book(2, d=4, k=1)
    a = narrow.normed(X)
    assert_close(a, torch.tensor([[-1.0, 1, -1, 1]]), atol=1e-4, rtol=0)  # no information in two
    x = random_rows(d=16)
    grouped = random_book(groups=2)
    halves = []
    for group in range(2):
        one = random_book(d=8)
        one.codes.data = grouped.codes.detach()[group * 11 : (group + 1) * 11].clone()
        halves.append(one.snap(x[:, group * 8 : (group + 1) * 8]))
    snap = grouped.snap(x)
    assert_close(snap.output, torch.cat([h.output for h in halves], 1))
    assert torch.equal(snap.ids, torch.cat([h.ids for h in halves], 1))
    codes = grouped.encode_sparse(x)
    assert codes.indices.shape == (9, 6)
    assert torch.equal(codes.indices // 11, torch.tensor([0, 0, 0, 1, 1, 1]).expand(9, 6))
    assert_close(grouped.decode(codes), snap.output)
    assert_close(grouped.encode(x) @ grouped.decoder, snap.output)


# ---- choices


@pytest.mark.parametrize("similarity", layer.SIMILARITIES)
@pytest.mark.parametrize("groups", [1, 4])
def test_choices_are_those_of_the_whole_table(similarity, groups, monkeypatch):
    """Against a dense table in float64, and the same in blocks of two rows."""
    made = random_book(groups, similarity=similarity, layer_norm=False).double()
    x = random_rows().double()
    chunks = x.view(9, groups, 1, -1)
    codes = made.codes.view(1, groups, 11, -1)
    table = {
        "cosine": torch.cosine_similarity(chunks, codes, dim=-1),
        "inner_product": (chunks * codes).sum(-1),
        "euclidean": -(chunks - codes).norm(dim=-1),
    }[similarity]
    best = table.topk(3)
    for block in (layer.BLOCK, 2 * groups * 11, 1):
        monkeypatch.setattr(layer, "BLOCK", block)
        ids, found = made.nearest(made.normed(x))
        assert torch.equal(ids, best.indices)
        assert_close(found, best.values)
    assert torch.equal(made.nearest(x, 1)[0], best.indices[..., :1])


def test_cosine_ignores_the_length_of_a_code():
    made, x = random_book(), random_rows()
    longer = copy.deepcopy(made)
    longer.codes.data *= torch.linspace(0.2, 5, 11)[:, None]
    assert torch.equal(longer.snap(x).ids, made.snap(x).ids)
    made.config, longer.config = (CodebookConfig(n_codes=11, k=3, similarity="inner_product"),) * 2
    assert not torch.equal(longer.snap(x).ids, made.snap(x).ids)


def test_degenerate_rows_and_codes():
    made = book(codes=torch.cat([CODES, torch.zeros(1, 4)]), k=5)
    assert made.snap(torch.ones(1, 4)).output.isfinite().all()  # a constant row, a code of zeros
    assert made.snap(torch.zeros(0, 4)).output.shape == (0, 4)
    with torch.no_grad():
        assert_close(made.normed(torch.ones(1, 4)), torch.zeros(1, 4))


# ---- as a coder


def test_forward_passes_gradients_straight_through():
    made, x = random_book(), random_rows().requires_grad_()
    out = made(x)
    assert isinstance(out, saes.SAEOutput) and out.output.shape == x.shape
    assert out.codes.values.unique().tolist() == [pytest.approx(1 / 3)]
    assert torch.equal(out.codes.l0(), torch.full((9,), 3))
    norm = torch.nn.functional.layer_norm(x, (16,), eps=1e-5)
    g = random_rows(seed=5)
    (wanted,) = torch.autograd.grad(norm, x, g)
    (found,) = torch.autograd.grad(out.output, x, g)
    assert_close(found, wanted)


def test_every_parameter_is_trained_and_nothing_else():
    made = random_book(groups=2)
    snap = made.snap(random_rows(200))
    (snap.output.square().sum() + made.reconstruction(snap)).backward()
    assert sorted(n for n, _ in made.named_parameters()) == ["codes", "norm_bias", "norm_weight"]
    for name, parameter in made.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def test_saved_and_loaded_exactly(tmp_path):
    made = random_book(groups=2, reduce="sum", similarity="euclidean")
    made.metadata = {"hookpoint": "head_out.1"}
    made.save_pretrained(tmp_path)
    back = saes.SAE.from_pretrained(tmp_path)
    assert isinstance(back, saes.Codebook) and not back.training
    assert back.config == made.config and back.metadata == made.metadata
    assert all(torch.equal(a, made.state_dict()[n]) for n, a in back.state_dict().items())
    x = random_rows()
    assert torch.equal(back(x).output, made(x).output)
    fresh = random_book(groups=2, reduce="sum", similarity="euclidean", seed=9)
    assert not torch.equal(fresh(x).output, made(x).output)
    fresh.load_state_dict(made.state_dict())
    assert torch.equal(fresh.eval()(x).output, made(x).output)


def test_a_scale_is_folded_in():
    """Codes shrink; choices stay."""
    made, x = random_book(layer_norm=False, k=2), random_rows()
    made.b_dec.fill_(0.3)
    folded = copy.deepcopy(made)
    fold_scale(folded, torch.tensor([2.5]), torch.tensor([2.5]))
    assert_close(folded(x).output, made(2.5 * x).output / 2.5)
    assert torch.equal(folded(x).codes.indices, made(2.5 * x).codes.indices)
    assert not torch.allclose(made(x).output, folded(x).output)


def test_trained_and_judged_as_an_sae():
    """Under one interface with SAEs: the same data, trainer and measures."""
    generator = torch.Generator().manual_seed(0)
    centres = 3 * torch.randn(6, 8, generator=generator)
    which = torch.randint(6, (600,), generator=generator)
    x = centres[which] + 0.1 * torch.randn(600, 8, generator=generator) + 5
    config = saes.CodebookConfig(n_codes=24, k=1, layer_norm=False)
    coder = saes.train(x, config, steps=150, batch_size=200, lr=0.05, resample_every=40)
    found = saes.evaluate(coder, x)
    assert found.l0 == 1 and found.fvu < 0.05
    untrained = saes.Codebook(config, 8, generator=generator)
    assert saes.evaluate(untrained, x).fvu > 1
    for again in (saes.CodebookConfig(n_codes=4, k=1), config.__class__(n_codes=4, k=1, groups=2)):
        with pytest.raises(ParameterError, match="trained in a model"):
            saes.train(x, again, steps=2, batch_size=10)


@pytest.mark.filterwarnings("ignore")  # those of torch's compiler
def test_torch_compile_gives_the_same():
    made, x = random_book(layer_norm=False), random_rows(50)
    eager, compiled = made.loss(x), torch.compile(made.loss, backend="eager")(x)
    assert_close(compiled.total, eager.total)
    both = [torch.autograd.grad(loss.total, made.codes)[0] for loss in (eager, compiled)]
    assert_close(both[1], both[0])
    assert both[0].any()


# ---- refused


def test_configs_that_cannot_be():
    with pytest.raises(ParameterError, match="k must be at most 4; got 5"):
        CodebookConfig(n_codes=4, k=5)
    with pytest.raises(ParameterError, match="similarity must be one of cosine, inner_product"):
        CodebookConfig(n_codes=4, k=1, similarity="dot")
    with pytest.raises(ParameterError, match="reduce must be one of mean, sum; got 'max'"):
        CodebookConfig(n_codes=4, k=1, reduce="max")
    with pytest.raises(ParameterError, match="weight must be a finite number"):
        CodebookConfig(n_codes=4, k=1, weight=-1)
    with pytest.raises(ParameterError, match="no field 'n_code'; did you mean 'n_codes'"):
        CodebookConfig.from_dict({"n_code": 4, "k": 1})
    with pytest.raises(ParameterError, match=r"lacks a field \(n_codes"):
        CodebookConfig.from_dict({"k": 1})
    config = CodebookConfig(n_codes=4, k=1, groups=3)
    assert config.n_latents == 12 and CodebookConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ParameterError, match="groups must divide the width; got 3 groups and a"):
        Codebook(config, 16)
    with pytest.raises(ParameterError, match="give no d_out"):
        Codebook(CodebookConfig(n_codes=4, k=1), 16, 16)
