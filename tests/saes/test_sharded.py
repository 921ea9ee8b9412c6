import importlib.util
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from saes import Training
from saes.sharded import KINDS

SCRIPT = Path(__file__).with_name("sharded_ranks.py")
_spec = importlib.util.spec_from_file_location("sharded_ranks", SCRIPT)
ranked = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(ranked)
TRAINED, training_of = ranked.TRAINED, ranked.training_of
FOUND = {}


@pytest.fixture(params=[2, pytest.param(4, marks=pytest.mark.slow)], ids="{} ranks".format)
def ranks(request, torchrun, tmp_path_factory):
    """What `sharded_ranks` found, by rank; run once for a number of ranks."""
    if request.param not in FOUND:
        folder = tmp_path_factory.mktemp("ranks")
        ranked.leave(folder / "alone")
        done = torchrun(request.param, SCRIPT, folder)
        assert done.returncode == 0, done.stderr
        every = json.loads((folder / "found.json").read_text())
        FOUND[request.param] = [{**found, "folder": folder} for found in every]
    return FOUND[request.param]


@pytest.fixture
def found(ranks):
    return ranks[0]


def check_same(judged, exact):
    """Codes alike slot for slot, and every number within rounding."""
    near = 1e-12 if exact else 1e-6
    assert judged["indices"] and judged["active"], judged
    numbers = ("loss", "parts", "gradients", "values", "dense", "output", "decoded")
    for name in (*numbers, "decoded_dense"):
        assert judged[name] <= near, (name, judged)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", KINDS)
def test_codes_loss_and_gradients_are_those_of_one_process(found, name, dtype):
    check_same(found["kinds"][f"{name} {dtype}"], exact=dtype == "float64")


def test_so_are_they_for_uneven_shards_many_active_latents_and_other_kernels(found):
    for judged in found["shapes"].values():
        check_same(judged, exact=False)


def test_analyses_see_the_whole_dictionary(found):
    views = found["views"]
    assert views["features"].startswith("features reads a whole SAE; load it with")
    for name in ("topk", "crosscoder"):
        assert views[name] and views[f"{name} counts"]
        assert views[f"{name} fvu"] < 1e-6


def test_all_ranks_come_to_the_same(ranks):
    for other in ranks[1:]:
        for kind, judged in other["kinds"].items():
            assert judged["indices"], kind
            assert judged["loss"] == ranks[0]["kinds"][kind]["loss"]


def test_of_equals_at_the_cut_the_lowest_index_is_taken_on_whichever_rank(found):
    ties = found["ties"]
    assert ties["topk tied"] > 5 and ties["batch_topk tied"] > 5
    assert ties["topk"] and ties["indices"] and ties["batch_topk"]
    assert not ties["without the rule"]


def test_what_the_ranks_tell_each_other_is_needed(found):
    broken = found["broken"]
    assert not broken["gather"]
    assert broken["copied"] > 1e-2
    assert broken["norm"] > 1e-4


def test_twenty_steps_go_as_in_one_process(found):
    for name, run in found["training"].items():
        assert run["curve"] < 1e-5 and run["weights"] < 1e-5, name
        assert run["fell"] < 0.8, name


def test_first_weights_are_those_of_one_process_however_they_are_drawn(found):
    assert all(found["first"].values()), found["first"]


def test_the_file_is_that_of_the_whole_sae_byte_for_byte(found):
    for name in KINDS:
        one, other = (
            (found["folder"] / f / "model.safetensors").read_bytes()
            for f in (name, f"{name}-whole")
        )
        assert one == other
        assert (found["folder"] / name / "config.json").read_text() == (
            found["folder"] / f"{name}-whole" / "config.json"
        ).read_text()
    tensors = load_file(found["folder"] / "topk" / "model.safetensors")
    assert tensors["encoder"].shape == (23, 8)


def test_a_saved_sae_is_read_whole_or_in_parts(found):
    for name, read in found["files"].items():
        assert read["plain"] and read["metadata"], name
        assert read["sharded"] <= 1e-6, name
        assert "Sharded" not in read["class"]


@pytest.mark.parametrize("name", TRAINED)
def test_a_training_with_shards_is_that_of_one_process(found, name):
    alone = training_of(name)
    folder = found["folder"] / f"run-{name}" / "sae"
    assert found["trained"][name] == f"Sharded{type(alone).__name__}"
    log, theirs = alone.training_log, Training.load(folder / "training.json")
    assert theirs.loss["total"] == pytest.approx(log.loss["total"], rel=1e-5)
    assert theirs.fvu == pytest.approx(log.fvu, rel=1e-5)
    assert theirs.l0.tolist() == log.l0.tolist() and theirs.dead.tolist() == log.dead.tolist()
    assert log.fvu[-1] < 0.9 * log.fvu[0]
    saved = load_file(folder / "model.safetensors")
    for key, tensor in alone.state_dict().items():
        torch.testing.assert_close(saved[key], tensor, rtol=1e-5, atol=1e-5)


def test_a_broken_training_resumes_bit_for_bit(found):
    assert found["trained"]["resumed"]


def test_a_checkpoint_that_cannot_be_written_ends_all_ranks_in_a_sentence(ranks):
    assert [found["trained"]["full"] for found in ranks] == ["no space"] * len(ranks)


def test_one_process_goes_on_with_the_checkpoint_of_shards(found, tmp_path):
    shutil.copytree(found["folder"] / "other", tmp_path / "run")
    steps = []
    again = training_of(
        "topk", out=tmp_path / "run", resume=True, progress=lambda done, *_: steps.append(done)
    )
    assert steps[0] == 9
    alone = training_of("topk")
    later = slice(8, None)
    assert again.training_log.loss["total"][later] == pytest.approx(
        alone.training_log.loss["total"][later], rel=1e-5
    )


def test_shards_go_on_with_the_checkpoint_of_one_process(found):
    first, off = found["trained"]["of one"]
    assert first == 9 and off < 1e-5


def test_a_rank_holds_its_share_of_parameters_and_moments(ranks):
    for found in ranks:
        memory = found["memory"]
        assert memory["here"] == (memory["whole"] - memory["b_dec"]) / len(ranks) + memory["b_dec"]
        placements = {"encoder": "S(0)", "decoder": "S(0)", "b_enc": "S(0)", "b_dec": "R"}
        assert memory["placements"] == placements


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("vl", "ParameterError: ShardedSAE takes an SAE of relu,"),
        (
            "multi_k",
            "ParameterError: ShardedSAE chooses the k largest latents alone; leave multi_k",
        ),
        ("few", "ParameterError: 1 latents in blocks of 1 leave nothing for the last of"),
        ("gradient", "no gradient reaches what a sharded SAE reads; detach it"),
        ("mesh", "ParameterError: shards must be from 2 up and divide the"),
        ("folder", "CheckpointError: 'no/such' is no folder"),
        ("width", r"ShapeError: ShardedTopKSAE: x must be [..., 8]; got [2, 5]."),
        ("slots", "ShapeError: decode: codes name latents beyond the 24"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(found, what, words):
    assert words in found["refused"][what]


def test_a_batch_that_is_chosen_from_as_a_whole_is_not_shared(ranks):
    if len(ranks) == 4:
        words = "shards of a batch_topk SAE, which looks at a batch as a whole, take all processes"
        assert words in ranks[0]["refused"]["data"]
