"""Rows in shuffled order: each once an epoch, by seed and step alone."""

import numpy as np
import pytest
import torch

import saes
from interp.errors import DataError, ParameterError, ShapeError
from interp.store import ActivationStore
from saes import rows as rows_module
from saes.rows import Batches, MatrixRows, read_rows, seeded

CPU = torch.device("cpu")


def numbered(n, width=2):
    """Rows that say their own number."""
    return torch.arange(n, dtype=torch.float32)[:, None].expand(n, width).contiguous()


@pytest.fixture
def chunked(monkeypatch):
    """Blocks of 4 rows and chunks of about 30: 100 rows are read in several chunks."""
    monkeypatch.setattr(rows_module, "BLOCK", 4)
    rows = MatrixRows({"": numbered(101)})
    rows.chunk_rows = 30
    return rows


def read(batches, steps):
    return torch.cat([batches[i][0].x[:, 0] for i in range(steps)]).long()


@pytest.mark.parametrize("size", [1, 7, 50, 101])
def test_every_row_once_an_epoch(chunked, size):
    """Also where batches lie across chunks and epochs."""
    steps = -(-3 * 101 // size)
    seen = read(Batches(chunked, size, 0, CPU), steps)
    for epoch in range(3):
        part = seen[epoch * 101 : (epoch + 1) * 101]
        assert sorted(part.tolist()) == list(range(101))
    assert seen[:101].tolist() != seen[101:202].tolist()


def test_a_batch_is_known_from_seed_and_step(chunked):
    """Asked for out of order, it is the same: this is what resuming rests on."""
    batches = Batches(chunked, 9, 3, CPU)
    inorder = [batches[i][0].x.clone() for i in range(30)]
    for i in (29, 3, 17, 0):
        assert torch.equal(Batches(chunked, 9, 3, CPU)[i][0].x, inorder[i])
    other = Batches(chunked, 9, 4, CPU)
    assert not all(torch.equal(other[i][0].x, inorder[i]) for i in range(30))


def test_rows_are_mixed_over_the_whole_chunk(chunked):
    """Neighbours of the data do not stay together: of 100 pairs that follow, few are 1 apart."""
    seen = read(Batches(chunked, 101, 0, CPU), 1)
    assert (seen.diff() == 1).sum() < 20
    assert (numbered(101)[:, 0].diff() == 1).sum() == 100  # as they lie


def test_memory_is_bounded_by_the_chunk(chunked, monkeypatch):
    sizes = []
    whole = MatrixRows.read
    monkeypatch.setattr(
        MatrixRows, "read", lambda self, u: sizes.append(len(u) * 4) or whole(self, u)
    )
    read(Batches(chunked, 10, 0, CPU), 10)
    assert len(sizes) >= 4 and max(sizes) <= 30 + 4


def test_store_array_and_tensor_give_the_same_batches(tmp_path):
    x = torch.randn(200, 3, generator=seeded(0))
    store = ActivationStore.from_tensors({"a": x})
    found = [Batches(read_rows(m), 50, 0, CPU)[3][0].x for m in (x, x.numpy(), store["a"])]
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_sites_pairs_and_layers_share_their_rows():
    x = numbered(100)
    rows = MatrixRows({"one": x, "pair": (x, x + 0.5), "layers": [x, x + 1000]})
    one, pair, layers = Batches(rows, 20, 0, CPU)[2]
    assert torch.equal(one.x, pair.x) and torch.equal(pair.y, pair.x + 0.5)
    assert layers.x.shape == (20, 2, 2) and torch.equal(layers.x[:, 1], one.x + 1000)
    assert one.y is None and rows.sites == ("one", "pair", "layers")


def test_half_precision_and_read_only_rows_are_read():
    held = np.random.default_rng(0).normal(size=(70, 4)).astype(np.float16)
    held.setflags(write=False)
    assert MatrixRows({"": held}).read([1])[0].x.shape == (6, 4)


def test_bad_activations_are_one_sentence():
    x = numbered(100)
    with pytest.raises(DataError, match="no rows"):
        read_rows(x[:0])
    with pytest.raises(ShapeError, match=r"must be \[n, width\]"):
        read_rows(x[:, 0])
    with pytest.raises(DataError, match="floating-point"):
        read_rows(x.long())
    with pytest.raises(DataError, match="got str"):
        read_rows("acts")
    with pytest.raises(DataError, match="no matrix"):
        read_rows({})
    with pytest.raises(ShapeError, match="have 100 and 99 rows; row i"):
        read_rows((x, x[1:]))
    with pytest.raises(ParameterError, match="at most 100"):
        Batches(read_rows(x), 101, 0, CPU)
    x[70, 1] = torch.nan
    with pytest.raises(DataError, match="row 70 of a holds nan"):
        MatrixRows({"a": x}).read([1])
    assert MatrixRows({"a": x}).read([0])[0].x.isfinite().all()


def test_large_finite_rows_are_no_infinity():
    """Their sum overflows float32, they do not."""
    x = torch.full((100, 4), 3e38)
    assert MatrixRows({"": x}).read([0])[0].x.isfinite().all()


def test_another_matrix_has_another_identity():
    x = numbered(100)
    known = read_rows(x).identity()
    assert known == read_rows(x.clone()).identity() == saes.MatrixRows({"": x.numpy()}).identity()
    assert known != read_rows(x + 1).identity() and known != read_rows(x[:99]).identity()


def test_all_units_in_another_order():
    x = torch.arange(150.0)[:, None].repeat(1, 2)
    rows = MatrixRows({"": x})
    for units in ([2, 0, 1], [0, 0, 2], [0, 1, 2]):
        wanted = torch.cat([x[64 * u : 64 * u + 64] for u in units])
        assert torch.equal(rows.read(units)[0].x, wanted)
