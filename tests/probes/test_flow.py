"""MoHD-style flow: the reference case, planted flow, both controls, and the edges."""

import numpy as np
import pytest
import torch

import interp
from interp.errors import DataError, ParameterError, ShapeError
from probes import hidden_flow
from probes.criteria import Criterion
from probes.flow import FlowCounter, rotation

H = torch.tensor(
    [[9, 1, 0, 0, 0, 2], [8, 0, 7, 0, 0, 1], [9, 0, 0, 6, 0, 1], [7, 0, 0, 5, 0, 1]],
    dtype=torch.float64,
)


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_reference_case():
    """Section 5 of the methods file: two dimensions a token."""
    active = Criterion("topk_ratio", 2 / 6).active(H)
    assert [row.nonzero().flatten().tolist() for row in active] == [[0, 5], [0, 2], [0, 3], [0, 3]]
    found = hidden_flow(H, level=2 / 6)
    np.testing.assert_array_equal(found.rates[0], [1, 0, 0.25, 0.5, 0, 0.25])
    assert found.shared[0] == 1 and found.never[0] == 2 and found.specialised[0] == 0
    assert found.jaccard[0] == pytest.approx((1 / 3 + 1 / 3 + 1) / 3, abs=1e-12)
    assert found.run_length[0] == 8 / 4  # dimension 0 stays for 4 tokens, 3 for 2, 5 and 2 for 1
    for level, dims in ((0.5, 1), (0.9, 2)):
        assert Criterion("mass", level).active(H).sum(1).tolist() == [dims] * 4
        assert hidden_flow(H, "mass", level=level).effective[0] == dims
    assert found.label == "MoHD-style"


def planted(t=400, d=64, seed=0):
    """Dimensions 0 to 3 always large, and four others that change every eight tokens."""
    x = 0.05 * normal(t, d, seed=seed)
    x[:, :4] += 3
    blocks = torch.randint(4, d - 4, (t // 8,), generator=torch.Generator().manual_seed(seed))
    for i, first in enumerate(blocks.tolist()):
        x[8 * i : 8 * i + 8, first : first + 4] += 2
    return x


def test_flow_that_was_planted_is_found_and_goes_with_rotation_and_order():
    found = hidden_flow(planted(), level=8 / 64)
    assert found.shared[0] == 4 and found.shared_mass[0] > 0.4
    assert found.rotated["shared"][0] == 0  # a property of the basis
    assert found.jaccard[0] > 0.85 > 0.5 > found.jaccard_shuffled[0]
    assert found.run_length[0] > 8


def test_noise_has_none():
    found = hidden_flow(normal(3000, 64), level=0.25)
    chance = 0.25 / (2 - 0.25)
    for value in (found.jaccard[0], found.jaccard_shuffled[0], found.rotated["jaccard"][0]):
        assert value == pytest.approx(chance, abs=0.01)
    assert found.shared[0] == found.never[0] == 0
    assert found.run_length[0] == pytest.approx(1 / 0.75, abs=0.02)  # geometric


def test_a_rotation_is_orthogonal():
    q = rotation(20, 3)
    torch.testing.assert_close(q @ q.T, torch.eye(20, dtype=torch.float64), atol=1e-12, rtol=0)
    assert not torch.equal(q, rotation(20, 4)) and torch.equal(q, rotation(20, 3))


def test_neighbours_are_within_documents():
    documents = [0, 0, 1, 1]
    found = hidden_flow(H, level=2 / 6, documents=documents)
    assert found.pairs == (2,) and found.jaccard[0] == pytest.approx((1 / 3 + 1) / 2)
    assert found.jaccard_shuffled[0] == pytest.approx(found.jaccard[0])  # two tokens: one order
    first = hidden_flow(H, level=2 / 6, documents=documents, drop_first=1)
    assert first.tokens == (2,) and np.isnan(first.jaccard[0])
    assert "neighbour" in first.reasons["jaccard.activations"]


def test_documents_in_parts_are_the_whole():
    x, documents = planted(), torch.arange(400) // 50
    criterion = Criterion("mass", 0.5)
    whole = FlowCounter(64, criterion).update(x, documents).result()
    one, other = FlowCounter(64, criterion), FlowCounter(64, criterion)
    for i, ids in enumerate(([3, 1], [0], [7, 2, 5, 6], [4])):
        for document in ids:
            rows = documents == document
            (one, other)[i % 2].update(x[rows], documents[rows])
    merged = one.merge(other).result()
    for key in ("tokens", "pairs", "shared", "specialised", "never", "density", "run_length"):
        assert merged[key] == whole[key]
    np.testing.assert_array_equal(merged["rates"], whole["rates"])
    assert merged["jaccard"] == pytest.approx(whole["jaccard"], rel=1e-13)
    assert merged["shared_mass"] == pytest.approx(whole["shared_mass"], rel=1e-13)
    with pytest.raises(ParameterError, match="do not merge"):
        one.merge(FlowCounter(64, Criterion("mass", 0.6)))
    with pytest.raises(ShapeError, match="do not merge"):
        one.merge(FlowCounter(63, criterion))


def test_scale_by_dimension_uncovers_what_a_massive_one_hides():
    x = normal(500, 32)
    x[:, 5] *= 1000
    hidden = hidden_flow(x, "mass", level=0.5)
    assert hidden.shared[0] == 1 and hidden.effective[0] < 1.5
    shown = hidden_flow(x, "mass", level=0.5, per_dim_rms=True)
    assert shown.shared[0] == 0 and shown.effective[0] > 5


def test_edges():
    zeros = torch.cat([H, torch.zeros(2, 6, dtype=torch.float64)])
    found = hidden_flow(zeros, level=2 / 6)
    assert found.zero_tokens == (2,) and found.tokens == (4,)
    alone = hidden_flow(H[:1])
    assert np.isnan(alone.jaccard[0]) and alone.reasons
    nan = H.clone()
    nan[2, 1] = float("nan")
    for x, error, said in (
        (nan, DataError, "NaN"),
        (torch.zeros(3, 4), DataError, "no token"),
        (torch.zeros(0, 4), DataError, "no rows"),
        (torch.zeros(4), ShapeError, "a row a token"),
        (torch.ones(3, 4, dtype=torch.int64), ShapeError, "floats"),
    ):
        with pytest.raises(error, match=said):
            hidden_flow(x)
    with pytest.raises(ShapeError, match="documents must be"):
        hidden_flow(H, documents=[0, 1])
    for options, said in (
        ({"rule": "magic"}, "rule must"),
        ({"level": 1.5}, "below 1"),
        ({"tau_shared": 0.05}, "tau_special"),
        ({"drop_first": -1}, "drop_first"),
    ):
        with pytest.raises(ParameterError, match=said):
            hidden_flow(H, **options)


def test_it_reads_a_store_and_saves(gpt2, texts, tmp_path):
    store = interp.capture(gpt2, texts, ["resid_post.*"], pool="all")
    found = hidden_flow(store, "rms", drop_first=1)
    words = [len(t.split()) for t in texts]
    assert found.tokens == (sum(n - 1 for n in words),) * 3
    assert found.pairs == (sum(max(n - 2, 0) for n in words),) * 3
    assert found.overlap.shape == (3, 3)
    again = interp.Result.load(found.save(tmp_path / "r.json"))
    np.testing.assert_array_equal(again.jaccard, found.jaccard)
    assert again.to_frame().equals(found.to_frame())
    last = interp.capture(gpt2, texts, ["resid_post.*"], pool="last")
    with pytest.raises(DataError, match="pool='all'"):
        hidden_flow(last)
