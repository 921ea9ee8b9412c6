"""What an MLP costs a token, and what sparse neurons save of it."""

from interp.errors import ParameterError

__all__ = ["mlp_flops", "spark_flops"]


def mlp_flops(
    d_model: int, d_ff: int, active: float | None = None, *, gated: bool = False
) -> float:
    """FLOPs of an MLP for one token, a multiplication and an addition being two.

    ``2 d_model d_ff`` for the first product (twice that where it is gated), and
    ``2 d_model active`` for the second one, in which inactive neurons are skipped. The first one
    is not saved: it is what tells which neurons are active.

    Parameters
    ----------
    active : neurons whose value is not 0, 0 to d_ff; None for all of them.

    Range: above 0, lower is cheaper.
    Degenerate: none.
    Source: Li et al., arXiv 2210.06313, section 2.
    """
    active = d_ff if active is None else active
    if d_model < 1 or d_ff < 1 or not 0 <= active <= d_ff:
        raise ParameterError(
            f"mlp_flops takes d_model and d_ff of at least 1 and active in [0, {d_ff}]; got "
            f"{d_model}, {d_ff} and {active}."
        )
    first = 2 * d_model * d_ff * (2 if gated else 1)
    return first + 2 * d_model * active


def spark_flops(d_model: int, d_ff: int, k: int, r: int) -> float:
    """FLOPs of a Spark MLP for one token: r dimensions predict which k neurons are active.

    ``2 r d_ff + 2 (d_model - r) k + 2 d_model k``; at r of half of d_model about
    ``d_model d_ff + 3 d_model k``.

    Range: above 0, lower is cheaper.
    Degenerate: none.
    Source: You et al., arXiv 2506.06644, section 3.
    """
    if not 1 <= r <= d_model or not 1 <= k <= d_ff:
        raise ParameterError(
            f"spark_flops takes r in [1, {d_model}] and k in [1, {d_ff}]; got {r} and {k}."
        )
    return 2 * r * d_ff + 2 * (d_model - r) * k + 2 * d_model * k
