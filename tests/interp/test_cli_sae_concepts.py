"""``interp sae train --arch vl``, ``concepts`` and ``explain``, and ``interp capture --pairs``."""

import json

import pytest

import interp
import saes
from interp.demo.captions import captioned
from interp.runs import read_results

MODEL = "demo:digits-clip"


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    """A folder of sixty digits and a table of their captions."""
    folder = tmp_path_factory.mktemp("digits")
    data = captioned(captions=1)
    table = data.rows.iloc[:60].copy()
    for i in range(60):
        data.inputs[i][0].save(folder / f"{i}.png")
    table["image"] = [f"{i}.png" for i in range(60)]
    table.to_csv(folder / "digits.csv", index=False)
    return folder / "digits.csv"


@pytest.fixture
def done(invoke):
    def run(*arguments, code=0):
        result = invoke(*arguments)
        assert result.exit_code == code, result.output
        return result

    return run


def test_train_concepts_and_explain(done, album, tmp_path):
    run, found, said = tmp_path / "sae", tmp_path / "concepts", tmp_path / "said"
    wrong = done("sae", "train", MODEL, album, "--arch", "vl", "--n-latents", 12, "--k", 99,
                 "--out", run, code=2).stderr  # fmt: skip
    assert "k must be" in wrong and not run.exists()  # and its capture is gone on with
    learn = ("sae", "train", MODEL, album, "--arch", "vl", "--n-latents", 12, "--k", 3, "--steps",
             30, "--batch-size", 32, "--out", run)  # fmt: skip
    done(*learn)
    sae = saes.SAE.from_pretrained(run / "sae")
    assert isinstance(sae, saes.VLSAE)
    assert sae.metadata["hookpoints"] == {"image": "image_embeds", "text": "text_embeds"}
    store = interp.ActivationStore.open(tmp_path / "sae-pairs")
    assert store["image_embeds"].shape == (60, 32)

    read = ("sae", "concepts", run / "sae", MODEL, album, "--label-column", "digit", "--top", 3,
            "--out", found)  # fmt: skip
    numbers = json.loads(done(*read, "--json").stdout)["vl_concepts"]
    (result,) = read_results(found)
    assert numbers["latents"] == 12 and result.n == 60 and result.columns == ("digit",)
    assert result.thumbnails and "Search the concepts" in (found / "report.html").read_text("utf-8")
    assert "already holds a run" in done(*read, code=1).stderr
    done(*read, "--resume")

    about = ("sae", "explain", run / "sae", MODEL, found)
    both = (*about, "--image", album.parent / "3.png", "--text", "the digit three", "--out", said)
    assert json.loads(done(*both, "--json").stdout)["vl_explanation"]["of"] == "pair"
    text = done(*about, "--text", "an odd digit", "--out", tmp_path / "text").stdout
    assert "concepts of the text" in text
    sae.encoders["both"].data.add_(1)
    sae.save_pretrained(tmp_path / "other")
    says = done("sae", "explain", tmp_path / "other", *about[3:], "--text", "a digit", "--out",
                tmp_path / "no", code=2).stderr  # fmt: skip
    assert "those of another SAE" in says
    assert "takes --image, --text" in done(*about, "--out", tmp_path / "no", code=2).stderr
    assert not (tmp_path / "no").exists()


def test_a_plan_writes_nothing(done, album, tmp_path):
    for command in (
        ("sae", "train", MODEL, album, "--arch", "vl", "--out", tmp_path / "a"),
        ("capture", MODEL, album, "--pairs", "--out", tmp_path / "b"),
    ):
        plan = json.loads(done(*command, "--dry-run", "--json").stdout)
        assert plan["rows"] == 60 and plan["bytes"] == 60 * 2 * 32 * 4
    assert not list(tmp_path.iterdir())


def test_capture_of_pairs(done, album, tmp_path):
    out = tmp_path / "acts"
    points = ("-p", "vision.resid_post.1", "-p", "text.resid_post.0", "--pool", "first,last")
    done("capture", MODEL, album, "--pairs", *points, "--out", out)
    store = interp.ActivationStore.open(out)
    assert store.hookpoints == ("vision.resid_post.1", "text.resid_post.0")
    assert store.rows["digit"].tolist()[:2] == ["zero", "one"]
    says = done("capture", MODEL, album, "--image-column", "image", "-p", "embed", code=2).stderr
    assert "are for --pairs" in says
    says = done("capture", MODEL, album, "--pairs", "--image-column", "imag", "--out",
                tmp_path / "x", code=2).stderr  # fmt: skip
    assert "no image column 'imag'" in says and "did you mean 'image'" in says


def test_what_is_not_for_pairs_is_refused(done, album, tmp_path):
    sae = saes.TopKSAE(saes.TopKConfig(n_latents=8, k=2), 32)
    sae.save_pretrained(tmp_path / "topk")
    says = done("sae", "concepts", tmp_path / "topk", MODEL, album, "--out", tmp_path / "o", code=2)
    assert "this SAE is a topk" in says.stderr
    bare = saes.VLSAE(saes.VLConfig(n_latents=8, k=2), 32)
    bare.save_pretrained(tmp_path / "vl")
    says = done("sae", "concepts", tmp_path / "vl", MODEL, album, "--out", tmp_path / "o", code=2)
    assert "give --hookpoint" in says.stderr
    says = done("sae", "train", MODEL, album, "-p", "text_embeds", "--prompt", "<image>{text}",
                code=2)  # fmt: skip
    assert "are for --architecture vl" in says.stderr
