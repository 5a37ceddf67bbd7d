from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

import efface
from efface.sklearn import LEACE, RLACE, SAL, OracleLEACE


def expected_failures(estimator: Any) -> dict[str, str]:
    if not isinstance(estimator, RLACE) or estimator.solver != "auto":
        return {}
    return {"check_sample_weight_equivalence_on_dense_data": "the game ends within `tol` of a stationary point"}


@parametrize_with_checks(
    [LEACE(), LEACE(shrinkage=False, affine=False), SAL(), OracleLEACE(), RLACE(), RLACE(solver="squared")],
    expected_failed_checks=expected_failures,
)
def test_transformers_pass_the_checks_of_scikit_learn(estimator: Any, check: Any) -> None:
    check(estimator)


@pytest.fixture
def routing() -> Iterator[None]:
    with sklearn.config_context(enable_metadata_routing=True):
        yield


def people(n: int = 500) -> tuple[pd.DataFrame, np.ndarray, pd.Series]:
    rng = np.random.default_rng(0)
    sex = pd.Series(rng.choice(["female", "male"], n), name="sex")
    y = rng.integers(0, 2, n)
    frame = pd.DataFrame(rng.normal(size=(n, 4)), columns=list("abcd"))
    frame["a"] += 2 * (sex == "male")
    frame["b"] += 2 * y
    return frame, y, sex


def reads(X: Any, sex: Any) -> float:
    return float(np.abs(LogisticRegression(tol=1e-10).fit(np.asarray(X), np.asarray(sex)).coef_).max())


@pytest.mark.parametrize("transformer", [LEACE(), SAL(), OracleLEACE(), RLACE()])
def test_transformers_take_numpy_pandas_and_torch(transformer: Any) -> None:
    X, _, sex = people()
    assert reads(X, sex) > 1
    as_numpy = transformer.fit_transform(X.to_numpy(), sensitive_features=sex)
    assert reads(as_numpy, sex) < 1e-6
    as_torch = transformer.fit_transform(torch.from_numpy(X.to_numpy()), sensitive_features=torch.tensor(sex == "male"))
    np.testing.assert_allclose(as_torch, as_numpy)
    framed = transformer.set_output(transform="pandas").fit_transform(X, sensitive_features=sex)
    assert list(framed.columns) == list("abcd")
    assert (framed.index == X.index).all()
    np.testing.assert_allclose(framed, as_numpy)


def test_leace_transformer_applies_the_leace_eraser() -> None:
    X, _, sex = people()
    x, z = torch.from_numpy(X.to_numpy()), torch.tensor((sex == "male").to_numpy()).double()
    for shrinkage in (True, "correlation"):
        erased = LEACE(shrinkage=shrinkage).fit(X, sensitive_features=sex).transform(X)
        np.testing.assert_allclose(erased, efface.LeaceEraser.fit(x, z, shrinkage=shrinkage)(x))


def test_several_columns_are_erased_jointly() -> None:
    X, y, sex = people()
    both = pd.DataFrame({"sex": sex, "y": y, "age": X["c"] + np.random.default_rng(1).normal(size=len(X))})
    erased = LEACE().fit_transform(X, sensitive_features=both[["sex", "y"]])
    assert reads(erased, sex) < 1e-6
    assert reads(erased, y) < 1e-6
    erased = LEACE().fit_transform(X, sensitive_features=both["age"])  # continuous
    assert np.abs(np.cov(erased, both["age"], rowvar=False)[:4, 4]).max() < 1e-12


def test_pipeline_routes_the_attribute(routing: None) -> None:
    X, y, sex = people()
    pipeline = make_pipeline(
        StandardScaler(), LEACE().set_fit_request(sensitive_features=True), LogisticRegression()
    ).fit(X, y, sensitive_features=sex)
    assert reads(pipeline[:-1].transform(X), sex) < 1e-6
    assert pipeline.score(X, y) > 0.8
    oracle = OracleLEACE().set_fit_request(sensitive_features=True).set_transform_request(sensitive_features=True)
    erased = make_pipeline(StandardScaler(), oracle).fit(X, sensitive_features=sex)
    assert reads(erased.transform(X, sensitive_features=sex), sex) < 1e-6


def test_grid_search_routes_the_attribute_to_every_fold(routing: None) -> None:
    X, y, sex = people()
    pipeline = make_pipeline(LEACE().set_fit_request(sensitive_features=True), LogisticRegression())
    search = GridSearchCV(pipeline, {"leace__shrinkage": [True, False], "logisticregression__C": [0.1, 1.0]}, cv=3)
    search.fit(X, y, sensitive_features=sex)
    assert search.best_score_ > 0.75
    assert reads(search.best_estimator_[:-1].transform(X), sex) < 1e-6


def test_column_transformer_erases_some_columns(routing: None) -> None:
    X, _, sex = people()
    columns = ColumnTransformer(
        [("erase", LEACE().set_fit_request(sensitive_features=True), ["a", "c"])], remainder="passthrough"
    )
    columns.set_output(transform="pandas")
    erased = columns.fit_transform(X, sensitive_features=sex)
    assert list(erased.columns) == ["erase__a", "erase__c", "remainder__b", "remainder__d"]
    assert reads(erased[["erase__a", "erase__c"]], sex) < 1e-6


def test_oracle_without_the_attribute_falls_back_to_leace() -> None:
    X, _, sex = people()
    oracle = OracleLEACE().fit(X, sensitive_features=sex)
    np.testing.assert_allclose(oracle.transform(X), LEACE().fit(X, sensitive_features=sex).transform(X))
    known = oracle.transform(X, sensitive_features=sex)
    assert np.square(known - X).to_numpy().sum() < np.square(oracle.transform(X) - X).to_numpy().sum()


def test_bad_input() -> None:
    X, _, sex = people()
    with pytest.raises(ValueError, match="X has 500 samples but sensitive_features 499"):
        LEACE().fit(X, sensitive_features=sex[:-1])
    with pytest.raises(ValueError, match="NaN or infinite"):
        LEACE().fit(X, sensitive_features=np.where(sex == "male", np.nan, 1.0))
    with pytest.raises(ValueError, match=r"hold \['other'\], which were not there in fit"):
        OracleLEACE().fit(X, sensitive_features=sex).transform(X, sensitive_features=np.full(500, "other"))
    with pytest.raises(ValueError, match="2 columns, but were fitted with 1"):
        OracleLEACE().fit(X, sensitive_features=sex).transform(X, sensitive_features=np.full((500, 2), "male"))
    with pytest.raises(ValueError, match="give sensitive_features or y"):
        LEACE().fit(X)


def test_transformers_are_no_subclasses_of_one_another() -> None:
    kinds = (LEACE, SAL, RLACE, OracleLEACE)
    assert all(isinstance(kind(), other) == (kind is other) for kind in kinds for other in kinds)


def test_rlace_transformer_applies_the_rlace_eraser() -> None:
    X, _, sex = people()
    rlace = RLACE(rank=1).fit(X, sensitive_features=sex)
    assert rlace.eraser_.solution.solver == "closed_form"
    assert reads(rlace.transform(X), sex) < 1e-6
    with pytest.raises(ValueError, match="must have more than rank = 4"):
        RLACE(rank=4).fit(X, sensitive_features=sex)
