"""Where codes begin, and where dead ones begin anew: k-means and replacement by rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from interp.errors import ParameterError
from interp.hooks import evaluating, hooked
from saes.codebook.layer import Codebook, CodebookConfig
from saes.rows import seeded

if TYPE_CHECKING:
    from interp.hookpoints import HookPoint
    from saes.codebook.data import TokenBatches
    from saes.codebook.model import Codebooks

__all__ = ["initialise_codes", "k_at", "kmeans", "replace_dead"]

ROUNDS = 10
"""Iterations of k-means."""
PER_CODE = 4
"""Rows that k-means sees, a code."""


def k_at(step: int, k: int, *, k_start: int, k_steps: int, power: float = 1.0) -> int:
    """The k of a step, falling from ``k_start`` at step 0 to k at step ``k_steps - 1``.

    ``int(k_start - (k_start - k) * min(1, (step / (k_steps - 1)) ** (1 / power)))``: a power above
    1 falls fast at first.

    Raises
    ------
    ParameterError
        ``k_start`` is below k, ``k_steps`` below 2, or the power not above 0.

    Source: the paper's code, "MulticodeKScheduler". Differs: there the forward does not read it.
    """
    if k_start < k or k_steps < 2 or power <= 0:
        raise ParameterError(
            "a k schedule needs k_start of at least k, k_steps of at least 2 and a power above 0; "
            f"got {k_start}, {k_steps} and {power:g}."
        )
    share = min(1.0, (step / (k_steps - 1)) ** (1 / power))
    return int(k_start - (k_start - k) * share)


def kmeans(
    rows: Float[Tensor, "n d"], count: int, *, generator: torch.Generator, rounds: int = ROUNDS
) -> Float[Tensor, "count d"]:
    """Centres [count, d] of rows, by Lloyd's iterations from distinct random rows.

    A centre that no row is nearest to keeps its place. Where there are fewer rows than centres,
    rows repeat, moved by a hundredth of their spread.
    """
    order = torch.randperm(len(rows), generator=generator).to(rows.device)
    chosen = order.repeat(-(-count // len(rows)))[:count]
    centres = rows[chosen].clone()
    if count > len(rows):
        noise = torch.randn(count - len(rows), rows.shape[1], generator=generator).to(rows)
        centres[len(rows) :] += 0.01 * rows.std() * noise
        return centres
    config = CodebookConfig(n_codes=count, k=1, similarity="euclidean", layer_norm=False)
    book = Codebook(config, rows.shape[1], generator=generator).to(rows.device, rows.dtype)
    for _ in range(rounds):
        book.codes.data = centres
        nearest = book.nearest(rows)[0].flatten()
        sizes = torch.bincount(nearest, minlength=count).to(rows.dtype)
        sums = torch.zeros_like(centres).index_add_(0, nearest, rows)
        centres = torch.where(sizes[:, None] > 0, sums / sizes[:, None].clamp_min(1), centres)
    return centres


def initialise_codes(
    books: "Codebooks", batches: "TokenBatches", *, seed: int = 0, rows: int | None = None
) -> None:
    """Set all codes to k-means centres of what the model holds without codebooks, in place.

    The scale of a layer norm becomes the mean spread of what it norms, a number a group, so that
    codes are as large as what they stand for, and the model's loss suffers less at first. With a
    sum of k codes the centres are divided by k.

    Parameters
    ----------
    batches : of the training; its first ones are run until there are enough rows.
    rows : how many; None for four a code of the largest codebook.

    Source: the paper's code, without the scale, which it leaves at 1.
    """
    most = max((b.config.n_codes for b in _all(books)), default=0)
    wanted = rows or PER_CODE * most
    held: dict[str, list[Tensor]] = {n: [] for n in books.names}
    take: list[Tensor] = []

    def look(point: "HookPoint", x: Tensor) -> None:
        book = books[point.name]
        held[point.name].append(x.reshape(-1, book.d_in)[take[0]].to(book.codes))

    count, step, module = 0, 0, books.model.module
    with books.disabled(), evaluating(module), torch.no_grad():
        with hooked(module, books.points, look):
            while count < wanted and (step == 0 or step < batches.steps_per_epoch):
                ids, mask = batches(step)
                take[:] = [mask.flatten().bool().to(books.model.device)]
                inputs = books.model.text_inputs({"input_ids": ids, "attention_mask": mask})
                books.model(inputs)
                count, step = count + int(mask.sum()), step + 1
        for name in books.names:
            book, generator = books[name], seeded(seed, "kmeans", name)
            config, x = book.config, torch.cat(held[name])
            _set_scale(book, x)
            chunks = book.normed(x).unflatten(1, (config.groups, -1)).transpose(0, 1)
            centres = [kmeans(c, config.n_codes, generator=generator) for c in chunks]
            scale = config.k if config.reduce == "sum" else 1
            book.codes.copy_(torch.cat(centres) / scale)


def _set_scale(book: Codebook, rows: Tensor) -> None:
    """Let a layer norm give back the spread that rows have, group by group."""
    if book.norm_weight is None:
        return
    chunks = rows.unflatten(1, (book.config.groups, -1)).double()
    spread = chunks.std(2, correction=0).mean(0)
    spread = torch.where(spread > 0, spread, 1).repeat_interleave(chunks.shape[2])
    book.norm_weight.copy_(spread)


def _all(books: "Codebooks") -> Sequence[Codebook]:
    return [books[n] for n in books.names]


@torch.no_grad()
def replace_dead(
    book: Codebook,
    dead: Int[Tensor, " m"],
    target: Float[Tensor, "n d"],
    error: Float[Tensor, "n groups"],
    *,
    generator: torch.Generator,
    noise: float = 0.0,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Set dead codes to rows that are explained badly, in place.

    Each draws a row, within its group, with a chance in proportion to the row's squared error. With
    a sum of k codes the row is divided by k.

    Parameters
    ----------
    dead : latents to replace.
    target : [n, d_in] normed rows, as `Snap.normed`.
    error : [n, groups] their squared errors, a chunk each.
    noise : length of what is added to a row, as a share of the row's own.
    optimizer : Adam over the codes; it forgets those that change.

    Source: the paper's code draws rows uniformly and leaves Adam's moments.
    Degenerate: a group without error replaces nothing.
    """
    config = book.config
    chunks = target.unflatten(1, (config.groups, -1))
    for group in range(config.groups):
        mine = dead[dead // config.n_codes == group]
        weight = error[:, group].double().cpu()
        if not len(mine) or not (weight > 0).any():
            continue
        drawn = torch.multinomial(weight, len(mine), replacement=True, generator=generator)
        rows = chunks[drawn.to(chunks.device), group]
        if noise:
            turn = torch.randn(rows.shape, generator=generator).to(rows)
            turn /= turn.norm(dim=1, keepdim=True)
            rows = rows + noise * rows.norm(dim=1, keepdim=True) * turn
        scale = config.k if config.reduce == "sum" else 1
        book.codes[mine] = (rows / scale).to(book.codes)
        for name, held in ({} if optimizer is None else optimizer.state[book.codes]).items():
            if name != "step":
                held[mine] = 0
