"""Codebooks in models: by role, through hooks, with every weight trained, saved and refused."""

import copy

import pytest
import torch
from torch.testing import assert_close

import interp
from interp.errors import CheckpointError, DataError, LayerNotFound, ModelError, ParameterError
from saes.codebook import (
    CodebookConfig,
    Codebooks,
    TextBatches,
    codes_on,
    forced,
    insert,
    read_patterns,
    steer_codes,
    train_codebooks,
)

CONFIG = CodebookConfig(n_codes=20, k=2)
ROLES = {
    "mlp_out.*": (1, 32),
    "attn_out.*": (1, 32),
    "head_out.*": (4, 32),
    "mlp_act.*": (1, 48),
    "resid_post.*": (1, 32),
}
IDS = torch.tensor([[5, 9, 11, 30, 2], [7, 3, 8, 40, 41]])


def logits(model, ids=IDS):
    with torch.no_grad():
        return model({"input_ids": ids}).logits


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("family", ["gpt2", "neox", "llama"])
def test_every_role_in_every_layer(family, role, tiny):
    model = interp.load(tiny(family))
    plain = logits(model)
    books = insert(model, role, CONFIG)
    groups, width = ROLES[role]
    assert books.names == tuple(role.replace("*", str(i)) for i in range(3))
    assert {(books[n].config.groups, books[n].d_in) for n in books.names} == {(groups, width)}
    coded = logits(model)
    assert not torch.allclose(coded, plain)
    ids = books.codes(IDS)
    assert {i.shape for i in ids.values()} == {(2, 5, groups, 2)}
    # what flows on is the mean of the chosen codes
    name = books.names[1]
    with interp.record(model, [name]) as seen:
        logits(model)
    wanted = books[name].of_ids(ids[name].flatten(0, 1))
    assert_close(seen[name].reshape(wanted.shape), wanted)
    books.disable()
    assert torch.equal(logits(model), plain)
    assert torch.equal(logits(books.enable().model), coded)
    with books.disabled():
        assert torch.equal(logits(model), plain)
    assert books.enabled and torch.equal(logits(model), coded)


def test_nothing_of_the_model_is_copied(gpt2):
    before = {n: p.data_ptr() for n, p in gpt2.module.named_parameters()}
    books = insert(gpt2, ["head_out.*", "mlp_out.1"], CONFIG)
    assert {n: p.data_ptr() for n, p in gpt2.module.named_parameters()} == before
    assert books.names == ("head_out.0", "head_out.1", "head_out.2", "mlp_out.1")
    own = {n.split(".")[0] for n, _ in books.named_parameters()}
    assert own == {"books"} and not any("transformer" in n for n, _ in books.named_parameters())


def test_a_config_for_each_expression(gpt2, tiny):
    wide = CodebookConfig(n_codes=50, k=1, groups=2)
    books = insert(gpt2, {"mlp_out.0:2": CONFIG, "attn_out.2": wide})
    assert [books[n].config for n in books.names] == [CONFIG, CONFIG, wide]
    again = insert(interp.load(tiny("gpt2")), {"attn_out.2": wide})
    assert torch.equal(again["attn_out.2"].codes, books["attn_out.2"].codes)  # by seed and name


def test_every_weight_receives_a_gradient(gpt2):
    """Those that do not are listed: none, of the model or of the codebooks."""
    books = insert(gpt2, ["head_out.*", "mlp_out.*"], CONFIG)
    books.loss(
        torch.randint(2, 98, (8, 20), generator=torch.Generator().manual_seed(0))
    ).total.backward()
    parameters = dict(gpt2.module.named_parameters()) | dict(books.named_parameters())
    silent = [n for n, p in parameters.items() if p.grad is None or not p.grad.any()]
    assert silent == []


def test_the_loss_is_the_language_loss_and_weighted_reconstructions(tiny):
    for weight in (1.0, 0.25, 0.0):
        model = interp.load(tiny("gpt2"))
        books = insert(model, "mlp_out.*", CodebookConfig(n_codes=20, k=2, weight=weight))
        loss = books.loss(IDS)
        with torch.no_grad():
            theirs = model.module(input_ids=IDS, labels=IDS).loss
        assert_close(loss.language, theirs)
        parts = sum(loss.reconstruction.values())
        assert_close(loss.total, loss.language + weight * parts)
        assert loss.tokens == 8 and parts > 0


def test_pads_change_nothing(gpt2):
    books = insert(gpt2, ["head_out.*", "mlp_out.*"], CONFIG)
    short = IDS[:1, :3]
    padded = torch.cat([short, torch.zeros(1, 2, dtype=torch.long)], 1)
    mask = torch.tensor([[1, 1, 1, 0, 0]])
    one, other = books.loss(short), books.loss(padded, mask)
    assert_close(other.total, one.total)
    assert other.tokens == 2 and other.mask.tolist() == [True] * 3 + [False] * 2
    assert not torch.allclose(books.loss(padded).total, one.total)  # the mask matters
    with pytest.raises(DataError, match="no token to predict|none to predict"):
        books.loss(IDS[:, :1])


def test_k_of_a_schedule(gpt2):
    books = insert(gpt2, "mlp_out.*", CONFIG)
    assert {s.ids.shape[-1] for s in books.loss(IDS, k=7).snaps.values()} == {7}
    assert {s.ids.shape[-1] for s in books.loss(IDS).snaps.values()} == {2}
    each = books.loss(IDS, k={"mlp_out.0": 3, "mlp_out.1": 5, "mlp_out.2": 1}).snaps
    assert [each[n].ids.shape[-1] for n in books.names] == [3, 5, 1]
    snap, book = books.loss(IDS, k=7).snaps["mlp_out.0"], books["mlp_out.0"]
    assert_close(snap.reduced, book.codes[snap.ids[:, 0]].mean(1))  # of seven, not of two


def test_generation_reads_codes(gpt2):
    books = insert(gpt2, "resid_post.*", CodebookConfig(n_codes=3, k=1))
    coded = gpt2.generate("w3 w9 w30", max_new_tokens=8)
    with books.disabled():
        assert gpt2.generate("w3 w9 w30", max_new_tokens=8) != coded


def test_saved_and_loaded_exactly(gpt2, tmp_path):
    books = insert(gpt2, ["head_out.*", "mlp_out.1"], CONFIG)
    with torch.no_grad():
        for p in (*gpt2.module.parameters(), *books.parameters()):
            p += 0.01
    books.save_pretrained(tmp_path / "a")
    back = Codebooks.load(tmp_path / "a")
    assert back.names == books.names and back.enabled and not back.training
    assert torch.equal(logits(back.model), logits(gpt2))
    for a, b in zip(back.state_dict().items(), books.state_dict().items(), strict=True):
        assert a[0] == b[0] and torch.equal(a[1], b[1])
    back.save_pretrained(tmp_path / "b")
    for file in ("model.safetensors", "codebooks/mlp_out.1/model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    assert back.model.generate("w3 w4", max_new_tokens=3).startswith("w3 w4")  # the tokenizer too
    # the codebooks alone, beside a model that one holds
    coded = logits(gpt2)
    books.disable().save_pretrained(tmp_path / "c", weights=False)
    assert not (tmp_path / "c" / "model.safetensors").exists()
    held = Codebooks.load(tmp_path / "c", interp.load(copy.deepcopy(gpt2.module)))
    assert torch.equal(logits(held.model), coded)


def test_a_model_without_codebooks_is_saved_and_loaded(gpt2, tmp_path):
    insert(gpt2, [], CONFIG).save_pretrained(tmp_path)
    back = Codebooks.load(tmp_path)
    assert not len(back) and torch.equal(logits(back.model), logits(gpt2))


def test_another_model_is_refused(gpt2, tiny, tmp_path):
    insert(gpt2, "mlp_out.*", CONFIG).save_pretrained(tmp_path)
    other = interp.load(tiny("gpt2"))
    with torch.no_grad():
        next(other.module.parameters())[0, 0] += 1
    for wrong in (other, interp.load(tiny("llama"))):
        with pytest.raises(CheckpointError, match="has other weights .* give the model that they"):
            Codebooks.load(tmp_path, wrong)
    with pytest.raises(CheckpointError, match="holds no codebooks"):
        Codebooks.load(tmp_path / "codebooks")


def test_bad_input_ends_in_a_sentence(gpt2, tiny):
    with pytest.raises(LayerNotFound, match="no mlp_act was found"):
        insert(tiny("mamba"), "mlp_act.*", CONFIG)
    with pytest.raises(ModelError, match="no language model|both sides"):
        insert(tiny("bert"), "mlp_out.*", CONFIG)
    with pytest.raises(ModelError, match="reads one text and says another"):
        insert(tiny("t5"), "decoder.mlp_out.*", CONFIG)
    with pytest.raises(ParameterError, match="mlp_out.1 is asked for with two configs"):
        insert(gpt2, {"mlp_out.*": CONFIG, "mlp_out.1": CodebookConfig(n_codes=5, k=1)})
    with pytest.raises(ParameterError, match="groups must divide the width; got 5"):
        insert(gpt2, "mlp_out.*", CodebookConfig(n_codes=4, k=1, groups=5))
    with pytest.raises(ParameterError, match="needs a CodebookConfig"):
        insert(gpt2, "mlp_out.*")
    with pytest.raises(LayerNotFound, match="layers 0..2"):
        insert(gpt2, "mlp_out.7", CONFIG)
    books = insert(gpt2, "mlp_out.*", CONFIG)
    with pytest.raises(ParameterError, match="no codebook at 'mlp_out.9'; did you mean"):
        books["mlp_out.9"]


def test_hooks_are_gone_after_an_exception(gpt2):
    books = insert(gpt2, "mlp_out.*", CONFIG).disable()
    plain = logits(gpt2)
    with pytest.raises(RuntimeError), books.disabled():
        raise RuntimeError
    assert not books.enabled and torch.equal(logits(gpt2), plain)
    assert not any(m._forward_hooks for m in gpt2.module.modules())


def test_a_deep_copy_is_a_model_and_codebooks_of_its_own(gpt2):
    books = insert(gpt2, ["head_out.*", "mlp_out.1"], CONFIG)
    coded = logits(gpt2)
    again, alone = copy.deepcopy(books), interp.load(copy.deepcopy(gpt2.module))
    assert torch.equal(logits(again.model), coded) and torch.equal(logits(alone), coded)
    with torch.no_grad():
        again["mlp_out.1"].codes += 1
    assert not torch.allclose(logits(again.model), coded)
    assert torch.equal(logits(gpt2), coded)
    again.disable()
    assert books.enabled and torch.equal(logits(gpt2), coded)
    assert not any(m._forward_hooks for m in again.model.module.modules())


@pytest.mark.filterwarnings("ignore")  # those of torch's compiler
def test_a_compiled_model_reads_codes(tiny):
    """Values and gradients are those of eager code, also where the model was compiled before."""
    neox = interp.load(tiny("neox"))
    books = insert(neox, ["head_out.*", "mlp_out.1"], CONFIG).disable()
    plain = logits(neox)
    parameters = [*neox.module.parameters(), *books.parameters()]
    eager = books.enable().loss(IDS)
    wanted = torch.autograd.grad(eager.total, parameters)
    books.disable()
    neox.module.compile(backend="eager")
    assert_close(logits(neox), plain)  # compiled without codebooks
    found = books.enable().loss(IDS)
    assert_close(found.total, eager.total)
    for a, b in zip(torch.autograd.grad(found.total, parameters), wanted, strict=True):
        assert_close(a, b)
    assert torch.equal(found.snaps["mlp_out.1"].ids, eager.snaps["mlp_out.1"].ids)
    coded = logits(neox)
    assert not torch.allclose(coded, plain)
    with books.disabled():
        assert_close(logits(neox), plain)
    assert_close(logits(neox), coded)
    with forced(books, [("mlp_out.1", 3)]):
        assert not torch.allclose(logits(neox), coded)


def test_disabled_codebooks_are_not_read(gpt2):
    books = insert(gpt2, "mlp_out.*", CONFIG).disable()
    for read in (
        lambda: books.codes(IDS),
        lambda: codes_on(books, "w3 w4"),
        lambda: steer_codes(books, [("mlp_out.0", 3)], "w", ["w5"]),  # would count the same thrice
        lambda: train_codebooks(books, TextBatches(gpt2, ["w3 w4"], 1), steps=1),
    ):
        with pytest.raises(ParameterError, match=r"disabled and choose no codes; enable\(\) first"):
            read()


def test_positions_of_a_model_that_flattens_them(tiny, tokenizer, tmp_path):
    """OPT's MLP reads all tokens of a batch in one row; codes are still [b, t]."""
    model = interp.load(tiny("opt"))
    model.tokenizer = tokenizer()
    books = insert(model, ["mlp_out.*", "attn_out.0"], CONFIG)
    plain = books.codes(IDS)
    assert {i.shape for i in plain.values()} == {(2, 5, 1, 2)}
    books.save_pretrained(tmp_path)
    for one in (books, Codebooks.load(tmp_path)):
        with forced(one, [("mlp_out.1", 3)], positions=[2]):
            ids = one.codes(IDS)["mlp_out.1"]
        assert (ids[:, 2, 0, 1] == 3).all()
        others = [0, 1, 3, 4]
        assert torch.equal(ids[:, others], plain["mlp_out.1"][:, others])
    found = read_patterns(books, ["w3 w4 w5 w9", "w9 w5 w7"] * 9, {"nine": "w9"})
    assert found.n == 63 and found.best()[0].precision == 1
    assert not any(m._forward_pre_hooks for m in books.disable().model.module.modules())
