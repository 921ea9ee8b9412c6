"""A model of TokFSM judged: against the Bayes floor, by its states, and by what its codes do."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from interp.hookpoints import HookPoint
from interp.hooks import evaluating, hooked
from interp.results import Result
from interp.runs import versions
from saes.codebook.control import patched, wilson
from saes.codebook.model import Codebooks
from saes.codebook.patterns import best_neuron, code_scores
from saes.codebook.tokfsm import (
    FSM,
    LENGTH,
    SAMPLES,
    code_purity,
    first_transition_overlap,
    interchange_table,
    state_accuracy,
    state_tokens,
)
from saes.rows import seeded

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TokFSMScores", "evaluate_tokfsm", "force_states", "state_codes"]

HELD_OUT = "held out"
"""Name of the walks that models are judged on; no training draws them."""


@dataclass(frozen=True, kw_only=True)
class TokFSMScores(Result):
    """How well a model knows a finite-state machine, and what its codes have to do with it.

    Attributes
    ----------
    n : tokens that the loss is a mean of.
    loss : nats a token on walks that training did not see; ``floor`` is the least possible.
    accuracy : share of next tokens told right; ``best_accuracy`` is the most possible.
    state_accuracy : share of the model's own steps that follow an edge, 0 to 1; chance is
        ``state_chance``.
    state_interval : its 95 % Wilson interval, each step counted as one trial.
    first_accuracy : the same of first steps alone.
    overlap : share of true states among the likeliest next ones after a state, 0 to 1.
    purity, pair_purity : hook point -> share of firing codes that fire after one state (one state
        and digit).
    interchange : codes taken -> JSD to the run that they come from, over that without.
    states : means over states of the best code's and the best neuron's precision and recall, on
        walks that did not choose them; empty without codebooks.
    forced : conditions of `force_states` -> (steps to a next state of the state whose codes were
        put in, trials).
    """

    kind: ClassVar[str] = "tokfsm"

    loss: float
    floor: float
    accuracy: float
    best_accuracy: float
    state_accuracy: float
    state_interval: tuple[float, float]
    state_chance: float
    first_accuracy: float
    overlap: float
    purity: dict[str, float] = field(default_factory=dict)
    pair_purity: dict[str, float] = field(default_factory=dict)
    interchange: dict[str, float] = field(default_factory=dict)
    states: dict[str, float] = field(default_factory=dict)
    forced: dict[str, tuple[int, int]] = field(default_factory=dict)

    def to_frame(self) -> "pd.DataFrame":
        """One row a measure, with an interval where there is one."""
        import pandas as pd

        rows: list[tuple[str, float, float, float]] = []
        none = (math.nan, math.nan)
        for name in ("loss", "floor", "accuracy", "best_accuracy", "state_accuracy",
                     "first_accuracy", "overlap"):  # fmt: skip
            ends = self.state_interval if name == "state_accuracy" else none
            rows.append((name.replace("_", " "), getattr(self, name), *ends))
        for table in ("purity", "pair_purity", "interchange", "states"):
            words = table.replace("_", " ")
            rows += [(f"{words}, {k}", v, *none) for k, v in getattr(self, table).items()]
        for name, (hits, n) in self.forced.items():
            share = hits / n if n else math.nan
            rows.append((f"forced, {name}", share, *wilson(hits, n)))
        return pd.DataFrame(rows, columns=["measure", "value", "low", "high"])

    def metrics(self) -> dict[str, Any]:
        """Numbers and names for ``metrics.json``."""
        names = ("n", "loss", "floor", "accuracy", "best_accuracy", "state_accuracy",
                 "state_interval", "state_chance", "first_accuracy", "overlap", "purity",
                 "pair_purity", "interchange", "states", "forced", "reasons")  # fmt: skip
        return {name: getattr(self, name) for name in names}


def evaluate_tokfsm(
    books: Codebooks,
    fsm: FSM,
    *,
    sequences: int = 256,
    samples: int = SAMPLES,
    length: int = LENGTH,
    pairs: int | None = 1000,
    prefix: int = 0,
    seed: int = 0,
    name: str = "tokfsm",
    provenance: Mapping[str, Any] | None = None,
) -> TokFSMScores:
    """Judge a model of a finite-state machine; with codebooks also what they stand for.

    Parameters
    ----------
    books : the codebooks in their model; none of them for the model alone.
    sequences : that loss and state codes are measured on.
    samples : that the model speaks, for state accuracy.
    length : tokens of each, of both.
    pairs : of states, for interchange and forcing; None for all.
    prefix : states before each, for interchange.
    seed : of all draws.
    """
    books.check_enabled()
    module = books.model.module
    held_out = fsm.sequences(sequences, length, generator=seeded(seed, HELD_OUT))
    with evaluating(module), evaluating(books):
        sums = np.zeros(3)
        with torch.no_grad():
            for ids in held_out.split(32):
                loss = books.loss(ids.to(books.model.device))
                sums += (float(loss.language) * loss.tokens, int(loss.right), loss.tokens)
        right, first = state_accuracy(books.model, fsm, n=samples, length=length, seed=seed)
        steps = samples * max(1, (length - 1) // fsm.digits - 1)
        found: dict[str, Any] = {}
        if len(books):
            found = {
                "purity": code_purity(books, fsm),
                "pair_purity": code_purity(books, fsm, after="pair"),
                "interchange": interchange_table(books, fsm, pairs=pairs, prefix=prefix, seed=seed),
                "states": state_codes(books, fsm, held_out),
                "forced": force_states(books, fsm, n=pairs or fsm.n_states**2, seed=seed),
            }
        overlap = first_transition_overlap(books.model, fsm)
    return TokFSMScores(
        name=name,
        n=int(sums[2]),
        provenance={**(provenance or {}), "seed": seed, "versions": versions()},
        loss=sums[0] / sums[2],
        floor=fsm.bayes_loss(length),
        accuracy=sums[1] / sums[2],
        best_accuracy=fsm.bayes_accuracy(length),
        state_accuracy=right,
        state_interval=(right, right) if math.isnan(right) else wilson(round(right * steps), steps),
        state_chance=fsm.n_edges / fsm.n_states,
        first_accuracy=first,
        overlap=overlap,
        **found,
    )


def state_codes(books: Codebooks, fsm: FSM, tokens: Tensor) -> dict[str, float]:
    """How well the best code tells each state, beside the best neuron; means over states.

    A state's tokens are those of its last digit. Its code is the one of greatest F1 on the first
    half of the sequences, and its neuron, of all of the attention's and the MLP's outputs, the most
    precise one there at that code's recall; both are scored on the other half. States that the
    first half lacks are left out.

    Returns
    -------
    dict
        ``code precision``, ``code recall``, ``neuron precision``, ``neuron recall``, 0 to 1, and
        ``states``, how many. Degenerate: nan where no code fires on any state.

    Source: "Codebook Features", figure 6a. Differs: they score on the data that chooses.
    """
    latents, acts = _read(books, tokens)
    half = len(tokens) // 2
    classes = _classes(fsm, tokens)
    cut = half * tokens.shape[1]
    first, second = slice(None, cut), slice(cut, None)
    codes, neurons = [], []
    for state in range(fsm.n_states):
        on = classes == state
        if not on[first].any() or not on[second].any():
            continue
        best = _best_code(books, latents, on, first)
        if best is None:
            continue
        name, code, recall = best
        fires = (latents[name][second] == code).any(1)
        codes.append(_scores(fires, on[second]))
        neuron = best_neuron(acts[first], on[first], recall)
        if neuron is not None:
            fires = acts[second, neuron.unit] >= neuron.threshold
            neurons.append(_scores(fires, on[second]))
    means = [np.nanmean(np.array(t), 0) if t else (math.nan, math.nan) for t in (codes, neurons)]
    return {
        "code precision": float(means[0][0]),
        "code recall": float(means[0][1]),
        "neuron precision": float(means[1][0]),
        "neuron recall": float(means[1][1]),
        "states": len(codes),
    }


def force_states(
    books: Codebooks, fsm: FSM, *, n: int = 1000, seed: int = 0
) -> dict[str, tuple[int, int]]:
    """Do the codes of a state make the model go on from that state?

    The model reads a state a and says the next one, drawn at temperature 1, while at a's last digit
    all codebooks choose what they choose after another state b. A success is a step to a next state
    of b. The model reads a's digits themselves too, and can make a's state anew at the next one: so
    ``"codes of all digits"`` also takes, at each digit that it says, the codes after b and that
    digit. ``"clean"`` is without; ``"random codes"``, and those ``"of all digits"``, are of random
    states, a state of its own for each group.

    Returns
    -------
    dict
        condition -> (successes, trials).
    """
    generator = seeded(seed, "force")
    a = torch.randint(fsm.n_states, (n,), generator=generator)
    b = (a + torch.randint(1, fsm.n_states, (n,), generator=generator)) % fsm.n_states
    others = torch.randint(fsm.n_states, (n,), generator=generator)
    orders = {
        name: [torch.randperm(n, generator=generator) for _ in range(books[name].config.groups)]
        for name in books.names
    }
    run = state_tokens(fsm, a)
    found = {}
    for condition, source, shuffled, every in (
        ("codes", b, {}, False),
        ("codes of all digits", b, {}, True),
        ("clean", None, {}, False),
        ("random codes", others, orders, False),
        ("random codes of all digits", others, orders, True),
    ):
        taken = None if source is None else state_tokens(fsm, source)
        said = _continue(
            books, run, taken, shuffled, fsm.digits, seeded(seed, "said", condition), every=every
        )
        hits = 0
        for state, digits in zip(b.tolist(), said.tolist(), strict=True):
            spelt = fsm.states(digits)
            hits += bool(spelt and spelt[0] < fsm.n_states and fsm.transitions[state, spelt[0]] > 0)
        found[condition] = (int(hits), n)
    return found


def _continue(
    books: Codebooks,
    run: Tensor,
    source: Tensor | None,
    orders: Mapping[str, Sequence[Tensor]],
    tokens: int,
    generator: torch.Generator,
    *,
    every: bool,
) -> Tensor:
    """New tokens [n, tokens] of a run, under the codes of a source that says the same ones.

    Codes are taken at the run's last token, with ``every`` also at those that are new; ``orders``
    exchanges rows within each group of a codebook. Each forward reads the whole, so that positions
    stay.
    """
    device, at = books.model.device, run.shape[1] - 1
    said = run[:, :0]
    with evaluating(books.model.module), torch.no_grad():
        for _ in range(tokens):
            ids: dict[str, Tensor] = {}
            if source is not None:
                ids = books.codes(torch.cat([source, said], 1).to(device))
            for name, order in orders.items():
                rows = [ids[name][rows.to(device), :, g] for g, rows in enumerate(order)]
                ids[name] = torch.stack(rows, 2)
            last = at + said.shape[1] if every else at
            with patched(books, ids, range(at, last + 1)):
                inputs = torch.cat([run, said], 1).to(device)
                logits = books.model({"input_ids": inputs}).logits[:, -1].float().cpu()
            new = torch.multinomial(logits.softmax(-1), 1, generator=generator)
            said = torch.cat([said, new], 1)
    return said


def _read(books: Codebooks, tokens: Tensor) -> tuple[dict[str, NDArray], NDArray]:
    """Codes [rows, groups k] by hook point, and neurons [rows, units], of every token."""
    model = books.model
    points = model.resolve(["attn_out.*", "mlp_out.*"])
    latents: dict[str, list[NDArray]] = {n: [] for n in books.names}
    acts: list[NDArray] = []
    held: dict[str, Tensor] = {}

    def keep(point: HookPoint, x: Tensor) -> None:
        held[point.name] = x

    for ids in tokens.split(32):
        with hooked(model.module, points, keep, first=True), books.watching() as seen:
            with evaluating(model.module), torch.no_grad():
                model({"input_ids": ids.to(model.device)})
        for name, snap in seen.items():
            latents[name].append(books[name].latents(snap.ids).flatten(1).cpu().numpy())
        rows = [held[p.name].flatten(0, 1).float().cpu() for p in points]
        acts.append(torch.cat(rows, 1).numpy())
    return {n: np.concatenate(v) for n, v in latents.items()}, np.concatenate(acts)


def _classes(fsm: FSM, tokens: Tensor) -> NDArray[np.int64]:
    """The state whose last digit each token is; -1 at others."""
    classes = torch.full(tokens.shape, -1)
    place = fsm.base ** torch.arange(fsm.digits - 1, -1, -1)
    ends = range(fsm.digits, tokens.shape[1], fsm.digits)
    for end in ends:
        classes[:, end] = (tokens[:, end - fsm.digits + 1 : end + 1] * place).sum(1)
    return classes.flatten().numpy()


def _best_code(
    books: Codebooks, latents: dict[str, NDArray], on: NDArray, where: slice
) -> tuple[str, int, float] | None:
    """Hook point, code and recall of the greatest F1."""
    best, chosen = 0.0, None
    for name, table in latents.items():
        found = code_scores(table[where], on[where], books[name].n_latents)
        f1 = 2 * found.precision * found.recall / (found.precision + found.recall)
        if len(f1) and f1.max() > best:
            i = int(f1.argmax())
            best, chosen = float(f1[i]), (name, int(found.codes[i]), float(found.recall[i]))
    return chosen


def _scores(fires: NDArray, on: NDArray) -> tuple[float, float]:
    """Precision (nan where it never fires) and recall."""
    hits = int((fires & on).sum())
    return (hits / int(fires.sum()) if fires.any() else math.nan), hits / int(on.sum())
