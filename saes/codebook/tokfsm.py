"""TokFSM: the finite-state language of Codebook Features, and what a perfect model of it scores.

A machine of N states has the same number of edges out of each, all equally likely. A state is
written as digits, most significant first; a sequence is a start token and the digits of a walk that
begins in a uniform state. All that a model can know is thus known exactly.

Source: Tamkin, Taufeeque, Goodman 2023, "Codebook Features", section 3 (arXiv 2310.17230). Their
machine is ``FSM(100, 10, seed=42)``, with 128 tokens a sequence.
"""

import math
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from interp.errors import ParameterError
from interp.hooks import evaluating
from saes.codebook.control import interchange
from saes.codebook.generating import sample
from saes.codebook.patterns import purity

if TYPE_CHECKING:
    from interp.models import Model
    from saes.codebook.model import Codebooks

__all__ = [
    "FSM",
    "code_purity",
    "first_transition_overlap",
    "interchange_table",
    "next_state_probabilities",
    "state_accuracy",
    "state_tokens",
    "walks",
]

LENGTH = 128
"""Tokens of a sequence, the start token among them."""
SAMPLES = 100
"""Sequences that state accuracy is measured on."""
ROUNDING = 1e-12
"""A divergence, in nats, that is none."""
BATCH = 500
"""Sequences of a forward."""


class FSM:
    """A machine of ``n_states`` states with ``n_edges`` edges out of each.

    Parameters
    ----------
    n_states : at least 2.
    n_edges : from 1 to ``n_states``.
    seed : of the edges; or a numpy generator to draw them from, which goes on from there.
    base : of the digits, 2 to 10.

    Attributes
    ----------
    transitions : [n_states, n_states] chance of each next state, rows sum to 1.
    digits : how many a state is written with.
    bos : the start token, equal to ``base``; tokens below it are digits.

    Raises
    ------
    ParameterError
        A number is outside what it allows.
    """

    def __init__(
        self, n_states: int, n_edges: int, seed: int | np.random.Generator = 0, *, base: int = 10
    ) -> None:
        if n_states < 2 or not 1 <= n_edges <= n_states:
            raise ParameterError(
                "FSM needs at least 2 states, and from 1 to n_states edges; got "
                f"{n_states} and {n_edges}."
            )
        if not 2 <= base <= 10:
            raise ParameterError(f"FSM: base must be from 2 to 10; got {base}.")
        rng = np.random.default_rng(seed)
        self.n_states, self.n_edges, self.base = n_states, n_edges, base
        self.digits = 1
        while base**self.digits < n_states:
            self.digits += 1
        self.transitions = np.zeros((n_states, n_states))
        for row in self.transitions:
            row[rng.choice(n_states, size=n_edges, replace=False)] = 1 / n_edges

    @property
    def bos(self) -> int:
        """The start token."""
        return self.base

    @property
    def vocabulary(self) -> int:
        """How many tokens there are."""
        return self.base + 1

    @cached_property
    def neighbours(self) -> Int[NDArray, "states edges"]:
        """[n_states, n_edges] next states of each state, rising."""
        return np.nonzero(self.transitions)[1].reshape(self.n_states, self.n_edges)

    def reverse(self) -> Float[NDArray, "states states"]:
        """The walk backwards: row i is uniform over the states with an edge into i.

        Degenerate: a state that nothing leads to has a row of zeros.
        """
        into = (self.transitions.T > 0).astype(float)
        total = into.sum(1, keepdims=True)
        return into / np.where(total > 0, total, 1)

    def walk(self, n: int, generator: np.random.Generator) -> list[int]:
        """A walk of n states from a uniform start."""
        states = [int(generator.integers(self.n_states))]
        while len(states) < n:
            states.append(int(generator.choice(self.n_states, p=self.transitions[states[-1]])))
        return states

    def sequences(
        self, n: int, length: int = LENGTH, *, generator: torch.Generator
    ) -> Int[Tensor, "n length"]:
        """[n, length] tokens: the start token and a walk's digits; the last state may be cut."""
        count = math.ceil((length - 1) / self.digits)
        edges = torch.from_numpy(self.neighbours)
        state = torch.randint(self.n_states, (n,), generator=generator)
        turns = torch.randint(self.n_edges, (count, n), generator=generator)
        states = [state]
        for turn in turns[1:]:
            states.append(edges[states[-1], turn])
        tokens = self.tokens(torch.stack(states, 1)).flatten(1)
        start = torch.full((n, 1), self.bos)
        return torch.cat([start, tokens], 1)[:, :length]

    def tokens(self, states: Int[Tensor, "..."]) -> Int[Tensor, "... digits"]:
        """[..., digits] of states [...]."""
        place = self.base ** torch.arange(self.digits - 1, -1, -1)
        return states[..., None] // place % self.base

    def text(self, states: Sequence[int]) -> str:
        """The digits of a walk."""
        return "".join(str(d) for d in self.tokens(torch.tensor(list(states))).flatten().tolist())

    def states(self, text: str | Sequence[int] | Tensor) -> list[int]:
        """The states that digits spell, cut from the left; what is no digit is passed over.

        ``text`` is a string, or token ids. Digits at the end that make no whole state are dropped.
        """
        if isinstance(text, str):
            found = [int(c) for c in text if c.isdigit()]
        else:
            found = [int(t) for t in text if int(t) < self.base]
        whole = len(found) // self.digits * self.digits
        place = self.base ** np.arange(self.digits - 1, -1, -1)
        return (np.array(found[:whole], int).reshape(-1, self.digits) @ place).tolist()

    def transition_accuracy(self, walks: Sequence[Sequence[int]]) -> tuple[float, float]:
        """Share of steps that follow an edge, over all walks; and the share of first steps.

        Range: 0 to 1, higher is better; chance is the share of edges, ``n_edges / n_states``.
        Degenerate: nan where no walk has two states. A state number of ``n_states`` or above, as
        digits may spell where these are fewer than ``base ** digits``, follows no edge.
        """
        right, total, first = 0, 0, []
        for walk in walks:
            steps = [
                bool(max(a, b) < self.n_states and self.transitions[a, b] > 0)
                for a, b in zip(walk[:-1], walk[1:], strict=True)
            ]
            right, total = right + sum(steps), total + len(steps)
            first += steps[:1]
        if not total:
            return float("nan"), float("nan")
        return right / total, sum(first) / len(first)

    def bayes_loss(self, length: int = LENGTH) -> float:
        """The least cross-entropy that a model can have, in nats a token; float64.

        The mean, over the ``length - 1`` tokens after the first, of the entropy of a digit given
        the state before it and its own state's digits so far: that is all that tells of it.
        """
        return -self._mean_over_tokens(_entropies(self._rows(), self.base, self.digits), length)

    def bayes_accuracy(self, length: int = LENGTH) -> float:
        """The greatest share of tokens after the first that can be told, 0 to 1."""
        return self._mean_over_tokens(_likeliest(self._rows(), self.base, self.digits), length)

    def state_digit_pairs(self) -> Int[NDArray, "m 2"]:
        """[m, 2]: each state with each digit that can follow it, as 18 and 0 where 18 goes to 7."""
        rows = self._rows()[:-1]
        return np.argwhere(rows.reshape(len(rows), self.base, -1).sum(2) > 0)

    def _rows(self) -> NDArray:
        """[n_states + 1, base ** digits]: chances after each state, and of the first state."""
        rows = np.zeros((self.n_states + 1, self.base**self.digits))
        rows[:-1, : self.n_states] = self.transitions
        rows[-1, : self.n_states] = 1 / self.n_states
        return rows

    def _mean_over_tokens(self, scores: NDArray, length: int) -> float:
        """The mean over tokens of [digits, n_states + 1] scores, by the state before them."""
        before = np.zeros(self.n_states + 1)
        before[-1] = 1
        found: list[float] = []
        while len(found) < length - 1:
            found += (scores @ before).tolist()
            before = np.append(before @ self._rows()[:, : self.n_states], 0)
        return float(np.mean(found[: length - 1]))


def walks(fsm: FSM, tokens: Int[Tensor, "n t"]) -> list[list[int]]:
    """The walk that each row of tokens spells."""
    return [fsm.states(row.tolist()) for row in tokens]


def state_accuracy(
    model: "Model", fsm: FSM, *, n: int = SAMPLES, length: int = LENGTH, seed: int = 0
) -> tuple[float, float]:
    """`FSM.transition_accuracy` of what a model says by itself, from the start token.

    Parameters
    ----------
    n, length : sequences, and tokens of each, drawn at temperature 1.
    seed : of the draws.

    Source: "Codebook Features", section 3, "State Acc".
    """
    start = torch.full((n, 1), fsm.bos, device=model.device)
    tokens = sample(model, start, length - 1, generator=torch.Generator().manual_seed(seed))
    return fsm.transition_accuracy(walks(fsm, tokens))


def next_state_probabilities(model: "Model", fsm: FSM) -> Float[Tensor, "states states"]:
    """[n_states, n_states] a model's chance of each next state, after the start token and a state.

    What it gives to digits that spell no state is missing: rows sum to 1 at most.
    """
    states = torch.arange(fsm.n_states)
    start = torch.cat([torch.full((fsm.n_states, 1), fsm.bos), fsm.tokens(states)], 1)
    table = []
    with evaluating(model.module), torch.inference_mode():
        for row in start:
            ids = torch.cat([row.expand(fsm.n_states, -1), fsm.tokens(states)], 1)
            logits = model({"input_ids": ids[:, :-1]}).logits[:, len(row) - 1 :].double()
            chosen = ids[:, len(row) :, None].to(logits.device)
            table.append(logits.log_softmax(-1).gather(2, chosen).sum((1, 2)).exp().cpu())
    return torch.stack(table)


def first_transition_overlap(model: "Model", fsm: FSM) -> float:
    """How many of the likeliest next states are true ones: mean share over states.

    After the start token and each state, the ``n_edges`` likeliest next states are compared with
    the true ones. Range: 0 to 1, higher is better; chance is ``n_edges / n_states``.

    Source: the paper's code, fsm_utils, "first_transition_accuracy".
    """
    likeliest = next_state_probabilities(model, fsm).topk(fsm.n_edges).indices
    return float(torch.from_numpy(fsm.transitions).gather(1, likeliest).gt(0).double().mean())


def code_purity(books: "Codebooks", fsm: FSM, *, after: str = "state") -> dict[str, float]:
    """Share of the codes that fire which fire after one state only, by hook point.

    Codes are those at the last token of the start token and a state; or, with ``after="pair"``, and
    a state and the next digit, of which there are as many as `FSM.state_digit_pairs`.

    Range: 0 to 1, higher is purer; nan where no code fires.
    Source: "Codebook Features", section 3.2. Differs: heads share their hook point's number.
    """
    if after not in ("state", "pair"):
        raise ParameterError(f"code_purity: after must be 'state' or 'pair'; got {after!r}.")
    ids = state_tokens(fsm, torch.arange(fsm.n_states))
    if after == "pair":
        pairs = torch.from_numpy(fsm.state_digit_pairs())
        ids = torch.cat([ids[pairs[:, 0]], pairs[:, 1:]], 1)
    shares = {}
    for name, chosen in books.codes(ids).items():
        book = books[name]
        latents = book.latents(chosen[:, -1]).flatten(1).cpu().numpy()
        shares[name] = purity(latents, np.arange(len(ids)), book.n_latents)[0]
    return shares


def interchange_table(
    books: "Codebooks", fsm: FSM, *, pairs: int | None = None, prefix: int = 0, seed: int = 0
) -> dict[str, float]:
    """How far a run stays from another after it took codes from it, by the codes taken.

    For pairs of states (a, b): the model reads a, takes b's codes at the last token, and its next
    token is compared with that after b. The mean Jensen-Shannon divergence is divided by that
    without codes taken. Keys are hook points, ``"all ROLE"`` of roles at several layers, and
    ``"all"``.

    Parameters
    ----------
    pairs : how many ordered pairs to draw; None for all.
    prefix : states of a random walk that lead to a.
    seed : of pairs and walks.

    Range: 0 up; 0 where the codes decide all, 1 where they decide nothing. Degenerate: nan where
    the model goes on alike after all states.
    Source: "Codebook Features", section 3.3 and figure 4.
    """
    n, rng = fsm.n_states, np.random.default_rng(seed)
    a, b = np.divmod(np.arange(n * n), n)
    a, b = a[a != b], b[a != b]
    if pairs is not None and pairs < len(a):
        chosen = rng.choice(len(a), pairs, replace=False)
        a, b = a[chosen], b[chosen]
    states = torch.from_numpy(_walks_to(fsm, a, prefix, rng))
    run = state_tokens(fsm, states)
    source = state_tokens(fsm, torch.from_numpy(b))
    roles: dict[str, list[str]] = {}
    for name in books.names:
        roles.setdefault(name.rpartition(".")[0], []).append(name)
    sets = {name: [name] for name in books.names}
    sets |= {f"all {role}": names for role, names in roles.items() if len(names) > 1}
    sets |= {"all": list(books.names)} if len(roles) > 1 else {}
    means = {}
    for key, names in {"none": [], **sets}.items():
        far = [
            interchange(books, run[i : i + BATCH], source[i : i + BATCH], names)
            for i in range(0, len(run), BATCH)
        ]
        means[key] = float(torch.cat(far).mean())
    none = means.pop("none")
    return {k: v / none if none > ROUNDING else float("nan") for k, v in means.items()}


def state_tokens(fsm: FSM, states: Int[Tensor, "n ..."]) -> Int[Tensor, "n t"]:
    """The start token and the digits of states [n], or of walks [n, m]."""
    digits = fsm.tokens(states).flatten(1)
    return torch.cat([torch.full((len(states), 1), fsm.bos), digits], 1)


def _walks_to(
    fsm: FSM, states: NDArray[np.int64], steps: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """[n, steps + 1] walks that end in states; to one that nothing leads to, from anywhere."""
    back, walk = fsm.reverse(), [states]
    back = np.where(back.sum(1, keepdims=True) > 0, back, 1 / fsm.n_states).cumsum(1)
    for _ in range(steps):
        walk.append((rng.random((len(states), 1)) > back[walk[-1]]).sum(1).clip(0, len(back) - 1))
    return np.stack(walk[::-1], 1)


def _entropies(rows: NDArray, base: int, digits: int) -> NDArray:
    """[digits, n] the sum of p log p of each digit given those before it."""
    by_prefix = [_plogp(_chances(rows, base, j)).sum(1) for j in range(digits + 1)]
    return np.diff(np.stack(by_prefix), axis=0)


def _likeliest(rows: NDArray, base: int, digits: int) -> NDArray:
    """[digits, n] the chance that the likeliest digit, given those before it, is right."""
    found = []
    for j in range(1, digits + 1):
        chances = _chances(rows, base, j)
        found.append(chances.reshape(len(rows), -1, base).max(2).sum(1))
    return np.stack(found)


def _chances(rows: NDArray, base: int, j: int) -> NDArray:
    """[n, base ** j] the chance of each first j digits."""
    return rows.reshape(len(rows), base**j, -1).sum(2)


def _plogp(p: NDArray) -> NDArray:
    return p * np.log(np.where(p > 0, p, 1))
