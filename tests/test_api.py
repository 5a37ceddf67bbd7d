"""Models of other people, audited and debiased from Python."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.compose import make_column_transformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from tests.export.networks import QUICK, Small, coloured_digits, train
from torch import Tensor, nn

import efface
from efface.methods.base import NotApplicable
from efface.models.last_layer import HeadError
from efface.record import Record
from efface.tensorfiles import content_digest

Data = tuple[Tensor, Tensor, Tensor]


@pytest.fixture(scope="module")
def digits() -> Data:
    return coloured_digits()


@pytest.fixture(scope="module")
def network(digits: Data) -> nn.Module:
    return train(Small(), *digits[:2])


@pytest.fixture(scope="module")
def table() -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    sex = rng.choice(["f", "m"], 1500)
    x = pd.DataFrame({"age": rng.normal(40, 10, 1500), "job": rng.choice(list("abc"), 1500), "sex": sex})
    wealth = x["age"] / 10 + 2 * (sex == "m") + rng.normal(size=1500)
    return x, np.where(wealth > 5, ">50K", "<=50K"), sex


@pytest.fixture(scope="module")
def pipeline(table: tuple[pd.DataFrame, np.ndarray, np.ndarray]) -> Pipeline:
    columns = make_column_transformer((StandardScaler(), ["age"]), (OneHotEncoder(), ["job", "sex"]))
    return make_pipeline(columns, LogisticRegression()).fit(*table[:2])


def test_audit_measures_with_intervals_and_changes_nothing(network: nn.Module, digits: Data) -> None:
    before, flags = content_digest(network.state_dict()), [p.requires_grad for p in network.parameters()]
    found = efface.audit(network, digits, evaluation={"bootstrap": 50, "mlp_probe": False}, progress=False)
    accuracy, (low, high) = found.metrics["accuracy"], found.intervals["accuracy"]
    assert f"\n  accuracy {accuracy:.3f}  [{low:.3f}, {high:.3f}]\n" in repr(found)
    low, high = found.intervals["unbiased_accuracy"]
    assert low < found.metrics["unbiased_accuracy"] < high
    assert found.reasons["counterfactual_bias"] == "no counterfactual of a sample exists in these data"
    assert content_digest(network.state_dict()) == before
    assert [p.requires_grad for p in network.parameters()] == flags
    assert not network.training


def test_debiased_network_is_of_the_class_that_came_in(network: nn.Module, digits: Data) -> None:
    debiased = efface.debias(network, digits, "leace", refit_head=True, evaluation=QUICK, progress=False)
    assert debiased.before is not None
    assert debiased.metrics["probe_information"] < 0.05 < debiased.before.metrics["probe_information"]
    own = Small()
    own.load_state_dict(debiased.module.state_dict())
    x = digits[0][:20]
    torch.testing.assert_close(own.eval()(x), debiased(x))
    changed = {name for name, t in own.state_dict().items() if not torch.equal(t, network.state_dict()[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    torch.testing.assert_close(debiased(image=x), debiased(x))


def test_counterfactuals_of_all_rows_give_their_bias(pipeline: Pipeline, table: Any) -> None:
    x, y, a = table
    flipped = x.assign(sex=np.where(a == "f", "m", "f"))
    data, options = (x, flipped, y, a, flipped["sex"]), {"evaluation": {**QUICK, "bootstrap": 50}, "progress": False}
    found = efface.audit(pipeline, data, **options)
    change = np.abs(pipeline.predict_proba(x)[:, 1] - pipeline.predict_proba(flipped)[:, 1])
    low, high = found.intervals["counterfactual_bias"]
    assert low < found.metrics["counterfactual_bias"] < high
    assert abs(found.metrics["counterfactual_bias"] - change.mean()) < 4 * change.std() / np.sqrt(len(x) / 5)
    debiased = efface.debias(pipeline, data, "leace", compare=False, **options)
    assert debiased.metrics["counterfactual_bias"] < found.metrics["counterfactual_bias"] / 3
    named = dict.fromkeys(("train", "val"), data) | {"test": (x, y, a)}
    assert efface.audit(pipeline, named, **options).metrics["counterfactual_bias"] is None


def test_one_logit_stays_one(digits: Data) -> None:
    network = train(Small(outputs=1), *digits[:2])
    debiased = efface.debias(network, digits, "leace", evaluation=QUICK, progress=False, compare=False)
    assert debiased.before is None
    assert debiased.folded
    assert debiased(digits[0][:5]).shape == (5, 1)


def test_method_that_needs_the_attribute_asks_for_it(network: nn.Module, digits: Data) -> None:
    x, _, a = digits
    debiased = efface.debias(network, digits, "oracle_leace", evaluation=QUICK, progress=False, compare=False)
    with pytest.raises(ValueError, match="attribute: this model needs"):
        debiased(x[:5])
    assert not torch.allclose(debiased(x[:5], attribute=a[:5]), debiased(x[:5], attribute=1 - a[:5]))
    other = efface.debias(network, digits, "none", evaluation=QUICK, progress=False, compare=False)
    with pytest.raises(ValueError, match="attribute: this model takes no"):
        other(x[:5], attribute=a[:5])


def test_bias_by_hand_is_that_of_the_record(pipeline: Pipeline, table: Any) -> None:
    x, y, a = table
    cut = {"train": slice(0, 900), "val": slice(900, 1100), "test": slice(1100, 1500)}
    data = {name: (x.iloc[rows], y[rows], a[rows]) for name, rows in cut.items()}
    debiased = efface.debias(pipeline, data, "leace", evaluation=QUICK, progress=False)
    rows, test = x.iloc[cut["test"]], a[cut["test"]]
    rich = debiased.estimator.predict(rows) == ">50K"
    by_hand = rich[test == "f"].mean() - rich[test == "m"].mean()
    assert abs(debiased.metrics["statistical_parity_difference"]) == pytest.approx(abs(by_hand), abs=1e-6)
    assert debiased.before is not None
    assert abs(by_hand) < abs(debiased.before.metrics["statistical_parity_difference"]) / 3
    logits = debiased(rows).double()
    np.testing.assert_allclose(logits.softmax(1), debiased.estimator.predict_proba(rows), atol=1e-5)


def test_other_classifiers_of_scikit_learn_are_audited_only(table: Any) -> None:
    x, y, a = table
    numbers = x[["age"]].assign(male=x["sex"] == "m")
    forest = RandomForestClassifier(10, max_depth=4, random_state=0).fit(numbers, y)
    metrics = efface.audit(forest, (numbers, y, a), evaluation=QUICK, progress=False).metrics
    assert metrics["probe_information"] > 0.1
    with pytest.raises(ValueError, match="a RandomForestClassifier without a linear last step: it can be audited"):
        efface.debias(forest, (numbers, y, a), evaluation=QUICK)


def test_columns_of_another_order_or_number_are_named(table: Any) -> None:
    x, y, a = table
    numbers, other = x[["age"]].assign(male=x["sex"] == "m"), np.where(a == "f", "m", "f")
    model = LogisticRegression().fit(numbers, y)
    with pytest.raises(ValueError, match="x has the columns male, age, but the model was fitted on age, male"):
        efface.audit(model, (numbers, numbers[["male", "age"]], y, a, other), evaluation=QUICK)
    with pytest.raises(ValueError, match=r"x has shape \[64, 1\], but the model was fitted on \[n, 2\]"):
        efface.audit(model, (numbers[["age"]].to_numpy(), y, a), evaluation=QUICK)


def test_results_are_kept_where_they_are_asked_for(network: nn.Module, digits: Data, tmp_path: Path) -> None:
    options: dict[str, Any] = {"evaluation": QUICK, "progress": False, "save_dir": tmp_path}
    first = efface.debias(network, digits, "leace", **options)
    records = [Record.read(path) for path in tmp_path.rglob("record.json")]
    assert {record.config["method"]["name"] for record in records} == {"none", "leace"}
    assert all(record.config["model"]["name"] == "Small" for record in records)
    again = efface.debias(network, digits, "leace", **options)
    assert again.record == first.record
    other = copy.deepcopy(network)
    with torch.no_grad():
        other.hidden.weight.mul_(1.1)  # type: ignore[union-attr, operator]
    assert efface.debias(other, digits, "leace", **options).record.id != first.record.id


@pytest.mark.parametrize(
    ("method", "options", "error", "message"),
    [
        ("lease", {}, ValueError, "method is 'lease', but must be one of .*leace"),
        ("leace", {"rank": 2}, ValueError, "method=leace has no option rank: its options are .*refit_head"),
        ("leace", {"rtol": 2.0}, ValueError, "method.rtol is 2.0, but must be a number > 0"),
        ("fmd", {"evaluation": {"probes": 1}}, ValueError, "evaluation=default has no option probes"),
        ("fmd", {"seed": -1}, ValueError, "seed is -1"),
        ("fmd", {"head": "hiden"}, HeadError, "head=hiden: the module has no such layer"),
        ("unaware", {}, NotApplicable, "method=unaware: "),
    ],
)
def test_wrong_options_are_named(
    network: nn.Module, digits: Data, method: str, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        efface.debias(network, digits, method, **{"compare": False, "progress": False, "evaluation": QUICK, **options})


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.ReLU()), HeadError, "no nn.Linear"),
        ("resnet18", TypeError, "model is a str, but must be an nn.Module or a fitted scikit-learn classifier"),
        (LogisticRegression(), ValueError, "LogisticRegression that has no classes_: fit it first"),
    ],
)
def test_models_without_a_head_are_refused(model: Any, error: type[Exception], message: str, digits: Data) -> None:
    with pytest.raises(error, match=message):
        efface.audit(model, digits, evaluation=QUICK)
