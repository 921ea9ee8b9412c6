"""Control: codes put in, kept out, and taken from another run; divergence and intervals."""

import math

import pytest
import torch
from torch.testing import assert_close

from interp.errors import ParameterError, ShapeError
from saes.codebook import CodebookConfig, insert
from saes.codebook.control import (
    blocked,
    forced,
    interchange,
    jensen_shannon,
    patched,
    wilson,
)

IDS = torch.tensor([[5, 9, 11, 30], [7, 3, 8, 40]])
OTHER = torch.tensor([[50, 19, 21, 31], [17, 33, 80, 4]])


@pytest.fixture
def books(gpt2):
    return insert(gpt2, ["head_out.*", "mlp_out.*"], CodebookConfig(n_codes=12, k=2))


def test_jensen_shannon_by_hand():
    t = torch.tensor
    assert jensen_shannon(t([0.0, 1, 2]), t([2.0, 1, 0])).item() == pytest.approx(
        0.247588, abs=1e-6
    )
    far = jensen_shannon(t([50.0, 0, 0]), t([0.0, 50, 0])).item()
    assert far == pytest.approx(math.log(2), abs=1e-6)
    x = torch.randn(7, 11, generator=torch.Generator().manual_seed(0))
    y = x.flip(0)
    assert_close(jensen_shannon(x, y), jensen_shannon(y, x))
    assert jensen_shannon(x, x + 3).max() < 1e-12  # logits up to a constant
    assert jensen_shannon(t([0.0, -torch.inf]), t([-torch.inf, 0.0])) == pytest.approx(math.log(2))
    with pytest.raises(ShapeError, match="one shape"):
        jensen_shannon(x, x[:2])


def test_wilson_by_hand():
    # z = 1.959964: (p + z2/2n -+ z sqrt(p q/n + z2/4n2)) / (1 + z2/n)
    assert wilson(5, 10) == pytest.approx((0.236593, 0.763407), abs=1e-6)
    assert wilson(0, 10) == pytest.approx((0.0, 0.277533), abs=1e-6)
    assert wilson(40, 40) == pytest.approx((1 - wilson(0, 40)[1], 1.0))
    assert wilson(1, 40, level=0.5)[0] > wilson(1, 40)[0]
    assert all(math.isnan(v) for v in wilson(0, 0))
    with pytest.raises(ParameterError, match="got 3 of 2"):
        wilson(3, 2)


def test_forced_codes_are_chosen(books):
    with forced(books, [("mlp_out.1", 7)]):
        ids = books.codes(IDS)
    plain = books.codes(IDS)
    assert (ids["mlp_out.1"][..., -1] == 7).all()
    assert torch.equal(ids["mlp_out.1"][..., 0], plain["mlp_out.1"][..., 0])
    assert torch.equal(ids["mlp_out.0"], plain["mlp_out.0"])  # what comes before is as it was
    with forced(books, [("mlp_out.1", 7), ("mlp_out.1", 3)], positions=[2]):
        ids = books.codes(IDS)["mlp_out.1"]
    assert (ids[:, 2, 0] == torch.tensor([3, 7])).all()
    assert torch.equal(ids[:, [0, 1]], plain["mlp_out.1"][:, [0, 1]])
    with forced(books, [("head_out.0", 2 * 12 + 5)], every_slot=True):
        ids = books.codes(IDS)["head_out.0"]
    assert (ids[:, :, 2] == 5).all()
    assert torch.equal(ids[:, :, [0, 1, 3]], plain["head_out.0"][:, :, [0, 1, 3]])
    assert torch.equal(books.codes(IDS)["mlp_out.1"], plain["mlp_out.1"])  # and gone after


def test_forced_in_a_whole_generation(books):
    """Every token of a generation, prompt and new, with the past kept or not."""
    seen = []

    def look(ids):
        seen.append(ids)
        return ids

    code = [("mlp_out.2", 4)]
    with forced(books, code, every_slot=True), books.editing("mlp_out.2", look):
        books.model.generate("w5 w9", max_new_tokens=3)
    assert sum(i.shape[1] for i in seen) >= 4 and all((i == 4).all() for i in seen)


def test_blocked_codes_are_passed_over(books):
    plain = books.codes(IDS)["mlp_out.0"]
    first = int(plain[0, 0, 0, 0])
    with blocked(books, [("mlp_out.0", first)]):
        ids = books.codes(IDS)["mlp_out.0"]
    assert not (ids == first).any() and (ids >= 0).all()
    with blocked(books, [("mlp_out.0", first)], refill=False):
        ids = books.codes(IDS)["mlp_out.0"]
    assert torch.equal(ids, plain.where(plain != first, -1))
    with pytest.raises(ParameterError, match="fewer than k=2 codes left"):
        with blocked(books, [("mlp_out.0", i) for i in range(11)]):
            pass
    most, rest = ([("mlp_out.0", i) for i in part] for part in (range(6), range(6, 11)))
    with blocked(books, most), blocked(books, rest):  # each leaves enough, both one
        ids = books.codes(IDS)["mlp_out.0"]
    assert (ids[..., 0] == 11).all() and (ids[..., 1] == -1).all()


def test_the_codes_of_another_run(books):
    """With the codes of every layer's residual stream a run becomes the other one."""
    ids = books.codes(OTHER)
    with patched(books, ids):
        assert all(torch.equal(books.codes(IDS)[n], i) for n, i in ids.items())
    with patched(books, {"mlp_out.0": ids["mlp_out.0"]}, [-1]):
        found = books.codes(IDS)["mlp_out.0"]
    assert torch.equal(found[:, -1], ids["mlp_out.0"][:, -1])
    assert torch.equal(found[:, :-1], books.codes(IDS)["mlp_out.0"][:, :-1])
    with pytest.raises(ShapeError, match="chooses .* here"), patched(books, ids):
        books.codes(IDS[:, :3])


def test_interchange_goes_from_far_to_nothing(gpt2):
    books = insert(gpt2, "resid_post.*", CodebookConfig(n_codes=400, k=8))
    none = interchange(books, IDS, OTHER, [])
    early = interchange(books, IDS, OTHER, ["resid_post.0"])
    last = interchange(books, IDS, OTHER, ["resid_post.2"])
    assert (none > 1e-4).all() and (early > 1e-6).any()
    assert last.abs().max() < 1e-7  # the last block's output is all that the logits read
    longer = torch.cat([IDS, IDS], 1)
    assert interchange(books, longer, OTHER, ["resid_post.2"]).abs().max() < 1e-7
    assert not interchange(books, IDS, IDS, []).any()


def test_codes_that_are_not_there(books):
    for context in (forced, blocked):
        with pytest.raises(ParameterError, match="codes of mlp_out.0 are 0 to 11; got 12"):
            with context(books, [("mlp_out.0", 12)]):
                pass
        with pytest.raises(ParameterError, match="no codebook at"):
            with context(books, [("mlp_out.x", 1)]):
                pass
    with pytest.raises(ParameterError, match="no codebook at 'mlp_out.x'"):
        interchange(books, IDS, OTHER, ["mlp_out.x"])  # would be the distance without
    for context in (forced(books, [("mlp_out.0", 1)], positions=[4]),
                    patched(books, books.codes(OTHER), [-5])):  # fmt: skip
        with pytest.raises(ShapeError, match="read at 4 positions, of which .* is none"), context:
            books.codes(IDS)
    with pytest.raises(ParameterError, match="room for 2 forced codes"):
        with forced(books, [("mlp_out.0", i) for i in range(3)]):
            pass
