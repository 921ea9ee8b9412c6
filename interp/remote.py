"""Models that run elsewhere: ``nnsight:ID`` on an NDIF server, with no more of it here than shapes.

The model here is a skeleton on the meta device. Its hook points resolve and hook as any module's;
when its forward is called, the token ids and the names of the hooked modules go to the server, and
what comes back is handed to the hooks. So `interp.capture`, `interp.record` and what builds on them
work as they do on a model that is here. Nothing is sent before the first forward.

What the server answers is read as plain tensors: a pickle that would run something is refused.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from interp.errors import ModelError, ParameterError, one_line
from interp.models import Model, quiet_transformers
from interp.pooling import Pool
from interp.remote_job import ask

__all__ = ["RemoteModel", "remote_model"]


def _silent(text: str) -> None:
    pass


class RemoteModel(Model):
    """A model that an NDIF server runs; made by ``load("nnsight:ID", remote=True)``.

    Attributes
    ----------
    envoy : nnsight's handle of it, without weights.
    key : what the server knows it by; asked of the hub at the first forward.
    tell : called with a line when a job's status changes.
    """

    remote = True
    tell: Callable[[str], None] = staticmethod(_silent)

    def __init__(self, envoy: Any, skeleton: nn.Module, spec: str, revision: str | None) -> None:
        super().__init__(skeleton, spec=spec, revision=revision, tokenizer=envoy.tokenizer)
        from nnsight import CONFIG

        self.envoy = envoy
        self.host: str = CONFIG.API.HOST.rstrip("/")
        self._seen: torch.dtype | None = None
        self._plan: tuple[Pool, Tensor] | None = None
        run = functools.partial(self._forward)
        skeleton.forward = functools.update_wrapper(run, skeleton.forward)  # keeps its signature

    @property
    def device(self) -> torch.device:
        """Where inputs are made and rows arrive."""
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        """What the server computes in, once it has answered; before, what the config says."""
        return self._seen or super().dtype

    @functools.cached_property
    def key(self) -> str:
        """What the server knows the model by."""
        try:
            return self.envoy.to_model_key()
        except Exception as error:
            raise ModelError(
                f"the hub does not say what {self.spec} is called there ({one_line(error)}); the "
                "server needs that name."
            ) from error

    @property
    def fingerprint(self) -> str:
        """The server and its name for the model: the weights cannot be seen from here."""
        return f"{self.host} {self.key}"

    def identity(self) -> dict[str, Any]:
        """What decides the model's numbers, and that they were made elsewhere."""
        return {**super().identity(), "remote": self.host}

    def reinitialised(self, seed: int = 0) -> NoReturn:
        """Refused: there are no weights here to draw anew."""
        self.local("random weights are drawn")

    def unembedding(self) -> NoReturn:
        """Refused: its weights are on the server."""
        self.local("the unembedding is read")

    def generate(self, prompt: str, max_new_tokens: int = 20, **kwargs: Any) -> NoReturn:
        """Refused: each token would be a request."""
        self.local("text is generated")

    def local(self, what: str) -> NoReturn:
        """Say that something is done on this machine only."""
        raise ModelError(
            f"{what} only on this machine, and {self.spec} runs on {self.host} (--remote), where "
            "its activations are read."
        )

    def pools(self, mask: Tensor, how: Pool) -> Tensor:
        """Let the next forward pool where it runs, so that a row travels in place of a text.

        Returns the mask of what arrives: one position a row.
        """
        if how == "all":
            return mask
        self._plan = how, mask
        return torch.ones(len(mask), 1, dtype=torch.bool)

    # -- a forward -------------------------------------------------------------------------------

    def _forward(self, *args: Any, **kwargs: Any) -> "_Elsewhere":
        plan, self._plan = self._plan, None
        inputs = dict(zip(("input_ids", "attention_mask"), args, strict=False)) | {
            k: v for k, v in kwargs.items() if isinstance(v, Tensor)
        }
        if set(inputs) - {"input_ids", "attention_mask"} or "input_ids" not in inputs:
            raise ModelError(
                f"{self.spec} runs on {self.host} (--remote), which reads token ids and their mask "
                f"here; got {', '.join(sorted(inputs)) or 'nothing'}."
            )
        inputs.setdefault("attention_mask", torch.ones_like(inputs["input_ids"]))
        parts = dict(self.module.named_modules())
        outs = [name for name, m in parts.items() if m._forward_hooks and name]
        ins = [name for name, m in parts.items() if m._forward_pre_hooks and name]
        if outs or ins:
            rows = ask(self, inputs, outs, ins, plan)
            floats = (x.dtype for v in rows.values() for x in v if x.is_floating_point())
            self._seen = self._seen or next(floats, None)
            for name in dict.fromkeys([*ins, *outs]):
                self._fire(name, parts[name], rows)
        return _Elsewhere(self)

    def _fire(self, name: str, part: nn.Module, rows: dict[str, list[Tensor]]) -> None:
        """Give each of a module's visits to its hooks."""
        came, left = rows.get(f"{name}:in"), rows.get(f"{name}:out")
        for i in range(len(came if came is not None else left or ())):
            x = None if came is None else came[i]
            y = x if left is None else left[i]
            seen: list[Any] = []
            with _returning(part, y, seen):
                after = part() if x is None else part(x)
            if after is not y or (x is not None and seen[0] is not x):
                self.local(f"{name} was changed by a hook; activations are changed")


class _Elsewhere:
    """In place of a forward's output, which stays where it was computed."""

    def __init__(self, model: RemoteModel) -> None:
        self._model = model

    def __getattr__(self, name: str) -> NoReturn:
        if name.startswith("__"):
            raise AttributeError(name)
        self._model.local(f"the forward's own output (.{name}) is kept; hook points hold what it "
                          "was made of. It is read")  # fmt: skip

    __getitem__ = __getattr__


@contextmanager
def _returning(part: nn.Module, y: Any, seen: list[Any]) -> Iterator[None]:
    """A module whose forward notes its first input and gives y."""
    own = part.__dict__.get("forward")

    def forward(*args: Any) -> Any:
        seen.append(args[0] if args else None)
        return y

    part.forward = forward
    try:
        yield
    finally:
        del part.forward
        if own is not None:
            part.forward = own


def remote_model(name: str, spec: str, dtype: Any, revision: str | None, trust: bool) -> Model:
    """The skeleton of ``nnsight:NAME``: its config and tokenizer are fetched, no weights.

    Raises
    ------
    ParameterError
        There is no key, or the name is of something on this machine.
    ModelError
        The hub does not give the config, or the model is none that reads a text once.
    """
    from pathlib import Path

    from nnsight import CONFIG

    from interp.loading import explain

    if name.startswith("demo:") or Path(name).expanduser().exists():
        raise ParameterError(f"{spec} is on this machine; --remote takes the id of a hub model.")
    if dtype is not None:
        raise ParameterError(f"{spec} runs in the server's dtype; leave --dtype out.")
    if not CONFIG.API.APIKEY and CONFIG.API.HOST == type(CONFIG.API).model_fields["HOST"].default:
        raise ParameterError(
            f"--remote needs a key of {CONFIG.API.HOST} in NDIF_API_KEY, or another server in "
            "NDIF_HOST."
        )
    with quiet_transformers():
        try:
            envoy, skeleton = _skeleton(name, revision, trust)
        except Exception as error:
            raise explain(name, False, error) from error
    if getattr(skeleton.config, "is_encoder_decoder", False) or hasattr(skeleton, "vision_model"):
        raise ModelError(f"{spec} is no model of one text; --remote takes decoders and encoders.")
    return RemoteModel(envoy, skeleton, spec, revision)


def _skeleton(name: str, revision: str | None, trust: bool) -> tuple[Any, Any]:
    """What nnsight knows a model by, and its modules, both without weights."""
    import transformers
    from nnsight import TransformersModel

    from interp.loading import task_of

    options: dict[str, Any] = {} if revision is None else {"revision": revision}
    options["trust_remote_code"] = trust  # where it is not said, transformers asks at the terminal
    tokenizer = transformers.AutoTokenizer.from_pretrained(name, **options)
    task = task_of(name, options)  # named, for nnsight would ask the hub
    envoy: Any = TransformersModel(name, task=task, tokenizer=tokenizer, **options)
    known: Any = envoy._module
    with torch.device("meta"):
        return envoy, type(known)(known.config).to(known.dtype).eval()
