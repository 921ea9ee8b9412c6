"""``interp sae train``: learn sparse autoencoders from a store, or straight from a model."""

import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli import options as o
from interp.cli.capture import show_plan, size
from interp.cli.report import command_of
from interp.cli.shell import bar, emit, note, say_notes, speaks, table
from interp.errors import InterpError, ParameterError
from interp.runs import parse_json

if TYPE_CHECKING:
    from saes import SAEConfig
    from saes.rows import Rows

BATCHES = {"recommended": 4096, "released_code": 512}
"""Rows of a step, by the mode."""


def run(
    model: o.MaybeModel = None,
    data: o.MaybeData = None,
    store: o.Store = None,
    hookpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--hookpoint",
            "-p",
            help="What is read; several give SAEs each, or a crosscoder's layers.",
        ),
    ] = None,
    target: o.Target = None,
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/sae"),
    mode: Annotated[
        str,
        typer.Option(help="recommended; or released_code, for vl: all settings are its authors'."),
    ] = "recommended",
    architecture: Annotated[
        str,
        typer.Option(
            "--architecture",
            "--arch",
            help="topk, batch_topk, relu, gated, jumprelu, matryoshka, transcoder, crosscoder; vl, "
            "for pairs of images and texts; or codebook, which with MODEL trains the model too.",
        ),
    ] = "topk",
    n_latents: Annotated[
        str | None, typer.Option(help="Latents, or a comma list; else 8 times the width.")
    ] = None,
    k: Annotated[
        str | None, typer.Option(help="Active latents a row, or a comma list; else 32.")
    ] = None,
    l1: Annotated[str | None, typer.Option(help="Weight of L1, or a comma list.")] = None,
    l0: Annotated[str | None, typer.Option(help="Weight of L0, or a comma list.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Another field of the config, as NAME=VALUE; repeatable."),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(help="Batches; else an epoch, and at least 1,000.")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Rows of a step.")] = BATCHES["recommended"],
    lr: Annotated[
        float | None, typer.Option(help="Learning rate; else by the number of latents.")
    ] = None,
    warmup: Annotated[int | None, typer.Option(help="Steps over which lr rises.")] = None,
    decay: Annotated[
        str,
        typer.Option(
            help="How lr falls: linear, cosine, constant, or vl_paper, VL-SAE's authors'."
        ),
    ] = "linear",
    decay_steps: Annotated[int | None, typer.Option(help="Steps over which lr falls.")] = None,
    penalty_warmup: Annotated[
        int | None, typer.Option(help="Steps over which the sparsity penalty rises.")
    ] = None,
    k_start: Annotated[int | None, typer.Option(help="k of the first step; it falls to k.")] = None,
    k_steps: Annotated[int | None, typer.Option(help="Steps over which k falls.")] = None,
    dead_after: Annotated[
        int | None, typer.Option(help="Rows without firing that make a latent dead.")
    ] = None,
    resample_every: Annotated[
        int | None, typer.Option(help="Resample dead latents each so many steps.")
    ] = None,
    normalize: Annotated[
        bool,
        typer.Option("--normalize/--no-normalize", help="Scale activations while training."),
    ] = True,
    b_dec: Annotated[
        str, typer.Option(help="First decoder bias: mean, geometric_median or zero.")
    ] = "mean",
    clip: Annotated[
        float, typer.Option(help="Largest norm of the gradient; 0 for no limit.")
    ] = 1.0,
    ema: Annotated[
        float | None, typer.Option(help="Hand over a running mean of weights; its decay.")
    ] = None,
    autocast: Annotated[
        str | None, typer.Option(help="bfloat16: dense products so, on a CUDA device.")
    ] = None,
    optimizer: Annotated[str, typer.Option(help="adam, or lion, which holds less.")] = "adam",
    backend: Annotated[
        str, typer.Option(help="What runs the kernels: auto, eager, compile, numba, int8, triton.")
    ] = "auto",
    from_scratch: Annotated[
        bool, typer.Option("--from-scratch", help="Codebooks: begin with random model weights.")
    ] = False,
    init: Annotated[
        str | None,
        typer.Option(help="Codebooks: kmeans, or normal, the default with --from-scratch."),
    ] = None,
    model_lr: Annotated[
        float | None, typer.Option(help="Codebooks: lr of the model's weights; 0 holds them.")
    ] = None,
    pool: o.RowsPool = "all",
    buffer_rows: Annotated[
        int, typer.Option(help="Rows that MODEL captures and shuffles together.")
    ] = 2**16,
    forward_batch_size: o.ForwardBatchSize = None,
    text_column: o.TextColumn = None,
    image_column: o.ImageColumn = None,
    text_model: o.TextModel = None,
    prompt: o.PairPrompt = None,
    log_every: Annotated[int | None, typer.Option(help="Steps between entries of the log.")] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints; else a tenth of them.")
    ] = None,
    shards: Annotated[
        int, typer.Option(help="Processes of torchrun that share each SAE's latents.")
    ] = 1,
    seed: o.Seed = 0,
    dtype: o.Dtype = None,
    max_length: o.MaxLength = None,
    device: o.Device = "auto",
    remote: o.Remote = False,
    revision: o.Revision = None,
    trust_remote_code: o.TrustRemoteCode = False,
    resume: o.Resume = False,
    force: o.Force = False,
    dry_run: o.DryRun = False,
    as_json: o.Json = False,
    config: o.Config = None,
) -> None:
    """Learn sparse autoencoders in one pass over activations, and write a report.

    Comma lists, as in --k 16,32,64, give an SAE for each value, all from the same batches. Under
    torchrun the processes share each batch, and the first writes the run; with --shards S each S
    of them share the latents, for an SAE that is too large for one.
    """
    points = o.split_commas(hookpoint)
    pairs = architecture == "vl" and store is None
    if (store is None) == (model is None or data is None) or not (points or pairs):
        raise ParameterError(
            "interp sae train takes MODEL and DATA, or --store STORE, and --hookpoint such as "
            "resid_post.3."
        )
    from interp.distributed import world
    from interp.runs import Run, find_run

    _architectures(architecture, points, target, mode)
    if remote and (model is None or pairs or architecture == "codebook"):
        raise ParameterError("--remote is for MODEL and texts, and not for codebooks inside it.")
    party = world()
    _one_process(party.size, architecture, stored=store is not None)
    if party.again():  # by torchrun, with the arguments of the first start
        resume, force = True, False
    earlier = None
    if not dry_run:  # refuse before anything is read
        earlier = party.led(lambda: find_run(out, resume=resume, force=force))
    if architecture == "codebook" and store is None:
        import interp
        from interp.cli.sae import codebook

        codebook.refuse_unused(
            {"target": target, "l1": l1, "l0": l0, "penalty_warmup": penalty_warmup, "ema": ema,
             "dead_after": dead_after, "optimizer": None if optimizer == "adam" else optimizer,
             "backend": None if backend == "auto" else backend, "no_normalize": not normalize,
             "b_dec": None if b_dec == "mean" else b_dec, "pool": None if pool == "all" else pool,
             "buffer_rows": None if buffer_rows == 2**16 else buffer_rows,
             "forward_batch_size": forward_batch_size, "image_column": image_column,
             "shards": None if shards == 1 else shards, "text_model": text_model, "prompt": prompt}
        )  # fmt: skip
        codebook.train_in_model(
            interp.load(str(model), device, dtype, revision, trust_remote_code=trust_remote_code),
            str(data),
            points,
            {"n_latents": n_latents, "k": k, **_settings(settings, ("n_latents", "k"))},
            {"steps": steps, "lr": 1e-3 if lr is None else lr, "model_lr": model_lr, "init": init,
             "warmup": warmup, "decay": decay, "decay_steps": decay_steps, "k_start": k_start,
             "k_steps": k_steps, "replace_every": resample_every, "clip": clip or None,
             "autocast": autocast, "seed": seed, "log_every": log_every},
            out=out, tokens=batch_size, from_scratch=from_scratch, text_column=text_column,
            max_length=max_length, checkpoint_every=checkpoint_every, resume=resume, force=force,
            dry_run=dry_run, as_json=as_json,
        )  # fmt: skip
        return
    if from_scratch or init is not None or model_lr is not None:
        raise ParameterError(
            "--from-scratch, --init and --model-lr are for --architecture codebook with MODEL."
        )
    if pairs:
        from interp.loading import load

        loading: dict[str, Any] = {"device": device, "dtype": dtype, "revision": revision,
                                   "trust_remote_code": trust_remote_code}  # fmt: skip
        held = _pairs(
            load(str(model), **loading), str(data), points, out,
            {"text_model": text_model, "loading": loading, "prompt": prompt, "max_length":
             max_length, "pool": "mean" if pool == "all" else pool,
             "batch_size": forward_batch_size,
             "columns": {"image_column": image_column, "text_column": text_column}},
            force=force, dry_run=dry_run, as_json=as_json,
        )  # fmt: skip
        if held is None:
            return
        rows, about = held
    elif image_column or text_model or prompt:
        raise ParameterError(
            "--image-column, --text-model and --prompt are for --architecture vl with MODEL."
        )
    elif store is not None:
        rows, about = _from_store(store, points, target, architecture)
    else:
        import interp
        from saes import ModelRows

        rows = ModelRows(
            interp.load(
                str(model),
                device,
                dtype,
                revision,
                trust_remote_code=trust_remote_code,
                remote=remote,
            ),  # fmt: skip
            data,
            points,
            target=target,
            stack=architecture == "crosscoder",
            pool=pool,
            buffer_rows=buffer_rows,
            batch_size=forward_batch_size,
            max_length=max_length,
            columns={"text_column": text_column},
        )
        source = rows.work.data
        say_notes(source, labels=False)
        about = {
            "model": rows.work.model.identity(),
            "data": {"name": source.name, "hash": source.hash, "n": len(source)},
            "pool": pool,
        }
    width = rows.read([0])[0].x.shape
    fields = {"n_latents": n_latents or str(8 * width[-1]), "k": k, "l1": l1, "l0": l0}
    if mode == "released_code":
        settings = ["ties=strict", *(settings or [])]
        batch_size = BATCHES[mode] if batch_size == BATCHES["recommended"] else batch_size
    configs = _configs(architecture, fields, settings, len(points))
    batch = min(batch_size, rows.n)
    options: dict[str, Any] = {
        "steps": steps if steps is not None else max(1000, rows.n // batch),
        "batch_size": batch,
        "lr": lr,
        "seed": seed,
        "warmup": warmup,
        "decay": decay,
        "decay_steps": decay_steps,
        "penalty_warmup": penalty_warmup,
        "k_start": k_start,
        "k_steps": k_steps,
        "dead_after": dead_after,
        "resample_every": resample_every,
        "normalize": normalize,
        "b_dec": b_dec,
        "clip": clip or None,
        "ema": ema,
        "autocast": autocast,
        "optimizer": optimizer,
        "backend": backend,
        "log_every": log_every,
    }
    if mode == "released_code":
        _released(configs, options, rows.n, steps)
    if dry_run:
        _show_plan(rows, configs, options, device, shards, as_json)
        return
    import saes

    identity = {
        "acts": rows.identity(),
        "configs": [[c.architecture, c.to_dict()] for c in configs],
        **options,
    }
    # A run that is there is compared now; a new one begins with the first step, when settings and
    # rows have been looked at. What they lack leaves no run behind and costs no earlier one.
    started: Run | None = None
    goes_on = earlier is not None and not force

    def begin() -> None:
        nonlocal started
        started = started or Run(out, "sae train", identity, resume=goes_on, force=force)

    if goes_on:
        party.led(begin)

    def step(done: int, total: int, words: str) -> None:
        if party.leads:
            begin()
        progress(done, total, words)

    try:
        with bar("training") as progress:
            learnt = saes.train(
                rows,
                configs,
                out=out,
                device=device,
                shards=shards,
                checkpoint_every=checkpoint_every,
                resume=goes_on,
                force=force,
                name=(about["data"] or {}).get("name", "store"),
                provenance=about,
                progress=step,
                **options,
            )
    except InterpError:
        if started is not None:
            started.drop()
        raise
    party.stop()
    if not party.leads:
        return
    assert started is not None  # noqa: S101  there is a first step, or a run that had it
    for sae in learnt:
        started.add(sae.training_log)  # pyright: ignore[reportArgumentType]  train sets it
    _finish(started, as_json)


def _one_process(size: int, architecture: str, *, stored: bool) -> None:
    """Refuse under torchrun what is trained in one process."""
    if size == 1 or stored or architecture not in ("codebook", "vl"):
        return
    if architecture == "codebook":
        raise ParameterError(
            "--architecture codebook with MODEL trains in one process; start it without torchrun."
        )
    raise ParameterError(
        "--architecture vl under torchrun takes a store: capture the pairs first, with `interp "
        "capture` and without torchrun, and give --store."
    )


def _released(
    configs: "list[SAEConfig]", options: dict[str, Any], n: int, steps: int | None
) -> None:
    """Put the authors' settings into ``options``; one that was given otherwise is refused."""
    import saes
    from saes.vl_modes import RELEASED

    if any(c.to_dict()["ties"] != "strict" or c.to_dict()["design"] != "vl" for c in configs):
        raise ParameterError(
            "--mode released_code is for ties=strict and design=vl; leave --set out, or the mode."
        )
    usual = {"decay": "linear", "normalize": True, "b_dec": "mean", "clip": 1.0}
    for name, value in RELEASED.items():
        if options[name] not in (value, usual.get(name, value)):
            raise ParameterError(
                f"--mode released_code sets {name} to {value}, and it was given as "
                f"{options[name]}; leave --{name.replace('_', '-')} out, or the mode."
            )
    theirs = saes.released_vl(n, batch_size=options["batch_size"])
    given = {k: v for k, v in {"steps": steps, "lr": options["lr"]}.items() if v is not None}
    options.update(theirs | given)


def _finish(started: Any, as_json: bool) -> None:
    """Metrics, report, and the headline numbers."""
    import dashboards
    from interp.runs import metrics

    started.finish()
    report = dashboards.Report(
        started.results,
        title="Training of sparse autoencoders",
        command=command_of([started.path]),
    )
    path = report.write(started.path / "report.html")
    if as_json:
        emit(metrics(started.results))
        return
    found = [r.metrics() | {"name": r.name} for r in started.results]
    columns = ["name", "n", "fvu", "l0", "dead"]
    table("", columns, [[f[c] for c in columns] for f in found])
    typer.echo(f"\nSAEs: {started.path / 'sae'}\nreport: {path}")


def _architectures(architecture: str, points: list[str], target: str | None, mode: str) -> None:
    """Refuse what cannot be learnt, before anything is read."""
    from saes import ARCHITECTURES

    if architecture not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise ParameterError(f"--architecture must be one of {known}; got {architecture!r}.")
    if mode not in ("recommended", "released_code"):
        raise ParameterError(f"--mode must be recommended or released_code; got {mode!r}.")
    if mode == "released_code" and architecture != "vl":
        raise ParameterError("--mode released_code is for --architecture vl.")
    if architecture == "transcoder" and target is None:
        raise ParameterError("--target is needed: the hook point that a transcoder predicts.")
    if architecture == "vl" and (target is not None or len(points) not in (0, 2)):
        raise ParameterError(
            "--architecture vl takes two --hookpoint, what images give and then what texts give, "
            f"and no --target; got {', '.join(points)}."
        )
    if target is not None and (len(points) > 1 or architecture == "crosscoder"):
        raise ParameterError("--target takes one --hookpoint, and no crosscoder.")


def _from_store(
    path: Path, points: list[str], target: str | None, architecture: str
) -> "tuple[Rows, dict[str, Any]]":
    """The rows of a store's hook points, and where they come from."""
    from interp.store import ActivationStore
    from saes import MatrixRows

    held = ActivationStore.open(path)
    sites: dict[str, Any] = {p: held[p] for p in points}
    if architecture == "crosscoder":
        sites = {"+".join(points): [held[p] for p in points]}
    elif architecture == "vl":
        image, text = points
        sites = {"+".join(points): (held[image], held[text])}
    elif target is not None:
        sites = {f"{points[0]}-to-{target}": (held[points[0]], held[target])}
    about = {k: held.manifest.get(k) for k in ("model", "data", "pool")}
    if architecture == "vl":
        about["hookpoints"] = dict(zip(("image", "text"), points, strict=True))
    return MatrixRows(sites), about


def _pairs(
    model: Any,
    data: str,
    points: list[str],
    out: Path,
    options: dict[str, Any],
    *,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> "tuple[Rows, dict[str, Any]] | None":
    """The rows of pairs, captured into a folder beside the run; None where that is only planned."""
    from interp.cli.sae.pairs import pairs_work, stored
    from saes import MatrixRows

    work = pairs_work(model, data, points, **options)
    if dry_run:
        show_plan(work, as_json)
        return None
    folder = out.with_name(f"{out.name}-pairs")
    # What is there from a training that failed after its capture is gone on with.
    held = stored(work, folder, resume=True, force=force)
    note(f"the pairs' activations are in {folder}")
    sites = work.sides
    rows = MatrixRows({" and ".join(sites.values()): (held[sites["image"]], held[sites["text"]])})
    about = {k: held.manifest.get(k) for k in ("model", "data", "pool")}
    return rows, {**about, "hookpoints": sites}


def _configs(
    architecture: str,
    fields: dict[str, str | None],
    settings: list[str] | None,
    layers: int,
) -> "list[SAEConfig]":
    """A config for each combination of the comma lists."""
    from saes import ARCHITECTURES

    kind = ARCHITECTURES[architecture][0]
    known = kind.__dataclass_fields__
    if fields["k"] is None and "k" in known:
        fields = {**fields, "k": "32"}
    fixed: dict[str, Any] = {"n_layers": layers} if architecture == "crosscoder" else {}
    fixed |= _settings(settings, fields)
    if architecture == "codebook":
        fields = {"n_codes" if n == "n_latents" else n: v for n, v in fields.items()}
    lists = {n: [_value(v) for v in text.split(",")] for n, text in fields.items() if text}
    combined = itertools.product(*lists.values())
    return [kind.from_dict({**fixed, **dict(zip(lists, one, strict=True))}) for one in combined]


def _settings(settings: list[str] | None, own: Iterable[str]) -> dict[str, Any]:
    """What --set gives, but no field that has an option of its own."""
    found: dict[str, Any] = {}
    for setting in settings or []:
        name, equals, value = setting.partition("=")
        if not equals:
            raise ParameterError(f"--set takes NAME=VALUE; got {setting!r}.")
        name = name.replace("-", "_")
        if name in own:
            raise ParameterError(
                f"{name} has an option of its own: --{name.replace('_', '-')}, not --set."
            )
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    """A JSON value, or the text itself."""
    try:
        return parse_json(text)
    except ValueError:
        return text


def _show_plan(
    rows: "Rows",
    configs: "list[SAEConfig]",
    options: dict[str, Any],
    device: str,
    shards: int,
    as_json: bool,
) -> None:
    """Take a few steps and print what the training would cost."""
    from saes.planning import plan_training

    plan = plan_training(rows, configs, device=device, shards=shards, **options)
    if not speaks():
        return
    if as_json:
        emit(vars(plan))
        return
    where = f" in each of {plan.processes} processes" if plan.processes > 1 else ""
    typer.echo(
        f"{plan.rows} rows, {plan.steps} steps of {plan.batch_size} ({plan.epochs:.1f} epochs) for "
        f"{plan.saes} SAEs: {size(plan.bytes)} of weights and a checkpoint of "
        f"{size(plan.checkpoint_bytes)}, about {plan.seconds:.0f} s"
        f"{f', {size(plan.peak_bytes)} of memory{where}' if plan.peak_bytes else ''}"
    )
