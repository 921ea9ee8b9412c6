"""A request to an NDIF server: the block that runs there, sending it, and reading the answer.

nnsight turns the ``with`` block of `_trace` into source and ships it with the values that it reads;
the names of the modules, the token ids and their mask. This client sends nothing else (nnsight's
own looks through the packages that are installed here), and reads plain tensors only (nnsight's
unpickles whatever comes).
"""

import io
import time
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from interp.errors import ModelError, one_line
from interp.pooling import Pool

if TYPE_CHECKING:
    from interp.remote import RemoteModel

__all__ = ["RESUMES", "ask", "plain_tensors"]

MOST_BYTES = 2**34
"""The largest answer that is unpacked."""
PATIENCE = 3600.0
"""Seconds without a new status after which a job is given up."""
PAUSES = (0.2, 5.0)
"""Seconds between two looks at a job: the first, and the longest; each is half longer."""
LOST = 5
"""Looks that may fail in a row, as where a network drops out for a while."""
RESUMES = "what is stored stays, and --resume goes on"


def ask(
    model: "RemoteModel",
    inputs: dict[str, Tensor],
    outs: list[str],
    ins: list[str],
    plan: tuple[Pool, Tensor] | None,
) -> dict[str, list[Tensor]]:
    """One request: what some modules gave and took, by ``name:out`` and ``name:in``, a tensor a
    visit.

    Parameters
    ----------
    inputs : ``input_ids`` and ``attention_mask``.
    outs, ins : modules by name.
    plan : how to pool the positions of a mask [b, t], to [b, 1, width]; None leaves all.

    Raises
    ------
    ModelError
        The server is not reached, refuses, fails, or answers what cannot be used.
    """
    job = _job(model)
    _trace(model.envoy, inputs, outs, ins, plan, job)
    rows = job.found.get("rows")
    asked = {f"{n}:out" for n in outs} | {f"{n}:in" for n in ins}
    if not (
        isinstance(rows, dict)
        and set(rows) <= asked
        and all(isinstance(v, list) for v in rows.values())
        and all(isinstance(x, Tensor) for v in rows.values() for x in v)
    ):
        raise ModelError(f"{model.host} answered something else than was asked; {RESUMES}.")
    return rows


def _trace(
    envoy: Any,
    inputs: dict[str, Tensor],
    outs: list[str],
    ins: list[str],
    plan: tuple[Pool, Tensor] | None,
    job: Any,
) -> None:
    """Send the block below, as source, with the names in it that it reads; nothing of it runs here.

    It watches the modules, takes the main tensor of each visit, and pools as `interp.pooling.pool`.
    """
    import nnsight

    mask = inputs["attention_mask"].bool() if plan is None else plan[1]
    how = "all" if plan is None else plan[0]
    root = envoy.path + "."
    order = torch.arange(mask.shape[1])
    ends = {"last": order.mul(mask).argmax(1), "first": mask.int().argmax(1)}
    at = ends.get(how)
    weights = mask.cumsum(1) * mask if how == "weighted_mean" else mask.int()
    with envoy.trace(**inputs, backend=job) as tracer:
        views = [
            tracer.cache(modules=[root + name for name in outs]),
            tracer.cache(
                modules=[root + name for name in ins], include_output=False, include_inputs=True
            ),
        ]
        answer = tracer.result  # noqa: F841  the block goes on when the forward has ended
        rows = {}
        for k, side, names in ((0, "out", outs), (1, "in", ins)):
            for name in names:
                if root + name not in views[k].keys():
                    continue
                visits = views[k][root + name]
                values = visits.output if side == "out" else visits.inputs
                found = []
                for value in values if len(visits) > 1 else [values]:
                    if side == "in":
                        taken = list(value[0]) + [
                            v for v in value[1].values()
                            if isinstance(v, torch.Tensor) and v.is_floating_point()
                        ]  # fmt: skip
                    elif isinstance(value, torch.Tensor):
                        taken = [value]
                    elif hasattr(value, "keys"):
                        best = [key for key in ("last_hidden_state", "logits") if key in value]
                        taken = [value[key] for key in best + list(value.keys())]
                    else:
                        taken = list(value)
                    x = [v for v in taken if isinstance(v, torch.Tensor)][0]
                    if how != "all" and x.ndim == 2 and len(x) == mask.numel() > len(mask):
                        x = x.unflatten(0, mask.shape)
                    if how != "all" and x.ndim == 3 and x.shape[:2] == mask.shape:
                        if at is not None:
                            x = x[torch.arange(len(x)), at]
                        elif how == "max":
                            x = x.masked_fill(~mask[:, :, None], float("-inf")).amax(1)
                        else:
                            wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
                            wide = wide.masked_fill(~mask[:, :, None], 0) * weights[:, :, None]
                            x = (wide.sum(1) / weights.sum(1)[:, None]).to(x.dtype)
                        x = x[:, None]
                    found.append(x.detach().cpu().contiguous())
                rows[name + ":" + side] = found
        nnsight.save(rows)


def _job(model: "RemoteModel") -> Any:
    """A client of nnsight's, that sends no more than the block and reads no pickle."""
    import httpx
    from nnsight.intervention.backends.display import StatusDisplay
    from nnsight.intervention.backends.remote import RemoteBackend, RemoteError
    from nnsight.schema.request import RequestModel
    from nnsight.tracing.util import SerializedFrame

    class Job(RemoteBackend):
        found: dict[str, Any]

        def __call__(self, tracer: Any = None) -> None:
            self.found = {}
            try:
                self.submit(tracer)
            except RemoteError as error:
                raise ModelError(_refused(model, error)) from error
            except ValueError as error:
                raise ModelError(_unclear(model, error)) from error
            self.found = self.wait() or {}

        def wait(self) -> dict[str, Any] | None:
            said: Any = None
            pause, lost, since = PAUSES[0], 0, time.monotonic()
            while True:
                try:
                    result = self.poll()
                    lost = 0
                except RemoteError as error:
                    raise ModelError(
                        f"{model.host} failed on {model.spec}: {one_line(error)}; {RESUMES}."
                    ) from error
                except ValueError as error:
                    raise ModelError(_unclear(model, error)) from error
                except httpx.HTTPError as error:
                    lost, result = lost + 1, None
                    if lost >= LOST:
                        raise ModelError(
                            f"{model.host} does not answer for the job {self.job_id} "
                            f"({one_line(error)}); {RESUMES}."
                        ) from error
                if result is not None:
                    return result
                if self.status != said:
                    said, since = self.status, time.monotonic()
                    model.tell(f"{model.spec}: {said.value.lower()} (job {self.job_id})")
                elif time.monotonic() - since > PATIENCE:
                    raise ModelError(
                        f"the job {self.job_id} of {model.spec} has been {said.value.lower()} for "
                        f"{PATIENCE / 60:.0f} minutes on {model.host}; {RESUMES}."
                    )
                time.sleep(pause)
                pause = min(1.5 * pause, PAUSES[1])

        def _serialize(self, tracer: Any) -> bytes:
            # nnsight's own also looks through the packages installed here, to send their source
            frame = tracer.info.frame
            here = SerializedFrame("interp/remote_job.py", frame.f_code.co_firstlineno, "ask")
            here.f_locals, here.f_globals = dict(frame.f_locals), frame.f_globals
            tracer.info.frame = here  # with the name of the file as it is everywhere
            return RequestModel.serialize(tracer, self.compress)

        def finalize(self, content: bytes) -> dict[str, Any]:
            return plain_tensors(content, self.compress, model.host)

    job = Job(model.key, host=model.host, env=model.envoy._remoteable_get_env(), blocking=False)
    job.display = StatusDisplay(enabled=False)
    return job


def plain_tensors(content: bytes, compressed: bool, host: str) -> dict[str, Any]:
    """A server's answer as tensors, lists and dicts; anything that would be run is refused.

    Raises
    ------
    ModelError
        It is none, or holds more than tensors, or more of them than is unpacked.
    """
    try:
        if compressed:
            import zstandard

            unpacked = io.BytesIO()
            with zstandard.ZstdDecompressor().stream_reader(content) as stream:
                while unpacked.tell() <= MOST_BYTES and (more := stream.read(2**24)):
                    unpacked.write(more)
        else:
            unpacked = io.BytesIO(content)
        if unpacked.getbuffer().nbytes > MOST_BYTES:
            raise ModelError(
                f"{host} answers with more than {MOST_BYTES / 2**30:.0f} GiB; ask for fewer hook "
                "points or rows at a time."
            )
        unpacked.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a format that it then refuses
            found = torch.load(unpacked, map_location="cpu", weights_only=True)
        if not isinstance(found, dict):
            raise ValueError(f"a {type(found).__name__} in place of a dict")
    except (ModelError, MemoryError):
        raise
    except Exception as error:  # what is no such file fails in many ways
        raise ModelError(
            f"the answer of {host} is not the plain tensors that are read from a server "
            f"({one_line(error, 100)}), so nothing of it was used; {RESUMES}."
        ) from error
    return found


def _refused(model: "RemoteModel", error: Exception) -> str:
    """One sentence for a request that the server did not take."""
    import httpx

    cause = error.__cause__
    text = one_line(error).removeprefix("Failed to send request: ")
    if isinstance(cause, httpx.HTTPStatusError):
        code = cause.response.status_code
        if code in (401, 403):
            return f"{model.host} refuses the key in NDIF_API_KEY ({text}); {RESUMES}."
        return f"{model.host} does not take {model.spec} ({code}: {text}); {RESUMES}."
    return f"{model.host} cannot be reached for {model.spec} ({text}); {RESUMES}."


def _unclear(model: "RemoteModel", error: Exception) -> str:
    """One sentence for an answer that is no NDIF server's."""
    return (
        f"{model.host} does not answer as an NDIF server does ({one_line(error, 100)}); look at "
        f"NDIF_HOST; {RESUMES}."
    )
