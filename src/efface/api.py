"""Audit and debias a model that Python holds, on data that Python holds: runs of the grid, without the command line."""

import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from efface.debiased import Debiased, load
from efface.extras import require

if TYPE_CHECKING:
    from efface.cli.in_memory import Finished, InMemoryRuns
    from efface.export.network import Network
    from efface.export.whole import Whole
    from efface.models.given import Given
    from efface.passport import Passport
    from efface.record import Record


class _Measured:
    """What a run measured."""

    record: "Record"

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics on test, by the names of docs/reading_the_table.md."""
        return self.record.metrics

    @property
    def intervals(self) -> dict[str, Any]:
        """95 % confidence intervals `[low, high]` of metrics on test, with the model held fixed."""
        return self.record.metrics_ci

    @property
    def reasons(self) -> dict[str, str]:
        """Why a metric is None."""
        reasons: dict[str, str] = self.record.info["reasons"]
        return reasons


@dataclass(frozen=True)
class Audit(_Measured):
    """What a model does with a protected attribute, as a run of `method=none` measures it."""

    record: "Record"

    def __repr__(self) -> str:
        """Show the metrics of one number with their intervals, a line each."""
        lines = [f"Audit of {self.record.config['model']['name']}, on test samples:"]
        for name, value in self.metrics.items():
            if isinstance(value, float):
                interval = self.intervals.get(name)
                between = "" if interval is None else "  [{:.3f}, {:.3f}]".format(*interval)
                lines.append(f"  {name} {value:.3f}{between}")
        return "\n".join(lines)


class DebiasedModel(_Measured, nn.Module):
    """A debiased model, called as the one that was handed over.

    A method that needs the protected attribute at test time is called with one keyword more, `attribute` `[n]`: the
    number of each sample's value among `attributes`. Of a classifier of scikit-learn, `forward` takes its rows and
    returns logits, and `estimator` is the classifier itself with new weights.
    """

    def __init__(
        self, source: "Given", network: "Network", whole: "Whole", debiased: Debiased, record: "Record", **facts: Any
    ) -> None:
        super().__init__()
        self.module = network.module
        self.debiased = debiased
        """The map of features and the head that the method returned."""
        self.record = record
        """Of the run."""
        self.before: Record | None = facts["before"]
        """Of the run of the model that was handed over, on the same data; None if it was not measured."""
        self.attributes: tuple[str, ...] = facts["attributes"]
        """Values of the protected attribute, in the order of their numbers."""
        self._source, self._network, self._whole = source, network, whole

    @property
    def passport(self) -> "Passport":
        """What was removed, what is guaranteed and what is not, and every metric."""
        return self._whole.passport

    @property
    def folded(self) -> bool:
        """Whether `module` has the architecture and the parameter names of the one that came in."""
        return self._network.folded

    @property
    def estimator(self) -> Any:
        """The classifier of scikit-learn with its new weights.

        Raises:
            AttributeError: another model was handed over, or the method leaves no linear classifier.
        """
        if self._whole.estimator is None:
            raise AttributeError("estimator: there is one where a linear scikit-learn classifier stays one")
        return self._whole.estimator()

    def forward(self, *inputs: Any, attribute: Tensor | None = None, **named: Any) -> Any:
        """Call the network as the one that came in.

        Raises:
            ValueError: the method needs the attribute, and it is missing; or the other way round.
        """
        if self._network.uses_attribute != (attribute is not None):
            uses = "needs" if self._network.uses_attribute else "takes no"
            raise ValueError(f"attribute: this model {uses} protected attribute of the samples at test time")
        self._network.attribute.value = attribute
        if self._source.estimator is not None:
            inputs = tuple(self._source.encode(x) for x in inputs)
        return self.module(*inputs, **named)

    def save(self, out: str | Path) -> Path:
        """Write all that this model can be used from: weights, program, run and passport, see docs/export.md.

        Raises:
            FileExistsError: the folder is there.
        """
        from efface.export import directory
        from efface.export.whole import ExportError

        formats = ["transformers" if self._whole.transformers is not None else "safetensors"] if self.folded else []
        if self._whole.estimator is not None:
            formats.append("sklearn")
        try:
            self._whole.program()
        except ExportError as error:
            warnings.warn(str(error), stacklevel=2)
        else:
            formats.append("torch")
        directory.write(self._whole, Path(out), formats)
        return Path(out)

    def export(self, to: str, out: str | Path) -> Path:
        """Write the model in one format, as `python -m efface.export` does.

        Args:
            to: `safetensors`, `torch`, `onnx`, `transformers` or `sklearn`.
            out: a new folder.

        Raises:
            FileExistsError: the folder is there.
            ExportError: the format cannot hold the model.
        """
        from efface.export import directory

        directory.require_format(to)
        directory.write(self._whole, Path(out), [to])
        return Path(out)


def audit(
    model: Any,
    data: Any,
    *,
    people: Any = None,
    head: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    save_dir: str | Path | None = None,
    progress: bool = True,
) -> Audit:
    """Measure what a classifier does with a protected attribute: all metrics, with intervals. The model stays as it is.

    Args:
        model: an `nn.Module` with a linear head, or a fitted scikit-learn classifier with `predict_proba`.
        data: `(x, y, a)`, or `(x, x_cf, y, a, a_cf)` where counterfactuals are known, for `counterfactual_bias`; a
            DataLoader of such batches, or a mapping of these to train, val, test and pairs; see
            `efface.data.memory.from_memory`.
        people: identities of the rows, like data's; intervals then draw people.
        head: the name of the module's last linear layer, where it is not the only one that could be.
        evaluation: options of the evaluation, such as `{"bootstrap": 0}`.
        seed: of the probes and of the resampling.
        device: `auto`, `cpu` or `cuda`.
        save_dir: where the run's record and predictions are kept; None for nowhere.
        progress: whether to show progress bars.

    Raises:
        HeadError: the module has no linear head, or several.
        ValueError: data or an option are wrong; the message says which.
    """
    settings = {"evaluation": evaluation or {}, "seed": seed, "device": device, "progress": progress}
    with _runs("efface.audit", model, data, save_dir, people=people, head=head, **settings) as runs:
        return Audit(runs.execute("none", {}).record)


def debias(
    model: Any,
    data: Any,
    method: str = "fmd",
    *,
    people: Any = None,
    head: str | None = None,
    evaluation: Mapping[str, Any] | None = None,
    seed: int = 0,
    device: str = "auto",
    save_dir: str | Path | None = None,
    progress: bool = True,
    compare: bool = True,
    **options: Any,
) -> DebiasedModel:
    """Debias a classifier, and measure what it does with a protected attribute before and after.

    The model stays as it is. Only val selects; test is only reported.

    Args:
        model, data, people, head, evaluation, seed, device, save_dir, progress: as for `audit`; a scikit-learn
            classifier must be linear.
        method: a name of docs/methods.md.
        compare: measure the model that was handed over too.
        options: of the method, such as `refit_head=True`.

    Raises:
        NotApplicable: the method cannot run on these data; the message says why.
        HeadError: the module has no linear head, or several.
        ValueError: data or an option are wrong; the message says which.
    """
    settings = {"evaluation": evaluation or {}, "seed": seed, "device": device, "progress": progress}
    with _runs("efface.debias", model, data, save_dir, people=people, head=head, **settings) as runs:
        from efface.cli.compose import require_choice
        from efface.data.memory import first_rows
        from efface.export.whole import ROWS
        from efface.methods.base import NotApplicable

        require_choice("method", method)
        estimator = runs.source.estimator
        if estimator is not None and not estimator.linear:
            raise ValueError(
                f"model is a {runs.source.name} without a linear last step: it can be audited, but not debiased"
            )
        before = runs.execute("none", {}).record if compare else None
        finished = runs.execute(method, options)
        if finished.record.status != "done":
            raise NotApplicable(f"method={method}: {finished.record.reason}")
        return _debiased_model(runs, finished, before, first_rows(data, ROWS))


@contextmanager
def _runs(
    what: str, model: Any, data: Any, save_dir: str | Path | None, **circumstances: Any
) -> "Iterator[InMemoryRuns]":
    """Give runs of a model on data, in a folder that is removed at the end unless it was asked for."""
    require("hydra", "pydantic", "filelock", "pandas", extra="grid", what=what)
    from efface.cli.in_memory import InMemoryRuns

    with tempfile.TemporaryDirectory(prefix="efface-") as folder:
        results = Path(folder, "results") if save_dir is None else Path(save_dir).expanduser()
        yield InMemoryRuns.of(model, data, results_dir=results, cache_dir=Path(folder, "cache"), **circumstances)


def _debiased_model(runs: "InMemoryRuns", finished: "Finished", before: "Record | None", rows: Any) -> DebiasedModel:
    """Put what a finished run left into the model that was handed over.

    Args:
        runs: of that model.
        finished: the run.
        before: record of the model as it was.
        rows: some rows as the model takes them, on which exports are checked.
    """
    from efface.export.pretrained import configuration
    from efface.export.whole import run_files, whole_of
    from efface.models.estimators import with_head
    from efface.passport import passport_of

    source, attributes = runs.source, runs.dataset.attributes
    debiased, x = load(finished.directory), source.encode(rows).float()
    a = torch.arange(len(x)) % len(attributes)
    facts = {"passport": passport_of(finished.directory), "run_files": run_files(finished.directory, finished.record)}
    whole, network = whole_of(source.model, debiased, x, a, n_attributes=len(attributes), **facts)
    if isinstance(network.head, nn.Linear) and source.estimator is not None:
        fitted, last = source.estimator.fitted, network.head
        whole = replace(whole, estimator=lambda: with_head(fitted, last), rows=rows)
    elif network.folded:
        whole = replace(whole, transformers=configuration(network.module))
    return DebiasedModel(source, network, whole, debiased, finished.record, before=before, attributes=attributes)
