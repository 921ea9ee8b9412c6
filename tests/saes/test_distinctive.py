"""Distinctive words: the exact null by hand, and names that chance does not give."""

import numpy as np
import pytest

from saes.distinctive import ALPHA, Vocabulary, excess, terms


def test_terms_are_words_and_neighbours_in_small_letters():
    assert terms("The cat, the CAT's hat") == {
        "the", "cat", "cat's", "hat", "the cat", "cat the", "the cat's", "cat's hat",
    }  # fmt: skip
    assert terms("été 42") == {"été", "42", "été 42"} and terms("…") == frozenset()


@pytest.mark.parametrize(
    ("m", "n", "k", "total", "p"),
    [
        (2, 2, 2, 4, 1 / 6),  # both of the two: 1 of the 6 couples
        (1, 2, 2, 4, 5 / 6),
        (0, 3, 1, 5, 1.0),
        (3, 3, 4, 10, 4 / 120),
    ],
)
def test_the_null_counts_draws(m, n, k, total, p):
    assert np.exp(excess(np.array(m), n, np.array(k), total)) == pytest.approx(p)


def test_a_word_that_sets_texts_apart_names_and_one_that_all_hold_does_not():
    texts = [f"a photo of thing{i}" for i in range(60)] + [f"a red hat number{i}" for i in range(9)]
    words = Vocabulary(texts)
    found, why = words.name([t for t in texts if "red" in t], 10)
    assert found[0].term == "hat" and not why, "of equal ones the shorter, then the alphabet"
    assert found[0].share == 1 and found[0].base_rate == pytest.approx(9 / 69)
    assert found[0].p <= ALPHA
    assert not {"a", "a red"} & {d.term for d in found}
    found, why = words.name(texts[:9], 10)
    assert found == () and why.startswith("no word is distinctive")


def test_few_texts_and_many_looks_have_no_name():
    texts = [f"a thing{i}" for i in range(20)] + ["a dog one", "a dog two"]
    words = Vocabulary(texts)
    # 2 of 2 where 2 of 22 hold it: 1 / 231, times the terms of the two texts
    found, why = words.name(texts[-2:], 1)
    assert found == () and why == (
        "no word is distinctive: the most, 'dog', is in 2 of 2 texts and in 9.1% of all"
    )
    assert words.name(texts[-1:], 1)[1] == "1 texts are too few to have distinctive words"
    assert words.name(["…", "!"], 1)[1] == "its texts hold no words"
    # the same share of more texts is enough, until more latents are looked at
    many = Vocabulary([*(f"a thing{i}" for i in range(20)), *(f"a dog n{i}" for i in range(5))])
    dogs = [f"a dog n{i}" for i in range(5)]
    assert many.name(dogs, 1)[0][0].term == "dog" and many.name(dogs, 1000)[0] == ()


def test_a_term_in_under_half_of_the_texts_does_not_name():
    texts = [f"plain text{i}" for i in range(500)]
    mixed = [f"cat x{i}" for i in range(8)] + [f"other y{i}" for i in range(12)]
    words = Vocabulary([*texts, *mixed[:8], *(f"other y{i}" for i in range(12))])
    assert "cat" not in {d.term for d in words.name(mixed, 1)[0]}
    assert "other" in {d.term for d in words.name(mixed, 1)[0]}


def test_blind_draws_are_seldom_named():
    rng = np.random.default_rng(0)
    vocabulary = [f"w{i}" for i in range(40)]
    texts = [" ".join(rng.choice(vocabulary, 5)) + f" id{i}" for i in range(400)]
    words = Vocabulary(texts)
    named = sum(
        bool(words.name([texts[i] for i in rng.choice(400, 30, replace=False)], 1)[0])
        for _ in range(200)
    )
    assert named <= 200 * ALPHA + 3 * np.sqrt(200 * ALPHA)
