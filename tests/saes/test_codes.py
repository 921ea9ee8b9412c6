import pytest
import torch
from torch.testing import assert_close

from interp.errors import ShapeError
from saes import Codes

DENSE = torch.tensor([[0.0, 2, 0, 1], [0, 0, 0, 0], [3, 0, 0, 0], [1, 2, 3, 4]])


@pytest.fixture(params=["ragged", "padded"])
def codes(request):
    made = Codes.from_dense(DENSE)
    return made if request.param == "ragged" else made.padded()


def test_from_dense():
    codes = Codes.from_dense(DENSE)
    assert codes.values.tolist() == [2, 1, 3, 1, 2, 3, 4]
    assert codes.indices.tolist() == [1, 3, 0, 0, 1, 2, 3]
    assert codes.offsets.tolist() == [0, 2, 2, 3, 7]
    assert codes.rows.tolist() == [0, 0, 2, 3, 3, 3, 3]


def test_both_forms_hold_the_same(codes):
    assert len(codes) == 4
    assert torch.equal(codes.dense(4), DENSE)
    assert codes.dense(9).shape == (4, 9)
    assert codes.l0().tolist() == [2, 0, 1, 4]
    assert codes.counts(4).tolist() == [2, 2, 1, 2]
    assert torch.equal(codes.padded().dense(4), DENSE)
    assert codes.padded().values.shape == (4, 4)


@pytest.mark.parametrize(
    "rows", [slice(1, 3), slice(None, None, 2), [3, 0, 0], torch.tensor([2, 3]), -1, slice(2, 2)]
)
def test_rows_are_chosen_as_those_of_a_tensor_are(codes, rows):
    expected = DENSE[rows].reshape(-1, 4)
    assert len(codes[rows]) == len(expected)
    assert torch.equal(codes[rows].dense(4), expected)


def test_a_mask_chooses_rows(codes):
    mask = torch.tensor([True, False, False, True])
    assert torch.equal(codes[mask].dense(4), DENSE[mask])


def test_gradients_pass_to_the_values(codes):
    values = codes.values.clone().requires_grad_()
    (codes.with_values(values).dense(4) * torch.arange(16).view(4, 4)).sum().backward()
    places = (codes.rows * 4 + codes.indices.flatten()).view_as(values)
    assert_close(values.grad, places.float())


def test_no_rows_and_no_slots():
    none = Codes.from_dense(torch.zeros(0, 5))
    assert len(none) == 0 and none.dense(5).shape == (0, 5) and len(none.padded()) == 0
    empty = Codes.from_dense(torch.zeros(3, 5))
    assert len(empty) == 3 and torch.equal(empty.dense(5), torch.zeros(3, 5))
    assert empty.padded().values.shape == (3, 0) and empty.counts(5).tolist() == [0] * 5


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(ShapeError, match=r"must both be \[n, k\]; got \[2, 3\] and \[2, 4\]"):
        Codes(torch.zeros(2, 3), torch.zeros(2, 4, dtype=torch.long))
    with pytest.raises(ShapeError, match=r"\[m\] beside offsets"):
        Codes(torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.long), torch.tensor([0, 3, 6]))
