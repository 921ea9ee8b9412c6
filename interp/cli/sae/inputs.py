"""What the commands on a saved SAE share: where it reads, what identifies it, lists of numbers."""

import hashlib
from typing import TYPE_CHECKING

from interp.errors import ParameterError

if TYPE_CHECKING:
    from saes import SAE

__all__ = ["site", "weights_hash", "whole_numbers"]


def whole_numbers(text: str, option: str) -> list[int]:
    """A comma list of whole numbers."""
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(f"{option} takes whole numbers such as 3,17; got {text!r}.") from None


def site(sae: "SAE") -> str:
    """The hook point that a saved SAE says it was trained on."""
    found = sae.metadata.get("hookpoint") or sae.metadata.get("site")
    if not isinstance(found, str):
        raise ParameterError("the SAE does not say where it reads; give --hookpoint.")
    return found


def weights_hash(sae: "SAE") -> str:
    """A hash of the config and all weights, 16 hex digits."""
    digest = hashlib.sha256(f"{sae.architecture} {sae.config.to_dict()}".encode())
    for name, tensor in sorted(sae.state_dict().items()):
        digest.update(name.encode() + tensor.cpu().double().numpy().tobytes())
    return digest.hexdigest()[:16]
