"""The four released variants: the numbers of the authors' scripts, and where they mislead."""

import numpy as np
import pytest

import probes
from interp.errors import ParameterError
from probes.released_aqi import GAMMA, components, normalise_xb_chi, released_value, tsne_map

A = np.array([[1, 2], [1, 4], [1, 0], [10, 2], [10, 4], [10, 0]])
B = np.array([[0, 0], [0, 1], [1, 0], [1, 1], [4, 4], [4, 5], [6, 4]])
C = np.array([[0, 0], [2, 0], [1, 1], [1, -1]])
D = np.array([[0, 0], [0, 1], [0, 0], [3, 3]])
CHI = [668.0163, 714.1372, 563.4249, 425.5685, 336.4202, 582.8472, 566.5888, 561.8440]
XB = [0.1489, 0.1393, 0.1766, 0.2338, 0.2958, 0.1707, 0.1756, 1.2450]


@pytest.mark.parametrize(
    "X, y, expected",
    [
        (A, [0] * 3 + [1] * 3, (0.7318681319, 0.9124006898, 0.9124006898)),
        (B, [0] * 4 + [1] * 3, (0.7105135192, 0.9295299092, 0.9274422580)),
    ],
)
def test_reference_numbers(X, y, expected):
    for variant, value in zip(("dbs_dunn", "chi_sil", "sil_xb"), expected, strict=True):
        found = probes.aqi(X, y, mode="released_code", variant=variant, weight=0.5, permutations=0)
        assert found.value == pytest.approx(value, rel=1e-9)
        assert (found.mode, found.variant, found.weight) == ("released_code", variant, 0.5)


def test_the_default_weights_are_those_of_the_scripts():
    y = [0] * 3 + [1] * 3
    for variant in ("dbs_dunn", "chi_sil", "sil_xb"):
        found = probes.aqi(A, y, mode="released_code", variant=variant, permutations=0)
        assert found.weight == GAMMA[variant]
        parts = components(A, np.array(y), variant)
        assert found.value == released_value(variant, parts, GAMMA[variant])
    assert GAMMA["chi_sil"] == 0.3
    default = probes.aqi(A, y, mode="released_code", permutations=0)
    assert default.variant == "dbs_dunn"


def test_equal_centroids_are_nan_where_the_released_code_gives_a_good_score():
    y = [0, 0, 1, 1]
    for variant, released in (("dbs_dunn", 0.7071), ("sil_xb", 0.1768)):
        found = probes.aqi(C, y, mode="released_code", variant=variant)
        assert np.isnan(found.value) and found.null is None and found.interval is None
        assert "coincide" in found.reasons["value"] and f"{released}" in found.reasons["value"]
    parts = components(C, np.array(y), "dbs_dunn")
    assert parts["davies_bouldin"] == 0
    assert released_value("dbs_dunn", parts, 0.5) == pytest.approx(0.7071, abs=5e-5)
    assert components(C, np.array(y), "sil_xb")["xie_beni"] == np.inf


def test_a_shared_point_has_the_released_floor():
    parts = components(D, np.array([0, 0, 1, 1]), "dbs_dunn")
    assert parts["dunn"] == 0.001 and parts["davies_bouldin"] == pytest.approx(1.4540469089)


def test_xb_chi_normalises_over_axioms_as_the_script_does():
    found = normalise_xb_chi(CHI, XB)
    chi = [87.7896, 100, 60.0992, 23.6019, 0, 65.2412, 60.9368, 59.6806]
    np.testing.assert_allclose(found["chi"], chi, atol=1e-4)
    xb = [58.01, 60.77, 49.85, 33.48, 19.40, 51.60, 50.15, 10]
    np.testing.assert_allclose(found["xb"], xb, atol=0.027)
    aqi = [72.900, 80.386, 54.976, 28.539, 9.701, 58.423, 55.542, 34.840]
    np.testing.assert_allclose(found["aqi"], aqi, atol=0.02)


def test_xb_chi_where_rows_are_equal():
    same = normalise_xb_chi([3.0, 3.0], [0.2, 0.2])
    np.testing.assert_allclose(same["chi"], 50)
    np.testing.assert_allclose(same["xb"], 50)  # the script's own branch for no spread is dead
    np.testing.assert_allclose(normalise_xb_chi([0.0, 0.0], [1, 1])["chi"], 0)
    outlier = normalise_xb_chi(np.arange(9.0), [0.2] * 8 + [0.9])
    assert outlier["xb"][-1] == 10  # a saturated sigmoid, raised to the floor
    with pytest.raises(ParameterError, match="one length"):
        normalise_xb_chi([1.0], [1.0, 2.0])


def test_xb_chi_of_a_model_changes_with_the_company_it_is_normalised_in():
    alone = normalise_xb_chi(CHI, XB)["aqi"][-1]
    together = normalise_xb_chi([*CHI, *(np.array(CHI) * 3)], [*XB, *(np.array(XB) / 3)])["aqi"]
    assert abs(alone - together[7]) > 5


def test_xb_chi_needs_axioms_and_takes_them():
    rng = np.random.default_rng(0)
    y, axioms = np.arange(120) % 2, np.repeat(["a", "b", "c"], 40)
    X = rng.normal(size=(120, 4)) + y[:, None] * (1 + np.repeat([0, 1, 2], 40))[:, None]
    lacks = probes.aqi(X, y, mode="released_code", variant="xb_chi")
    assert np.isnan(lacks.value) and "give axioms" in lacks.reasons["value"]
    found = probes.aqi(X, y, mode="released_code", variant="xb_chi", axioms=axioms)
    assert 0 <= found.value <= 100 and found.components["c: CHI"] > found.components["a: CHI"]
    assert found.components["overall: AQI"] == found.value
    few = np.array(["a"] * 60 + ["b"] * 57 + ["c"] * 3)
    left = probes.aqi(X, y, mode="released_code", variant="xb_chi", axioms=few)
    assert "c" in left.reasons and "c: CHI" not in left.components


def test_indices_of_a_tsne_map_are_not_those_of_the_rows():
    """It keeps neighbours and not distances: here the released value falls by a third."""
    rng = np.random.default_rng(1)
    y = np.arange(60) % 2
    X = rng.normal(size=(60, 10)) + 1.2 * y[:, None]
    options = {"mode": "released_code", "variant": "sil_xb", "permutations": 0}
    plain, mapped = probes.aqi(X, y, **options), probes.aqi(X, y, tsne=True, **options)
    assert abs(mapped.value - plain.value) > 0.05
    assert "t-SNE" in mapped.notes[0] and "not on a t-SNE" in plain.notes[0]
    places = tsne_map(X, "xb_chi")
    assert places.shape == (60, 3)
    with pytest.raises(ParameterError, match="at least 4 rows"):
        tsne_map(X[:3], "xb_chi")


def test_shuffled_labels_score_above_zero_in_the_released_code():
    """Which is why a released value without its null says little."""
    rng = np.random.default_rng(2)
    X, y = rng.normal(size=(60, 5)), rng.integers(0, 2, 60)
    found = probes.aqi(X, y, mode="released_code", variant="sil_xb", permutations=40)
    assert found.null["mean"] > 0.2 and found.null["p"] > 0.05
    apart = probes.aqi(X + y[:, None], y, mode="released_code", variant="sil_xb", permutations=40)
    assert apart.null["p"] < 0.05
