from typing import cast

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save

from interp.memory import PeakMemory, resident
from interp.packed import PackedIds
from interp.store import write_shard
from interp.tensors import DTYPES, pieces


def tensors():
    generator = torch.Generator().manual_seed(0)
    held = {f"of {d}": torch.randn(3, 5, generator=generator).to(d) for d in DTYPES}
    held |= {"é": torch.zeros(2, 0), "one": torch.tensor(3.5), "a/position": torch.arange(7)}
    return held


@pytest.mark.parametrize("metadata", [None, {"interp": '{"é": "\\n"}'}])
def test_the_pieces_are_the_file_that_safetensors_writes(metadata):
    whole = b"".join(bytes(p) for p in pieces(tensors(), metadata))
    assert whole == save(tensors(), metadata)
    assert whole != save({**tensors(), "one": torch.tensor(3.25)}, metadata)


def test_what_is_not_contiguous_is_written_in_its_order(tmp_path):
    x = torch.arange(12).view(3, 4).t()
    write_shard(tmp_path / "a.safetensors", {"x": x})
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("x"), x)


def test_a_shard_is_written_without_a_copy_of_it(tmp_path):
    x = {"x": torch.ones(100 * 2**20, dtype=torch.uint8)}
    with PeakMemory() as ours:
        write_shard(tmp_path / "a.safetensors", x)
    with PeakMemory() as theirs:
        copy = save(x)
    assert ours.added < 20e6 < 100e6 < theirs.added and len(copy) > 100e6


def test_a_piece_of_work_is_charged_what_it_took_and_gave_back():
    with PeakMemory() as held:
        torch.ones(120 * 2**20, dtype=torch.uint8)
    with PeakMemory() as later:  # below the process's peak by now: seen by looking
        torch.ones(60 * 2**20, dtype=torch.uint8).clone()
    with PeakMemory() as nothing:
        sum(range(1000))
    assert 110e6 < held.added < 150e6 and 110e6 < later.added < 150e6
    assert nothing.added < 10e6 and held.before <= held.most and (resident() or 0) > 10e6


def test_packed_ids_are_a_list_of_lists():
    rows = [[5, 2**31 - 1], [], [7], list(range(100))]
    packed = PackedIds(iter(rows))
    assert len(packed) == 4 and list(packed) == rows and packed[-1] == rows[-1]
    assert packed[1:3] == rows[1:3] and packed[::-1] == rows[::-1]
    assert packed[cast(int, np.int64(2))] == [7] and list(packed.lengths) == [2, 0, 1, 100]
    packed[0].append(9)  # a list of its own
    assert packed[0] == rows[0] and list(PackedIds([])) == []
    for outside in (4, -5):
        with pytest.raises(IndexError):
            packed[outside]
