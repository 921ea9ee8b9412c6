"""Control: put codes in, keep codes out, take those of another run, and measure what changes."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ParameterError, ShapeError
from interp.hooks import evaluating
from saes.codebook.model import Codebooks

__all__ = ["blocked", "forced", "interchange", "jensen_shannon", "patched", "wilson"]

Code = tuple[str, int]


@contextmanager
def forced(
    books: Codebooks,
    codes: Sequence[Code],
    *,
    positions: Sequence[int] | None = None,
    every_slot: bool = False,
) -> Iterator[None]:
    """Choose given codes inside, whatever the model holds; generation included.

    A code takes the slot of the least similar choice; several codes of one group take the last
    slots from behind, in the order given.

    Parameters
    ----------
    codes : (hook point, latent) pairs; latents are numbered through the groups.
    positions : where, in each sequence that a forward reads; None for everywhere. Where a
        generation keeps its past, a forward reads the newest token alone: then leave it out.
    every_slot : let a code take all k slots; then one code a group is allowed.

    Raises
    ------
    ParameterError
        There is no such hook point or latent, or more codes of a group than slots.
    ShapeError
        A forward has fewer positions than are asked for.
    """
    placed: dict[str, list[tuple[int, int, int | slice]]] = {}
    taken: dict[tuple[str, int], int] = {}
    for name, latent in codes:
        config = books[name].config
        if not 0 <= latent < config.n_latents:
            raise ParameterError(f"codes of {name} are 0 to {config.n_latents - 1}; got {latent}.")
        group, code = divmod(latent, config.n_codes)
        taken[name, group] = slot = taken.get((name, group), 0) + 1
        if slot > (1 if every_slot else config.k):
            raise ParameterError(
                f"group {group} of {name} has room for {1 if every_slot else config.k} forced "
                "codes; more were given."
            )
        place = slice(None) if every_slot else -slot
        placed.setdefault(name, []).append((group, code, place))

    def edit_of(name: str) -> Callable[[Tensor], Tensor]:
        def edit(ids: Tensor) -> Tensor:
            _check_positions(name, positions, ids)
            ids = ids.clone()
            for group, code, slot in placed[name]:
                for at in [slice(None)] if positions is None else positions:
                    ids[:, at, group, slot] = code
            return ids

        return edit

    with ExitStack() as stack:
        for name in placed:
            stack.enter_context(books.editing(name, edit_of(name)))
        yield


@contextmanager
def blocked(books: Codebooks, codes: Sequence[Code], *, refill: bool = True) -> Iterator[None]:
    """Never choose given codes inside.

    Parameters
    ----------
    codes : (hook point, latent) pairs.
    refill : the next nearest code takes the slot; else it stays empty.

    Raises
    ------
    ParameterError
        There is no such hook point or latent, or too few codes would be left for k.
    """
    by_name: dict[str, list[int]] = {}
    for name, latent in codes:
        config = books[name].config
        if not 0 <= latent < config.n_latents:
            raise ParameterError(f"codes of {name} are 0 to {config.n_latents - 1}; got {latent}.")
        by_name.setdefault(name, []).append(latent)
    with ExitStack() as stack:
        for name, latents in by_name.items():
            config = books[name].config
            groups = torch.tensor(sorted(set(latents))) // config.n_codes
            if refill and config.n_codes - int(groups.bincount().max()) < config.k:
                raise ParameterError(
                    f"{name} would have fewer than k={config.k} codes left; block fewer, or leave "
                    "the slots empty with refill=False."
                )
            out = torch.tensor(latents, device=books[name].codes.device)
            stack.enter_context(books.editing(name, blocked=out, refill=refill))
        yield


@contextmanager
def patched(
    books: Codebooks,
    ids: Mapping[str, Int[Tensor, "b t groups k"]],
    positions: Sequence[int] | None = None,
) -> Iterator[None]:
    """Choose the codes of another run inside.

    Parameters
    ----------
    ids : hook point -> what `Codebooks.codes` gave.
    positions : where; position p here takes what the other run had at p, counted from the end
        where p is negative. None for everywhere.

    Raises
    ------
    ShapeError
        A forward has other shapes than the ids, or fewer positions than are asked for.
    """

    def edit_of(name: str) -> Callable[[Tensor], Tensor]:
        def edit(own: Tensor) -> Tensor:
            given = ids[name].to(own.device)
            same = own.shape == given.shape
            if own.shape[:1] + own.shape[2:] != given.shape[:1] + given.shape[2:] or (
                positions is None and not same
            ):
                raise ShapeError(
                    f"{name} chooses {list(own.shape)} here; the codes for it are "
                    f"{list(given.shape)}."
                )
            if positions is None:
                return given
            _check_positions(name, positions, own)
            own = own.clone()
            own[:, list(positions)] = given[:, list(positions)]
            return own

        return edit

    with ExitStack() as stack:
        for name in ids:
            stack.enter_context(books.editing(name, edit_of(name)))
        yield


def _check_positions(name: str, positions: Sequence[int] | None, ids: Tensor) -> None:
    count = ids.shape[1]
    wrong = [p for p in positions or () if not -count <= p < count]
    if wrong:
        raise ShapeError(
            f"{name} is read at {count} positions, of which {wrong[0]} is none; where a generation "
            "keeps its past, leave positions out."
        )


def jensen_shannon(p: Float[Tensor, "... v"], q: Float[Tensor, "... v"]) -> Float[Tensor, "..."]:
    """Jensen-Shannon divergence of two distributions given as logits, in nats; float64.

    ``(KL(p || m) + KL(q || m)) / 2`` with m their mean. Range: 0 to ln 2 = 0.693147, 0 where they
    are equal.

    Raises
    ------
    ShapeError
        The shapes differ.
    """
    if p.shape != q.shape:
        raise ShapeError(
            f"jensen_shannon: logits must have one shape; got {list(p.shape)} and {list(q.shape)}."
        )
    a, b = p.double().log_softmax(-1), q.double().log_softmax(-1)
    m = torch.logaddexp(a, b) - math.log(2)
    kl = [(x.exp() * (x - m)).where(x > -torch.inf, 0).sum(-1) for x in (a, b)]
    return ((kl[0] + kl[1]) / 2).clamp_min(0)


@torch.no_grad()
def interchange(
    books: Codebooks,
    run: Int[Tensor, "b t"],
    source: Int[Tensor, "b t"],
    names: Sequence[str],
    *,
    position: int = -1,
) -> Float[Tensor, " b"]:
    """How far a run is from another after it took codes from it: JSD of what follows, in nats [b].

    Parameters
    ----------
    run, source : token ids; row i of one takes the codes of row i of the other.
    names : hook points whose codes are taken; none for the distance as it is.
    position : at which codes are taken and the next token is read. It is the same in both, counted
        from the end where negative.

    Raises
    ------
    ParameterError
        There is no codebook of a name, or the codebooks are disabled.

    Source: the paper, section 3.3.
    """
    for name in names:
        books[name]  # refuses a name that is not there
    with evaluating(books.model.module), books.watching():
        theirs = books.model({"input_ids": source}).logits[:, position]
        ids = {n: i for n, i in books.codes(source).items() if n in names}
        if names and run.shape != source.shape:
            last = {n: i[:, position][:, None] for n, i in ids.items()}
            ids = {n: i.expand(-1, run.shape[1], -1, -1) for n, i in last.items()}
        with patched(books, ids, [position]):
            ours = books.model({"input_ids": run}).logits[:, position]
    return jensen_shannon(ours, theirs)


def wilson(successes: int, n: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share, (low, high).

    Range: 0 to 1. Degenerate: nan for n = 0.

    Raises
    ------
    ParameterError
        There are more successes than trials, or the level is not between 0 and 1.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if not 0 <= successes <= max(n, 0) or not 0 < level < 1:
        raise ParameterError(
            "wilson needs successes from 0 to n and a level between 0 and 1; got "
            f"{successes} of {n} at {level:g}."
        )
    if n == 0:
        return math.nan, math.nan
    z = NormalDist().inv_cdf((1 + level) / 2)
    p = successes / n
    centre = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
