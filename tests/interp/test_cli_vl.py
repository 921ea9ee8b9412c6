"""``interp sae train`` and ``eval`` of a VL-SAE, from a store of pairs."""

import json

import pytest

import interp
import saes
from interp.runs import read_results
from saes.rows import seeded


@pytest.fixture
def pairs(folder, tmp_path):
    """Two layers of a language model stand for images and texts."""
    rows = (f"w{2 + i % 70} w{3 + 7 * i % 60} w{5 + 11 * i % 50}" for i in range(60))
    (tmp_path / "texts.txt").write_text("\n".join(rows))
    points = ["resid_post.0", "resid_post.1"]
    data = str(tmp_path / "texts.txt")
    interp.capture(str(folder("gpt2")), data, points, pool="all", out=tmp_path / "acts")
    return tmp_path / "acts"


def test_trained_resumed_and_judged(invoke, pairs, tmp_path):
    out = tmp_path / "run"
    options = ("--store", pairs, "-p", "resid_post.0,resid_post.1", "--arch", "vl", "--steps", 6,
               "--batch-size", 32, "--n-latents", 24, "--k", 4, "--set", "ties=strict")  # fmt: skip
    plan = invoke("sae", "train", *options, "--out", out, "--dry-run", "--json")
    assert plan.exit_code == 0, plan.output
    assert json.loads(plan.stdout)["saes"] == 1 and not out.exists()
    done = invoke("sae", "train", *options, "--out", out)
    assert done.exit_code == 0, done.output
    sae = saes.SAE.from_pretrained(out / "sae")
    assert isinstance(sae, saes.VLSAE) and sae.config.ties == "strict"
    assert sae.metadata["hookpoints"] == {"image": "resid_post.0", "text": "resid_post.1"}
    assert (out / "report.html").is_file()
    assert invoke("sae", "train", *options, "--out", out, "--resume").exit_code == 0
    again = invoke("sae", "train", *options, "--out", out)
    assert again.exit_code == 1 and "--resume" in again.output
    judged = invoke("sae", "eval", out / "sae", "--store", pairs, "--out", tmp_path / "judged")
    assert judged.exit_code == 0, judged.output
    found = {r.kind: r for r in read_results(tmp_path / "judged")}
    assert found["vl_pairs"].n == found["sae_evaluation"].n
    assert found["vl_pairs"].latent_cosine > found["vl_pairs"].shuffled_cosine
    plan = invoke(
        "sae", "eval", out / "sae", "--store", pairs, "--out", tmp_path / "p", "--dry-run"
    )
    assert plan.exit_code == 0 and "pairs" in plan.output and not (tmp_path / "p").exists()


def test_the_mode_sets_the_authors_training_and_names_it(invoke, pairs, tmp_path):
    out = tmp_path / "run"
    options = ("sae", "train", "--store", pairs, "-p", "resid_post.0,resid_post.1", "--arch", "vl",
               "--mode", "released_code", "--n-latents", 24, "--k", 4, "--out", out)  # fmt: skip
    for more, said in (
        (("--clip", 2), "sets clip to None, and it was given as 2"),
        (("--set", "ties=exact"), "for ties=strict"),
        (("--arch", "topk", "-p", "resid_post.0"), "for --architecture vl"),
        (("--mode", "authors"), "must be recommended or released_code"),
    ):
        failed = invoke(*options, *more)
        assert failed.exit_code == 2 and said in " ".join(failed.output.split()), failed.output
    assert not out.exists()
    done = invoke(*options, "--batch-size", 60)
    assert done.exit_code == 0, done.output
    (training,) = read_results(out)
    n = len(interp.ActivationStore.open(pairs)["resid_post.0"])
    assert training.mode == "released_code" and training.config["ties"] == "strict"
    assert training.n == 60 * 10 * (n // 60) and training.lr[-1] == 0 and training.scale is None
    assert float(training.lr.max()) == 1e-3


def test_few_pairs_are_judged_and_other_questions_refused(invoke, folder, tmp_path):
    texts = [f"w{i} w{i + 3}" for i in range(2, 8)]
    points = ["resid_post.0", "resid_post.1"]
    few = interp.capture(str(folder("gpt2")), texts, points, out=tmp_path / "few")
    sae = saes.VLSAE(saes.VLConfig(n_latents=8, k=2), few[points[0]].shape[1], generator=seeded(1))
    sae.metadata = {"hookpoints": {"image": points[0], "text": points[1]}}
    sae.save_pretrained(tmp_path / "sae")
    judge = ("sae", "eval", tmp_path / "sae", "--store", tmp_path / "few", "--out", tmp_path / "j")
    refused = invoke(*judge, "--label-column", "digit")
    assert refused.exit_code == 2 and "not for a VL-SAE" in " ".join(refused.output.split())
    done = invoke(*judge)
    assert done.exit_code == 0, done.output
    assert next(r.top for r in read_results(tmp_path / "j") if r.kind == "vl_pairs") == 6


def test_what_is_no_pair_is_refused(invoke, pairs, tmp_path):
    out = ("--arch", "vl", "--out", tmp_path / "r")
    for given, said in (
        (("-p", "resid_post.0"), "takes two --hookpoint"),
        (("-p", "resid_post.0,resid_post.1", "--target", "resid_post.0"), "no --target"),
    ):
        failed = invoke("sae", "train", "--store", pairs, *given, *out)
        assert failed.exit_code in (1, 2)
        assert said in " ".join(failed.output.split()), failed.output
    assert not (tmp_path / "r").exists()
