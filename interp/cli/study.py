"""What ``interp probe`` does between parsing and writing: models x data x labels, one at a time."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from interp.cli.shell import bar, note
from interp.errors import InterpError, ModelError, ParameterError

if TYPE_CHECKING:
    from interp.capturing import Capture
    from interp.data import Dataset
    from interp.models import Model
    from interp.pooling import Pool
    from interp.runs import Run
    from interp.store import ActivationStore
    from probes import ConceptDepth

__all__ = ["HOOKPOINTS", "MODES", "Settings", "Study", "prompted", "short_names"]

MODES = ("recommended", "paper", "released_code")
HOOKPOINTS = {
    "recommended": ["embed", "resid_post.*"],
    "paper": ["mlp_in.*"],
    "released_code": ["mlp_in.*"],
}
"""Where each mode reads: the residual stream, or the norm before the MLP."""

CHEAP = 10**13
"""Parameters times positions up to which the random-initialised model is captured unasked."""

LENS_CLASSES = 10
"""Classes up to which each gets its own logit lens."""

GENERIC = re.compile(r"model|weights|final|best|last|main|checkpoint.*", re.IGNORECASE)
"""Names of folders that do not tell models apart; the folder above is named too."""


@dataclass(frozen=True)
class Settings:
    """Options of a probe that are the same for all models, data sets and labels."""

    mode: str = "recommended"
    probe: str = "logistic"
    folds: int = 5
    seed: int = 0
    pool: str = "last"
    batch_size: int | None = None
    max_length: int | None = None
    random_model: bool | None = None
    perturb: tuple[str, ...] = ()
    prompts: dict[str, str] = field(default_factory=dict)
    positive: str | None = None
    lens: bool = False
    answers: dict[str, list[str]] = field(default_factory=dict)

    def options(self) -> dict[str, Any]:
        """Arguments of `probes.concept_depth`."""
        return {
            "mode": self.mode,
            "probe": self.probe,
            "positive": self.positive,
            "folds": self.folds,
            "seed": self.seed,
        }


class Study:
    """One model on one data set: captures, controls, perturbations, and the results of each label.

    Parameters
    ----------
    model, work : the model, and its checked capture of the data.
    short : the model's name among several, or None where it is alone.
    """

    def __init__(
        self, run: "Run", model: "Model", work: "Capture", short: str | None, settings: Settings
    ) -> None:
        self.run, self.model, self.work, self.short = run, model, work, short
        self.data: Dataset = work.data
        self.settings = settings
        folder = run.path / "acts"
        self.folder = (folder / short if short else folder) / self.data.name

    @property
    def title(self) -> str:
        """What progress lines call it."""
        return f"{self.data.name} ({self.short})" if self.short else self.data.name

    def name(self, label: str) -> str:
        """The results' name: the concept, after the model's where there are several."""
        import probes

        concept = probes.concept_name(self.data.name, label)
        return f"{self.short}/{concept}" if self.short else concept

    @property
    def pool(self) -> "Pool":
        """How the capture pools positions."""
        return cast("Pool", self.work.pool)

    def depths(self) -> None:
        """Concept depth of every label, saved as it comes."""
        import probes

        missing = [
            label
            for label in self.data.labels
            if not self._known(probes.ConceptDepth, self.name(label))
        ]
        if not missing:
            return
        with bar(f"capturing {self.title}") as progress:
            store = self.work.on_disk(self.folder, resume=True, force=False, progress=progress)
        random = self._random_model()
        for label in missing:
            with bar(f"probing {self.name(label)}") as progress:
                depth = probes.concept_depth(
                    store,
                    label,
                    self.data.group,
                    random_model=random,
                    prompt=self.settings.prompts.get(self.data.name),
                    progress=progress,
                    **self.settings.options(),
                )
            for line in depth.warnings:
                note(f"{self.name(label)}: {line}")
            self.run.add(self._signed(depth, label))

    def lenses(self) -> None:
        """The logit lens of every concept's direction, where the residual stream reads it best.

        A concept of more than two classes has one towards each.
        """
        if not self.settings.lens:
            return
        import probes
        from probes.steering import stream_hookpoints

        for depth in self._depths().values():
            many = len(depth.classes) > 2
            if len(depth.classes) > LENS_CLASSES:
                note(f"{depth.name}: no logit lens for each of its {len(depth.classes)} classes")
                continue
            inside = stream_hookpoints(self.model, depth.hookpoints)
            if not inside:
                note(f"{depth.name}: no logit lens: it was not probed in the residual stream")
                continue
            at = max(inside, key=lambda name: depth.accuracy[depth.hookpoints.index(name)])
            for towards in depth.classes if many else depth.classes[-1:]:
                name = f"{depth.name}={towards}" if many else depth.name
                if self._known(probes.LogitLens, name):
                    continue
                try:
                    found = probes.logit_lens(self.model, depth, hookpoint=at, class_=towards)
                except InterpError as error:
                    note(f"{name}: no logit lens: {error}")
                    continue
                self.run.add(self._signed(found, depth.label, name))

    def steer(self, labels: Sequence[str]) -> None:
        """Whether adding the direction of each of these labels moves the answer."""
        import probes

        for label, depth in self._depths().items():
            if label not in labels or self._known(probes.Steering, depth.name):
                continue
            answers = self.settings.answers
            with bar(f"steering {depth.name}") as progress:
                try:
                    found = probes.steering_effect(
                        self.model,
                        self.data,
                        depth,
                        answers={c: answers[c] for c in depth.classes if c in answers} or None,
                        pool=self.pool,
                        batch_size=self.settings.batch_size,
                        max_length=self.settings.max_length,
                        seed=self.settings.seed,
                        progress=progress,
                    )
                except InterpError as error:
                    note(f"{depth.name}: not steered: {error}")
                    continue
            self.run.add(self._signed(found, label))

    def _depths(self) -> "dict[str, ConceptDepth]":
        """The results so far of this model and data, by label."""
        import probes

        mine = (r for r in self.run.results if isinstance(r, probes.ConceptDepth))
        return {r.label: r for r in mine if r.name == self.name(r.label)}

    def perturbations(self) -> None:
        """Every label under every perturbation that was asked for, saved when all are done."""
        if not self.settings.perturb:
            return
        import probes

        missing = [
            label
            for label in self.data.labels
            if not self._known(probes.Perturbed, self.name(label))
        ]
        if not missing:
            return
        folder = self.folder.with_name(self.folder.name + ".perturbed")
        with bar(f"perturbing {self.title}") as progress:
            found = probes.perturbation_effect(
                self.model,
                self.data,
                self.settings.perturb,
                labels=missing,
                groups=self.data.group,
                hookpoints=[p.name for p in self.work.points],
                pool=self.pool,
                batch_size=self.settings.batch_size,
                max_length=self.settings.max_length,
                clean=self._depths(),
                folder=folder,
                progress=progress,
                **self.settings.options(),
            )
        for result in found:
            self.run.add(self._signed(result, result.label))
        shutil.rmtree(folder, ignore_errors=True)  # scratch: one store a perturbation

    def _known(self, kind: Any, name: str) -> bool:
        if self.run.found(kind, name) is None:
            return False
        note(f"{name}: found in {self.run.path}")
        return True

    def _signed(self, result: Any, label: str, name: str | None = None) -> Any:
        """The result under a name of its own, that of its concept by default, with its model."""
        import probes

        model = result.provenance.get("model") or {}
        short = self.short or short_names([self.model.spec])[0]
        provenance = {
            **result.provenance,
            "model": {**model, "short": short},
            "concept": probes.concept_name(self.data.name, label),
        }
        return replace(result, name=name or self.name(label), provenance=provenance)

    def _random_model(self) -> "ActivationStore | None":
        """The same capture of the same architecture with fresh weights, or None and why."""
        asked = self.settings.random_model
        if asked is False:
            return None
        size = sum(p.numel() for p in self.model.module.parameters())
        if asked is None and size * sum(self.work.feed.lengths) > CHEAP:
            note(f"{self.title}: no random-initialised control, for its cost; ask: --random-model")
            return None
        try:
            fresh = self.model.reinitialised(self.settings.seed)
        except ModelError as error:
            if asked:
                raise
            note(f"{self.title}: no random-initialised control: {error}")
            return None
        from interp.capturing import Capture

        names = [p.name for p in self.work.points]
        settings = self.settings
        work = Capture(
            fresh, self.data, names, self.pool, settings.batch_size, None, settings.max_length
        )
        folder = self.folder.with_name(self.folder.name + ".random")
        with bar(f"capturing {self.title}, random weights") as progress:
            return work.on_disk(folder, resume=True, force=False, progress=progress)


def prompted(
    sets: "Sequence[Dataset]", mode: str, prompt: str | None, layout: Any
) -> "tuple[list[Dataset], dict[str, str]]":
    """The data sets with the mode's prompt around their texts, and which prompt each got.

    ``recommended`` adds one only where it is given; ``paper`` takes interp's wording for each
    task, ``released_code`` the one prompt that the released code uses for all.
    """
    from interp.prompts import RELEASED, TASKS, task_of, with_prompt

    if prompt is None and layout is not None and mode == "recommended":
        raise ParameterError(
            "--prompt-layout needs --prompt, as no prompt stands around the texts."
        )
    if prompt is None and mode == "released_code":
        prompt = RELEASED
    out, used = [], {}
    for data in sets:
        if (prompt is None and mode == "recommended") or (data.kind != "text" and prompt is None):
            out.append(data)
            continue
        if data.kind != "text" and mode != "recommended":
            out.append(data)  # images and tensors take no prompt
            continue
        out.append(with_prompt(data, prompt, layout))
        used[data.name] = prompt or TASKS[task_of(data)].wording
    return out, used


def short_names(specs: Sequence[str]) -> list[str]:
    """A short name for each model, all different: the last part of its specification."""
    names: list[str] = []
    for spec in specs:
        text = spec.rstrip("/")
        if text.startswith("demo:") or ".py:" in text:
            text = text.rsplit(":", 1)[-1]
        path = Path(text)
        name = path.name or text
        if GENERIC.fullmatch(name) and path.parent.name:
            name = f"{path.parent.name}-{name}"
        name = "".join(c if c.isalnum() or c in "-_." else "-" for c in name)
        same = sum(n.split("~")[0] == name for n in names)
        names.append(f"{name}~{same + 1}" if same else name)
    return names
