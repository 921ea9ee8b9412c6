"""The demo model and data: exact labels, matched classes, and files that were held out."""

import ast
import hashlib
import importlib.util
import json
import keyword
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from transformers import AutoModelForCausalLM, AutoTokenizer

import interp.demo
from interp.data import Dataset
from interp.demo.facts import number_word, statements
from interp.demo.labels import CONCEPTS, Source
from interp.demo.python import python_source
from interp.demo.stdlib import held_out_files, is_held_out, read_source, source_files, stdlib_root
from interp.errors import ParameterError

ROOT = Path(interp.demo.__file__).parents[2]


@pytest.fixture(scope="module")
def facts() -> Dataset:
    return interp.demo.dataset("facts")


@pytest.fixture(scope="module")
def python() -> Dataset:
    return interp.demo.dataset("python")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "examples" / "train_pylm.py"
    spec = importlib.util.spec_from_file_location("train_pylm", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# the package


def test_importing_the_package_is_light():
    code = (
        "import sys, interp.demo\n"
        "print([m for m in ('torch', 'pandas', 'transformers', 'sklearn') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_an_unknown_name_lists_the_known_ones():
    says = "demo:pyml is no demo model; there is digits, digits-clip, pylm .*'pylm'"
    with pytest.raises(ParameterError, match=says):
        interp.demo.model_path("pyml")
    known = r"digits, digits-clip, facts, python\."
    with pytest.raises(ParameterError, match=f"demo:x is no demo data set; there is {known}"):
        interp.demo.dataset("x")
    with pytest.raises(ParameterError, match="at least 30 rows, got n=3"):
        interp.demo.dataset("python", n=3)


def test_every_name_of_the_tables_is_there(facts, python):
    for name in interp.demo.MODELS:
        own = "card.json" if name in interp.demo.MODULES else "config.json"
        assert (interp.demo.model_path(name) / own).is_file()
    for name in interp.demo.DATA:
        if name == "digits":  # images, which test_handwriting.py looks at
            continue
        data = {"facts": facts, "python": python}.get(name) or interp.demo.dataset(name)
        texts = [i[1] for i in data.inputs] if data.kind == "pair" else data.inputs
        assert data.name == name and texts == data.rows[data.text_column].tolist()
        assert len(data) == len(data.rows) and set(data.labels) == set(data.about)
        assert data.group in data.rows
    assert facts.rows["text"].is_unique
    assert not python.rows.duplicated(["concept", "text"]).any()


def test_the_package_stays_small():
    for name, least, most in (("pylm", 1e6, 5e6), ("digits-clip", 1e5, 1e6)):
        files = interp.demo.model_path(name).rglob("*")
        assert least < sum(p.stat().st_size for p in files if p.is_file()) < most


# held-out files


def test_the_rule_is_the_hash_of_the_path():
    for path in ("enum.py", "json/decoder.py", "a/b.py"):
        number = int.from_bytes(hashlib.sha256(path.encode()).digest()[:4], "big")
        assert is_held_out(path) == (number % 7 == 0)
    files = source_files()
    assert 0.08 < len(held_out_files()) / len(files) < 0.22
    assert not [f for f in files if "/test/" in f or f.startswith(("test/", "site-packages/"))]


def test_training_and_held_out_texts_are_disjoint(script, python):
    trained = set(script.documents(held_out=False))
    held_out = set(script.documents(held_out=True))
    assert trained and held_out and not trained & held_out
    files = set(python.rows["file"])
    assert all(is_held_out(file) for file in files)
    assert {read_source(file) for file in files} <= held_out
    assert not all(is_held_out(file) for file in source_files()[:50])


# facts


def test_facts_are_balanced_matched_pairs(facts):
    rows = facts.rows
    assert 600 <= len(rows) <= 1000
    assert (rows["label"].groupby([rows["topic"], rows["group"]]).mean() == 0.5).all()
    pairs = rows["group"].to_numpy().reshape(-1, 2)
    assert (pairs[:, 0] == pairs[:, 1]).all()
    assert (rows["label"].to_numpy().reshape(-1, 2).sum(axis=1) == 1).all()


def test_sums_and_comparisons_are_exact(facts):
    value = {number_word(i): i for i in range(100)}
    checked = 0
    for text, label in zip(facts.rows["text"], facts.rows["label"], strict=True):
        words = [value.get(w, w) for w in re.sub(r"[.+=]", " ", text.lower()).split()]
        numbers = [int(w) for w in words if str(w).isdigit()]
        if len(numbers) == 3:
            assert (numbers[0] + numbers[1] == numbers[2]) == label, text
        elif len(numbers) == 2:
            larger = numbers[0] > numbers[1]
            assert (larger if "larger" in text else not larger) == label, text
        else:
            continue
        checked += 1
    assert checked == (facts.rows["topic"] != "cities").sum()


def test_every_word_is_as_often_true_as_false_in_its_group(facts):
    counts = {0: Counter(), 1: Counter()}
    for text, label, group in facts.rows[["text", "label", "group"]].itertuples(index=False):
        counts[label].update((group, word) for word in re.findall(r"[\w-]+", text.lower()))
    assert counts[0] == counts[1]


def test_cities_have_one_country(facts):
    rows = facts.rows[facts.rows["topic"] == "cities"]
    true = rows[rows["label"] == 1]["text"].tolist()
    false = rows[rows["label"] == 0]["text"].tolist()
    assert "The city of Lyon is in France." in true
    assert "Osaka is a city in Japan." in true
    assert not set(true) & set(false)


def bag_of_words(texts: list[str], labels: np.ndarray, groups: np.ndarray) -> float:
    """Accuracy of a bag of words under a grouped split."""
    vectorizer = CountVectorizer(token_pattern=r"[\w-]+")
    model = make_pipeline(vectorizer, LogisticRegression(max_iter=1000))
    found = cross_val_predict(model, texts, labels, groups=groups, cv=GroupKFold(5))
    return float((found == labels).mean())


def test_a_bag_of_words_learns_nothing_on_facts(facts):
    rows = facts.rows
    labels, groups = rows["label"].to_numpy(), rows["group"].to_numpy()
    assert bag_of_words(facts.inputs, labels, groups) == pytest.approx(0.5, abs=0.01)
    # the same bag of words learns what words do show
    topic = (rows["topic"] == "cities").to_numpy().astype(int)
    assert bag_of_words(facts.inputs, topic, groups) > 0.95


def test_facts_follow_the_seed():
    assert statements(1).inputs == statements(1).inputs != statements(2).inputs


# python: the labelling functions, by hand

SNIPPET = '''\
import os

def f(alpha, beta, *rest, gamma=1):
    """Words of alpha here."""
    total = g(alpha, [beta, {1: total}])
    for item in rest:
        print(item, total)  # a note
        total = item
    return total
'''


def labels_at(concept: str, text: str) -> dict[str, list[int]]:
    """The labels of a concept, by the word that each position ends in, in order."""
    found: dict[str, list[int]] = {}
    for position in CONCEPTS[concept](Source(text)):
        word = re.findall(r"\w+|\W", text[: position.end])[-1]
        found.setdefault(word, []).append(position.label)
    return found


def test_keyword_by_hand():
    found = labels_at("keyword", "x = not y\nif a is None:\n    return b\n")
    assert found == {"=": [1], "not": [0], "x": [0], "if": [0], "a": [1], "is": [1]} | {
        "None": [0],
        "return": [0],
    }


def test_string_by_hand():
    found = labels_at("string", SNIPPET)
    assert found["alpha"] == [1, 0]  # in the docstring, then in the call
    assert found["note"] == [1] and found["Words"] == [1] and found["return"] == [0]
    assert "os" not in found  # no string has begun before it
    assert labels_at("string", "a = f'b {c} d'\ne = 'g'\nh = 1\n") == {"g": [1], "h": [0]}


def test_bracket_depth_by_hand():
    found = labels_at("bracket_depth", "x = f(a, [b, (c)], d)\ny\n")
    assert found["x"] == [0] and found["f"] == [0] and found["a"] == [1]
    assert found["b"] == [2] and found["c"] == [2] and found["d"] == [1] and found["y"] == [0]
    assert found["("] == [1, 2] and found["]"] == [1] and found[")"] == [2, 0]


def test_loop_by_hand():
    found = labels_at("loop", SNIPPET)
    assert found == {"print": [1], "item": [1, 1], "total": [1, 1, 0]}
    text = "while a:\n    b\n    def f():\n        c\nelse:\n    d\ne = [g for g in h]\ni\n"
    assert labels_at("loop", text) == {"b": [1], "i": [0]}
    text = "if a:\n    for b in c:\n        d\n    e\nelse:\n    g\nh\n"
    assert labels_at("loop", text) == {"d": [1], "e": [0], "h": [0]}


def test_argument_by_hand():
    found = labels_at("argument", SNIPPET)
    assert found == {"alpha": [1], "beta": [1], "total": [0, 0, 0], "rest": [1], "item": [0, 0]}
    text = "def f(self, a, b):\n    global c\n    b = c = d = lambda e: e\n    self, a, b, c, d\n"
    assert labels_at("argument", text) == {"a": [1], "d": [0]}


def test_offsets_are_characters():
    text = "def f(a):\n    é = 'äöü'; return a, é\n"
    ends = [position.end for position in CONCEPTS["argument"](Source(text))]
    assert [text[:end][-1] for end in ends] == ["a", "é"]


# python: the data set, by another way of knowing


def test_classes_are_balanced_and_no_file_dominates(python):
    assert 2000 <= len(python) <= 2500
    for concept in python.labels:
        rows = python.rows[python.rows[concept].notna()]
        assert (rows["concept"] == concept).all()
        counts = rows[concept].value_counts()
        assert len(counts) == (3 if concept == "bracket_depth" else 2)
        assert counts.nunique() == 1 and len(rows) >= 200
        assert rows["file"].value_counts().iloc[0] <= 0.12 * len(rows)
        assert rows["file"].nunique() >= 30
        assert not rows.duplicated(["file", "line"]).any()


def test_texts_are_in_their_files(python):
    for text, file, line in python.rows[["text", "file", "line"]].itertuples(index=False):
        source = read_source(file)
        assert source is not None and 40 <= len(text) <= 280
        assert text[-1].strip()
        # it starts a line, and ends in the line that the row names
        assert ("\n" + source).find("\n" + text) >= 0
        last = text.rsplit("\n", 1)[-1]
        assert source.split("\n")[line - 1].startswith(last) or "\n" not in text


def whole(text: str, row) -> tuple[str, int]:
    """The file's text and the end of the row's text in it, found by the line."""
    source = read_source(row.file)
    assert source is not None
    lines = source.split("\n")
    first = row.line - 1 - text.count("\n")
    start = sum(len(line) + 1 for line in lines[:first])
    assert source[start : start + len(text)] == text
    return source, start + len(text)


def test_keywords_again(python):
    for row in python.rows[python.rows["concept"] == "keyword"].itertuples():
        source, end = whole(row.text, row)
        after = re.match(r"[ ]*(\w*)", source[end:])
        assert after is not None and keyword.iskeyword(after[1]) == row.keyword, row.text


def test_strings_again(python):
    """A name put in at the end is a name of the tree in code, and none inside text."""
    mark = "_mark_of_the_test"
    seen = Counter()
    for row in python.rows[python.rows["concept"] == "string"].itertuples():
        source, end = whole(row.text, row)
        word = re.findall(r"\w+$", row.text)[0]
        if keyword.iskeyword(word) or len(source) > 20_000:
            continue
        tree = ast.parse(source[:end] + mark + source[end:])
        strings = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
        in_string = any(isinstance(value, str) and mark in value for value in strings)
        in_code = word + mark in ast.dump(tree) and not in_string
        assert in_code == (row.string == 0), row.text
        seen[row.string] += 1
    assert min(seen[0], seen[1]) > 50


def test_brackets_again(python):
    """Count the brackets of the file itself, strings and comments blanked by a regex.

    Files with f-strings are passed over: from Python 3.12 on, quotes nest in them.
    """
    seen = 0
    text_of = r"(?s)#[^\n]*|'''.*?'''|\"\"\".*?\"\"\"|'(?:\\.|[^'\\\n])*'|\"(?:\\.|[^\"\\\n])*\""
    for row in python.rows[python.rows["concept"] == "bracket_depth"].itertuples():
        source, end = whole(row.text, row)
        if re.search(r"\b[rR]?[fFtT][rR]?['\"]", source):
            continue
        code = re.sub(text_of, lambda m: " " * len(m[0]), source)[:end]
        depth = sum(code.count(c) for c in "([{") - sum(code.count(c) for c in ")]}")
        assert min(depth, 2) == row.bracket_depth, row.text
        seen += 1
    assert seen > 50


def test_loops_again(python):
    """By indentation alone: some line above, indented less step by step, is a loop's header."""
    header = re.compile(r"\s*(async for|for|while)\b")
    rows = python.rows[python.rows["concept"] == "loop"]
    agree = 0
    for row in rows.itertuples():
        source, _ = whole(row.text, row)
        lines = source.split("\n")[: row.line]
        indent, inside = len(lines[-1]) - len(lines[-1].lstrip()), False
        for line in reversed(lines[:-1]):
            here = len(line) - len(line.lstrip())
            if line.strip() and here < indent:
                indent, inside = here, inside or bool(header.match(line))
                if re.match(r"\s*(async def|def|class)\b", line):
                    break
        agree += inside == row.loop
    # statements of several lines are indented as they like
    assert agree / len(rows) > 0.95


def test_arguments_again(python):
    """By the bytecode's names: compile the module and look the function up by its lines."""
    seen = 0
    for row in python.rows[python.rows["concept"] == "argument"].itertuples():
        name = re.findall(r"\w+$", row.text)[0]
        if row.file.startswith("lib2to3") or seen > 150:
            continue
        source, _ = whole(row.text, row)
        inner = [compile(source, row.file, "exec", dont_inherit=True)]
        functions = []
        while inner:
            code = inner.pop()
            inner += [c for c in code.co_consts if hasattr(c, "co_code")]
            spans = [line for *_, line in code.co_lines() if line]
            plain = not code.co_name.startswith("<")
            if plain and spans and code.co_firstlineno <= row.line <= max(spans):
                functions.append(code)
        code = max(functions, key=lambda c: c.co_firstlineno)
        flags = bool(code.co_flags & 4) + bool(code.co_flags & 8)
        arguments = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount + flags]
        assert (name in arguments) == row.argument, row.text
        seen += 1
    assert seen > 100


def test_surface_cues_are_matched(python):
    for concept in ("string", "argument"):
        rows = python.rows[python.rows[concept].notna()]
        last = rows["text"].str.extract(r"(\w+)$")[0]
        assert Counter(last[rows[concept] == 0]) == Counter(last[rows[concept] == 1])
    loops = python.rows[python.rows["loop"].notna()]
    assert loops["text"].str.contains(r"\b(?:for|while)\b").all()
    assert loops["text"].map(lambda text: bool(re.search(r"\w$", text))).all()


def test_python_follows_the_seed(python):
    again, other = python_source(), python_source(n=200, seed=1)
    assert again.rows.equals(python.rows) and again.label_notes == python.label_notes
    assert 190 <= len(other) <= 200
    assert not set(other.inputs) <= set(python.inputs)


def test_the_standard_library_is_that_of_this_python():
    assert (stdlib_root() / "tokenize.py").is_file()


# pylm


@pytest.fixture(scope="module")
def pylm():
    folder = interp.demo.model_path("pylm")
    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def next_probabilities(pylm, text: str) -> torch.Tensor:
    model, tokenizer = pylm
    with torch.inference_mode():
        return model(**tokenizer(text, return_tensors="pt")).logits[0, -1].double().softmax(-1)


def test_pylm_is_what_it_says(pylm):
    model, tokenizer = pylm
    config = model.config
    assert (config.model_type, config.activation_function) == ("gpt2", "relu")
    assert (config.n_layer, config.n_embd, config.n_head, config.n_inner) == (4, 128, 4, 512)
    assert len(tokenizer) == config.vocab_size == 2048
    assert tokenizer.pad_token == tokenizer.eos_token == "<|endoftext|>"
    assert model.lm_head.weight is model.transformer.wte.weight
    for text in ("def f(x):\n    return x\n", "é\t\x00 日本", " a  b\n\n\n"):
        assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_pylm_continues_import(pylm):
    _, tokenizer = pylm
    for text in ("import os\nimport", "import re\nimport sys\nimport", "import errno\nimport"):
        top = [tokenizer.decode([i]) for i in next_probabilities(pylm, text).topk(3).indices]
        assert re.fullmatch(r" \w+", top[0]), top
        assert all(re.fullmatch(r" ?\w+", token) for token in top), top
    # and other places are not continued so
    top = tokenizer.decode([int(next_probabilities(pylm, "    return (a + b").argmax())])
    assert not re.fullmatch(r" \w+", top), top


def test_pylm_closes_brackets(pylm):
    """More probability on a closing bracket after an open one than in the same text without it."""
    _, tokenizer = pylm
    closing = {")": [], "]": []}
    for token, index in tokenizer.get_vocab().items():
        for sign, indices in closing.items():
            if token.startswith(sign):
                indices.append(index)
    pairs = [
        ("print(len(x", "print len x", ")"),
        ("x = f(a", "x = f a", ")"),
        ("    return str(value", "    return value", ")"),
        ("    if isinstance(x, int", "    if x, int", ")"),
        ("result.append(item", "result.append = item", ")"),
        ("    raise ValueError(msg", "    raise ValueError, msg", ")"),
        ("y = [a, b", "y = a, b", "]"),
        ("    value = table[key", "    value = table, key", "]"),
        ("    return self._cache[name", "    return self._cache, name", "]"),
        ("for i in range(n", "for i in n", ")"),
        ("with open(path", "with path", ")"),
        ("assert callable(func", "assert func", ")"),
    ]
    gaps = [
        float(
            next_probabilities(pylm, opened)[closing[sign]].sum()
            - next_probabilities(pylm, plain)[closing[sign]].sum()
        )
        for opened, plain, sign in pairs
    ]
    assert np.mean(gaps) > 0.15 and np.mean(np.array(gaps) > 0) > 0.9, gaps


def test_pylm_beats_a_bigram_on_held_out_files(pylm, script):
    model, tokenizer = pylm
    few = [text for text in script.documents(held_out=True) if 4000 < len(text) < 9000][:6]
    assert len(few) >= 4
    train, few_ids = script.documents(held_out=False), script.stream(tokenizer, few)
    train_ids = script.stream(tokenizer, train)
    loss = script.model_loss(model, few_ids)
    bigram = min(script.bigram_loss(train_ids, few_ids, k) for k in script.SMOOTHING)
    unigram = min(script.unigram_loss(train_ids, few_ids, k) for k in script.SMOOTHING)
    assert loss < bigram - 0.5 < unigram - 0.5, (loss, bigram, unigram)
    # a shuffled text has the same tokens and nothing to go by
    order = torch.randperm(len(few_ids), generator=torch.Generator().manual_seed(0))
    assert script.model_loss(model, few_ids[order]) > unigram - 0.2


def test_the_card_holds_the_figures():
    card = json.loads((interp.demo.model_path("pylm") / "card.json").read_text())
    figures = card["held_out"]
    assert figures["loss_nats_per_token"] < figures["bigram_nats_per_token"] - 0.5
    assert figures["bigram_nats_per_token"] < figures["unigram_nats_per_token"]
    assert "date" not in json.dumps(card) and card["training"]["steps"] > 1000


# the script


def test_losses_by_hand(script):
    train = torch.tensor([0, 1, 0, 1, 0, 2])
    ids = torch.tensor([0, 1, 0])
    # counts 3, 2, 1 of 6, and after 0: 1 twice of 3, after 1: 0 twice of 2
    unigram = -(np.log(2 / 6) + np.log(3 / 6)) / 2
    assert script.unigram_loss(train, ids, 1e-12) == pytest.approx(unigram, abs=1e-6)
    bigram = -(np.log(2 / 3) + np.log(2 / 2)) / 2
    assert script.bigram_loss(train, ids, 1e-12) == pytest.approx(bigram, abs=1e-6)
    wide = -(np.log(3 / (3 + 2048)) + np.log(3 / (2 + 2048))) / 2
    assert script.bigram_loss(train, ids, 1.0) == pytest.approx(wide)


@pytest.mark.parametrize("n", [2, 100, 256, 257, 258, 384, 385, 386, 700])
def test_windows_score_every_token_once(script, pylm, n):
    """Against one token at a time, each with the context that the overlapping windows give it."""
    model, _ = pylm
    ids = torch.randint(2048, (n,), generator=torch.Generator().manual_seed(n))
    losses = []
    with torch.inference_mode():
        for start in range(0, max(1, n - 1), 128):
            window = ids[start : start + 257]
            logits = model(window[None, :-1]).logits[0].double().log_softmax(-1)
            skip = 0 if start == 0 else 128
            losses += [-logits[j, window[j + 1]].item() for j in range(skip, len(window) - 1)]
    assert len(losses) == n - 1
    assert script.model_loss(model, ids) == pytest.approx(np.mean(losses), rel=1e-5)


def test_resume_is_exact(script, tmp_path):
    """A stopped and resumed run ends with the weights of an unbroken one."""
    ids = torch.randint(2048, (4000,), generator=torch.Generator().manual_seed(0))

    def run(steps: list[int], folder: str):
        for i, stop in enumerate(steps):
            arguments = script.parser().parse_args(
                ["--steps", "4", "--batch-size", "2", "--checkpoint", str(tmp_path / folder / "c")]
                + (["--resume"] if i else [])
            )
            model = script.new_model(0)
            assert script.train(model, ids, arguments, until=stop) == stop
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    unbroken, broken = run([4], "a"), run([2, 4], "b")
    assert torch.equal(unbroken, broken)
    assert not torch.equal(unbroken, run([2], "c"))
