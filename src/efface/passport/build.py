"""From the folder of a run to its passport."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from efface.extras import is_installed
from efface.passport.claims import claim_of
from efface.passport.facts import Facts
from efface.passport.figures import figures
from efface.passport.limits import limits
from efface.passport.render import version_here
from efface.passport.schema import Base, Certificate, Data, Origin, Passport, Subject
from efface.record import RECORD, Record


def passport_of(run_dir: str | os.PathLike[str]) -> Passport:
    """Make the passport of a finished run. Writes nothing; loads no torch.

    The base model's figures stand beside its own where the run of `method=none` with the same configuration and seed
    lies in the same results.

    Args:
        run_dir: `results/<dataset>/<model>/<training>/<method>/<id>/seed=<seed>`, or a folder elsewhere that was it.

    Raises:
        FileNotFoundError: there is no finished run, or a file that its record names is gone.
        ValueError: the record is damaged, the method did not apply, or a file is not the one of the record.
    """
    directory = Path(run_dir)
    facts = Facts.read(directory)
    files = {RECORD: facts.digest, **{name: str(digest) for name, digest in facts.record.artifacts.items()}}
    return assemble(facts, command=_command(facts.record), files=files)


def assemble(facts: Facts, *, command: str | None, files: Mapping[str, str]) -> Passport:
    """Put a passport together.

    Args:
        facts: of the run.
        command: that repeats the run, if it is known.
        files: digests of the files that the passport is to speak of, by name.

    Raises:
        ValueError: the record lacks an option of its method.
    """
    claim = claim_of(facts)
    return Passport(
        written_by=version_here(),
        subject=_subject(facts),
        removed=claim.removed,
        guarantee=claim.guarantee,
        not_guaranteed=limits(facts, claim.guarantee),
        certificate=_certificate(facts),
        figures=figures(facts),
        base=_base(facts),
        data=_data(facts),
        origin=_origin(facts, command),
        files=dict(files),
    )


def _subject(facts: Facts) -> Subject:
    names: dict[str, Any] = {
        node: facts.record.config[node]["name"] for node in ("dataset", "model", "training", "method")
    }
    return Subject(
        run=facts.record.id,
        seed=facts.record.seed,
        **names,
        attribute=facts.attribute,
        attribute_values=facts.attribute_values,
        attribute_entropy=facts.attribute_entropy,
        uses_attribute_at_test=bool(facts.info.get("uses_attribute_at_test", False)),
        head=facts.info.get("head"),
    )


def _certificate(facts: Facts) -> Certificate | None:
    info = facts.info
    if "epsilon" not in info:
        return None
    epsilon, delta = info["epsilon"], info["delta"]
    spent = f"One release, of ({epsilon:g}, {delta:g})."
    if "budget_spent" in info:
        spent = f"{info['budget_spent']:.3g} of {info['budget_allowed']:.3g} of the budget of the published procedure."
    return Certificate(
        valid=info["certified"],
        reason=info["certified_reason"],
        epsilon=epsilon,
        delta=delta,
        removed=info["removed"],
        remaining=info["n_fit"],
        residual=info.get("residual"),
        noise=info.get("noise"),
        spent=spent,
        composition=f"k releases after a removal are together at most (k · {epsilon:g}, k · {delta:g}); at the same ε "
        "the exact δ is `RemovalCertificate.delta_of(k)`. A release from before a removal holds the sample.",
    )


def _base(facts: Facts) -> Base:
    if facts.base is None:
        return Base(known=False, reason=facts.base_reason)
    return Base(known=True, run=facts.base.id, record=facts.base_digest)


def _data(facts: Facts) -> Data:
    return Data(
        fingerprint=str(facts.record.fingerprint),
        options=dict(facts.record.config["dataset"]),
        n_test=facts.n_test,
        n_fit=facts.info.get("n_fit"),
        n_effective=facts.info.get("n_eff"),
        test_groups={f"y={y},a={a}": n for (y, a), n in sorted(facts.test_groups.items())},
        names=dict(facts.names),
    )


def _origin(facts: Facts, command: str | None) -> Origin:
    run = facts.record.run
    known = {name: run.get(name) for name in ("commit", "device", "processor", "threads", "platform", "finished")}
    return Origin(
        command=command,
        versions=run.get("versions", {}),
        configuration=facts.record.config,
        record=facts.digest,
        **known,
    )


def _command(record: Record) -> str | None:
    """Return the command that repeats a run; None if there is none, or where Hydra is not installed to tell."""
    if not is_installed("hydra"):
        return None
    from efface.cli.repeat import command

    return command(record)
