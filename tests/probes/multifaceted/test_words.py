"""Words of one facet alone are distinctive, words of all are not."""

import numpy as np

from probes.multifaceted.words import distinctive_words, snippet


def test_words_that_tell_facets_apart():
    texts = ["the cat sat", "the cat ran", "the cat hid"] * 4 + ["the dog sat", "the dog ran"] * 6
    labels = np.repeat([0, 1], [12, 12])
    cats, dogs = distinctive_words(texts, labels, 2)
    assert cats[0][0] == "cat" and dogs[0][0] == "dog"
    assert "the" not in [w for w, _ in (*cats, *dogs)]
    swapped = distinctive_words(texts, 1 - labels, 2)
    assert swapped == [dogs, cats]


def test_nothing_is_distinctive_of_one_facet_or_of_the_same_texts():
    texts = ["a b c"] * 10
    assert distinctive_words(texts, np.zeros(10, int), 1) == [()]
    assert distinctive_words(texts, np.repeat([0, 1], 5), 2) == [(), ()]
    assert distinctive_words(["odd"] + texts, np.repeat([0, 1], [1, 10]), 2)[0] == ()
    assert distinctive_words(texts, np.full(10, -1), 2) == [(), ()]


def test_a_snippet_keeps_its_place():
    tokens = [str(i) for i in range(30)]
    shown, values, at = snippet(tokens, np.arange(24.0), 20)
    assert shown[at] == "20" and values[at] == 20 and shown[-1] == "23" and shown[0] == "8"
    assert snippet(tokens, np.arange(2.0), 0) == (("0", "1"), (0.0, 1.0), 0)
