"""``interp sae steer``: what a model says while a latent's direction is added."""

from typing import Annotated

import typer

from interp.cli import options as o
from interp.cli.sae.inputs import site
from interp.cli.shell import emit
from interp.errors import ParameterError


def run(
    sae: Annotated[str, typer.Argument(metavar="SAE", help="Folder or hub id of a saved SAE.")],
    model: o.Model,
    latent: Annotated[int, typer.Option(help="Whose decoder row is added.")],
    prompt: Annotated[str, typer.Option(help="What the model goes on from.")],
    alpha: Annotated[
        float, typer.Option(help="How many times the decoder row; negative steers away.")
    ] = 4.0,
    hookpoint: Annotated[
        str | None,
        typer.Option("--hookpoint", "-p", help="Where to add; else what it was trained on."),
    ] = None,
    tokens: Annotated[int, typer.Option(help="New tokens.")] = 20,
    device: o.Device = "auto",
    dtype: o.Dtype = None,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Continue a prompt greedily, without and with a latent's direction at every position."""
    if tokens < 1:
        raise ParameterError(f"--tokens must be at least 1; got {tokens}.")
    import interp
    import saes

    coder = saes.SAE.from_pretrained(sae)
    place = hookpoint or site(coder)
    if not 0 <= latent < coder.n_latents:
        raise ParameterError(f"--latent must be 0 to {coder.n_latents - 1}; got {latent}.")
    if len(coder.out_shape) > 1:
        raise ParameterError("a crosscoder writes to several hook points; steer takes one.")
    loaded = interp.load(model, device, dtype, revision, trust_remote_code=trust_remote_code)
    before = loaded.generate(prompt, tokens)
    with interp.steer(loaded, place, coder.W_dec[latent].detach(), alpha):
        after = loaded.generate(prompt, tokens)
    if as_json:
        emit(
            {
                "latent": latent,
                "alpha": alpha,
                "hookpoint": place,
                "prompt": prompt,
                "before": before,
                "after": after,
            }
        )
        return
    typer.echo(f"without:\n{before}\n\nlatent {latent} x {alpha:g} at {place}:\n{after}")
