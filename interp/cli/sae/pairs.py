"""What the commands on a VL-SAE share: pairs captured into a store, and where the SAE reads."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from interp.cli.shell import bar, say_notes
from interp.errors import ParameterError

if TYPE_CHECKING:
    from interp.pair_capture import PairCapture
    from interp.store import ActivationStore

__all__ = ["pair_sites", "pairs_work", "stored"]


def pairs_work(
    model: Any,
    data: Any,
    hookpoints: Sequence[str],
    *,
    text_model: str | None,
    loading: dict[str, Any],
    pool: str = "mean",
    **options: Any,
) -> "PairCapture":
    """A capture of pairs, checked and planned; ``pool`` is one, or the image's and the text's."""
    import interp
    from interp.pair_capture import PairCapture

    reads_text = None if text_model is None else interp.load(text_model, **loading)
    pools = pool.split(",") if "," in pool else pool
    work = PairCapture(
        model, data, list(hookpoints) or None, text_model=reads_text, pool=pools, **options
    )
    say_notes(work.data)
    return work


def stored(work: "PairCapture", path: Path, *, resume: bool, force: bool) -> "ActivationStore":
    """The store of a capture, written into a folder."""
    with bar(f"capturing the pairs of {work.data.name}") as progress:
        return work.on_disk(path, resume=resume, force=force, progress=progress)


def pair_sites(sae: Any, hookpoints: Sequence[str]) -> list[str]:
    """Where a saved VL-SAE reads, if not somewhere else; a decoder's two sides are one place."""
    if sae.architecture != "vl":
        raise ParameterError(
            f"concepts of pairs are those of a VL-SAE, and this SAE is a {sae.architecture}; "
            "`interp sae features` reads it."
        )
    if hookpoints:
        return list(hookpoints)
    points = sae.metadata.get("hookpoints") or {}
    places = [str(points[s]) for s in ("image", "text") if s in points]
    if len(places) != 2:
        raise ParameterError(
            "the SAE does not say where it reads; give --hookpoint, the image's and the text's."
        )
    ends = [p.rpartition("@") for p in places]
    same = ends[0][1] and ends[0][0] == ends[1][0]
    return [ends[0][0]] if same and len(ends[0][0]) else places
