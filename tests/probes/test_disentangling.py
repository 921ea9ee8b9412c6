"""InfoMEC against the numbers worked out for two factors of four values, on the full grid."""

import numpy as np
import pytest
import torch

from interp.errors import DataError, ParameterError, ShapeError
from probes.disentangling import compactness, infomec, modularity

GRID = np.array([(a, b) for a in range(4) for b in range(4)] * 12)
S1, S2 = GRID.T
FACTORS = {"s1": S1, "s2": S2}
JOINT = 4 * S1 + S2


@pytest.mark.parametrize(
    ("latents", "m", "c"),
    [
        ((S1, S2), 1.0, 1.0),
        ((JOINT, JOINT), 0.0, 0.0),
        ((S1, S1, S2), 1.0, 0.625),
        ((JOINT, S2), 0.5, 0.5),
    ],
)
def test_the_worked_examples(latents, m, c):
    found = infomec(np.stack(latents, 1), FACTORS)
    assert found.modularity == pytest.approx(m, abs=1e-12)
    assert found.compactness == pytest.approx(c, abs=1e-12)
    assert found.explicitness > 0.8  # each value is in the one-hot code
    assert found.discrete and found.to_frame().factor.tolist() == ["s1", "s2"]


def test_by_hand_from_the_matrix():
    nmi = np.array([[0.6, 0.2], [0.2, 0.2]])
    assert modularity(nmi) == pytest.approx(2 * ((0.75 + 0.5) / 2 - 0.5))
    assert compactness(nmi) == pytest.approx(2 * ((0.75 + 0.5) / 2 - 0.5))
    assert np.isnan(modularity(nmi[:1])) and np.isnan(compactness(nmi[:, :1]))
    assert modularity(np.array([[0.5, 0.0], [0.0, 0.0]])) == 1  # the silent latent is left out


def test_continuous_latents_and_what_leaves_them_as_they_are():
    rng = np.random.default_rng(0)
    z = np.stack([S1, S2], 1) + 0.05 * rng.normal(size=(len(S1), 2))
    plain = infomec(z, FACTORS)
    assert not plain.discrete and plain.modularity > 0.9 and plain.compactness > 0.9
    assert plain.explicitness > 0.5
    moved = infomec(z[:, ::-1] * 40 - 7, FACTORS)
    assert moved.modularity == pytest.approx(plain.modularity, abs=0.02)
    assert moved.explicitness == pytest.approx(plain.explicitness, abs=1e-6)
    turn = np.array([[1, 1], [-1, 1]]) / np.sqrt(2)
    assert infomec(z @ turn, FACTORS).modularity < 0.5  # rotated, neither latent has a factor
    held = infomec(np.stack([z[:, 0], 1e-3 * z[:, 1]], 1), FACTORS)
    assert held.active.tolist() == [True, False] and "compactness" in held.reasons
    quiet = [infomec(np.stack([z[:, 0], s * z[:, 1]], 1), FACTORS).active for s in (0.06, 0.04)]
    assert [a.tolist() for a in quiet] == [[True, True], [True, False]]  # a twentieth of the range


def test_held_out_explicitness_is_not_fooled_by_codes_of_single_rows():
    own = np.arange(len(S1))[:, None]
    honest = infomec(own, FACTORS, discrete=True)
    released = infomec(own, FACTORS, discrete=True, mode="released_code")
    assert honest.explicitness < 0.1 and released.explicitness > 0.9
    assert released.folds == 1 and "fitted on" in released.notes[1]
    labels = np.random.default_rng(1).permutation(S1)
    assert infomec(S1[:, None], {"s": labels}).explicitness < 0.05


def test_relabelled_codes_are_the_same_and_tensors_too(tmp_path):
    z = np.stack([S1, S1, S2], 1)
    plain = infomec(z, FACTORS)
    other = infomec(torch.from_numpy(np.array([9.0, -1.0, 4.0, 0.5]))[torch.from_numpy(z)], FACTORS)
    assert other.compactness == pytest.approx(plain.compactness)
    assert np.allclose(other.nmi, plain.nmi)
    loaded = type(plain).load(plain.save(tmp_path / "r.json"))
    assert np.array_equal(loaded.nmi, plain.nmi)


def test_degenerate_input_is_nan_with_its_reason():
    one = infomec(np.stack([S1, S2], 1), {"s1": S1})
    assert np.isnan(one.modularity) and "not two that vary" in one.reasons["modularity"]
    flat = infomec(np.stack([S1, S2], 1), {"s1": S1, "flat": np.zeros(len(S1), dtype=int)})
    assert np.isnan(flat.explicitness) and "one value only" in flat.reasons["flat"]
    z = np.stack([S1, S2], 1).astype(float)
    z[0, 0] = np.nan
    bad = infomec(z, FACTORS)
    assert np.isnan([bad.modularity, bad.compactness, bad.explicitness]).all()
    assert "1 rows are not finite" in bad.reasons["nmi"]
    still = infomec(np.ones((len(S1), 2)), FACTORS)
    assert np.isnan(still.compactness) and still.reasons["nmi"] == "no latent varies."
    rare = infomec(np.stack([S1, S2], 1), {"a": S1, "b": (np.arange(len(S1)) < 2).astype(int)})
    assert "fewer than 5 rows" in rare.reasons["b"] and np.isfinite(rare.explicitness_by_factor[0])


def test_factors_that_depend_on_each_other_are_told():
    found = infomec(np.stack([S1, S2], 1), {"a": S1, "b": S1 // 2})
    assert any("a tells 100% of b" in n for n in found.notes)
    assert not any("tells" in n for n in infomec(np.stack([S1, S2], 1), FACTORS).notes)


def test_refusals():
    with pytest.raises(ParameterError, match="recommended or released_code"):
        infomec(GRID, FACTORS, mode="paper")
    with pytest.raises(ShapeError, match="matrix"):
        infomec(S1, FACTORS)
    with pytest.raises(DataError, match="at least one factor"):
        infomec(GRID, {})
    with pytest.raises(ShapeError):
        infomec(GRID, {"s": S1[:-1]})
