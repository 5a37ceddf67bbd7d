"""Every method that has a yaml, on real small data, through the contract."""

import copy
from pathlib import Path
from typing import Annotated

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_class, instantiate
from omegaconf import OmegaConf
from tests.conftest import CONF

from efface.debiased import Debiased
from efface.methods.base import Method
from efface.options import Gt, options
from efface.problem import Problem
from efface.representations import Representation

NAMES = sorted(path.stem for path in (CONF / "method").glob("*.yaml"))


def make(name: str, *overrides: str) -> Method:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose("config", overrides=[f"method={name}", *overrides])
    node = OmegaConf.to_container(cfg.method, resolve=True)
    assert node.pop("name") == name
    return instantiate({**node, **get_class(node["_target_"]).small}, _convert_="all")


@pytest.mark.parametrize("name", NAMES)
def test_method_runs_and_can_be_saved(
    name: str, ten_classes: Problem, two_classes: Problem, tabular: Problem, tmp_path: Path
) -> None:
    method = make(name)
    problems, skipped = (ten_classes, two_classes, tabular), []
    for problem in problems:
        reason = method.skip(problem)
        if reason is not None:
            skipped.append(reason)
            continue
        before = [t.clone() for t in (problem.train.x, problem.head.weight, problem.head.bias)]
        debiased = method.fit(problem)
        after = (problem.train.x, problem.head.weight, problem.head.bias)
        assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True)), "the problem was changed"
        logits = debiased(problem.val.x, problem.val.a)
        assert logits.shape == (len(problem.val), problem.n_classes)
        assert logits.isfinite().all()
        torch.testing.assert_close(logits, method.fit(problem)(problem.val.x, problem.val.a))
        debiased.save(tmp_path / "saved")
        torch.testing.assert_close(Debiased.load(tmp_path / "saved")(problem.val.x, problem.val.a), logits)
    assert len(skipped) < len(problems), skipped


def test_method_needs_one_class(two_classes: Problem) -> None:
    @options
    class Scaled(Method):
        factor: Annotated[float, Gt(0)] = 2.0

        def fit(self, problem: Problem) -> Debiased:
            head = copy.deepcopy(problem.head)
            head.weight.mul_(self.factor)
            return Debiased(represent=Representation(), head=head)

    method = Scaled(factor=3)
    assert method.skip(two_classes) is None
    assert method.training_data(two_classes) is two_classes.train
    assert (method.uses_attribute_at_test, method.small) == (False, {})
    torch.testing.assert_close(method.fit(two_classes).head.weight, 3 * two_classes.head.weight)
    with pytest.raises(ValueError, match=r"^factor is 0, but must be a number > 0$"):
        Scaled(factor=0)


def test_none_changes_nothing(ten_classes: Problem) -> None:
    debiased = make("none").fit(ten_classes)
    assert debiased.fitted_on is None
    torch.testing.assert_close(debiased(ten_classes.val.x), ten_classes.head(ten_classes.val.x))


def test_damaged_file_is_named(tmp_path: Path, ten_classes: Problem) -> None:
    path = tmp_path / "debiased.safetensors"
    make("none").fit(ten_classes).save(path)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="not a saved debiased model"):
        Debiased.load(path)
