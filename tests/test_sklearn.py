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
from efface.sklearn import LEACE, RLACE, SAL, SPLINCE, OracleLEACE


def expected_failures(estimator: Any) -> dict[str, str]:
    if not isinstance(estimator, RLACE):
        return {}
    if estimator.solver == "squared":
        reason = "of these 15 samples of 30 features every direction of the concept is as good: rounding chooses"
        return {"check_sample_weight_equivalence_on_sparse_data": reason}
    reason = "the game ends within `tol` of a stationary point"
    return {f"check_sample_weight_equivalence_on_{kind}_data": reason for kind in ("dense", "sparse")}


@pytest.mark.filterwarnings("ignore:.* erases y itself", "ignore:the concept covaries with")
@parametrize_with_checks(
    [LEACE(), LEACE(shrinkage=False, affine=False), SAL(), SPLINCE(), OracleLEACE(), RLACE(), RLACE(solver="squared")],
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
    model = LogisticRegression(solver="newton-cholesky", tol=1e-10)
    return float(np.abs(model.fit(np.asarray(X), np.asarray(sex)).coef_).max())


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


@pytest.mark.parametrize("strings", [False, True])
def test_splince_keeps_the_covariance_with_y(strings: bool, routing: None) -> None:
    X, y, sex = people()
    y = np.where(np.random.default_rng(1).random(len(y)) < 0.8, y, sex == "male")  # tells of sex, too
    target = np.where(y, "yes", "no") if strings else y
    splince = SPLINCE(shrinkage=False).set_fit_request(sensitive_features=True)
    erased = make_pipeline(StandardScaler(), splince).fit(X, target, sensitive_features=sex).transform(X)
    scaled = StandardScaler().fit_transform(X)
    assert reads(erased, sex) < 1e-6
    kept, before, by_leace = (
        np.cov(v, y, rowvar=False)[:4, 4]
        for v in (erased, scaled, LEACE(shrinkage=False).fit(scaled, sensitive_features=sex).transform(scaled))
    )
    np.testing.assert_allclose(kept, before, atol=1e-12)
    assert np.abs(by_leace - before).max() > 0.01


def test_splince_needs_a_target_that_is_told_from_the_concept() -> None:
    X, y, sex = people()
    with pytest.raises(ValueError, match="SPLINCE requires y to be passed, but the target y is None"):
        SPLINCE().fit(X, sensitive_features=sex)
    with pytest.raises(ValueError, match="degrees apart where x is white, less than min_angle=1"):
        SPLINCE().fit(X, sex == "male", sensitive_features=sex)
    with pytest.raises(ValueError, match="X has 500 samples but y 499"):
        SPLINCE().fit(X, y[:-1], sensitive_features=sex)
    with pytest.raises(ValueError, match="y must not have 1 missing, NaN or infinite values in column 0"):
        SPLINCE().fit(X, np.append(y[:-1], np.nan), sensitive_features=sex)
    with pytest.warns(UserWarning, match="SPLINCE erases y itself"):
        erased = SPLINCE().fit(X, sex).transform(X)
    np.testing.assert_allclose(erased, LEACE().fit(X, sensitive_features=sex).transform(X))


@pytest.mark.filterwarnings("ignore:the concept covaries with 2 directions")
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
    kinds = (LEACE, SAL, SPLINCE, RLACE, OracleLEACE)
    assert all(isinstance(kind(), other) == (kind is other) for kind in kinds for other in kinds)


def test_rlace_transformer_applies_the_rlace_eraser() -> None:
    X, _, sex = people()
    rlace = RLACE(rank=1).fit(X, sensitive_features=sex)
    assert rlace.eraser_.solution.solver == "closed_form"
    assert reads(rlace.transform(X), sex) < 1e-6
    several = np.arange(len(X)) % 4
    X = X.assign(a=X["a"] + (several == 1), c=X["c"] + (several == 2), d=X["d"] + (several == 3))
    for restarts in (0, 2):
        solution = RLACE(rank=1, restarts=restarts).fit(X, sensitive_features=several).eraser_.solution
        assert (solution.solver, solution.starts) == ("game", 2 + restarts)
    with pytest.raises(ValueError, match="must have more than rank = 4"):
        RLACE(rank=4).fit(X, sensitive_features=sex)


# --- What the concept is ---


def mixed(n: int = 2000) -> tuple[np.ndarray, pd.DataFrame]:
    rng = np.random.default_rng(0)
    concepts = pd.DataFrame(
        {
            "race": rng.integers(0, 5, n),
            "age": rng.uniform(18, 90, n),
            "sex": rng.choice(["f", "m"], n),
            "vip": rng.random(n) < 0.3,
        }
    )
    X = rng.normal(size=(n, 20))
    X[:, 0] += 3 * (concepts["race"] == 2)
    X[:, 1] += concepts["age"] / 20
    X[:, 2] += 2 * (concepts["sex"] == "m")
    X[:, 3] += 2 * concepts["vip"]
    return X, concepts


@pytest.mark.parametrize(
    ("names", "rank"), [(["race"], 4), (["race", "age"], 5), (["sex", "age"], 2), (["race", "sex", "age", "vip"], 7)]
)
def test_each_column_of_a_frame_is_read_by_its_own_dtype(names: list[str], rank: int) -> None:
    """Covers faults A2: integer codes beside a float column became numbers."""
    X, concepts = mixed()
    for frame in (concepts, concepts.convert_dtypes(), concepts.astype(object), concepts.astype({"sex": "category"})):
        leace = LEACE().fit(X, sensitive_features=frame[names])
        assert leace.eraser_.rank == rank
        erased = leace.transform(X)
        for name in names:
            if name == "age":
                assert abs(np.corrcoef(erased[:, 1], concepts["age"])[0, 1]) < 1e-12
            else:
                assert reads(erased, concepts[name] == concepts[name].iloc[0]) < 1e-6
    rows = [list(row) for row in concepts[names].itertuples(index=False)]
    np.testing.assert_allclose(LEACE().fit(X, sensitive_features=rows).transform(X), erased)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (["f", 1, 2.5, "m"], "hold float and int and str values in column 0"),
        ([None, "f", "m", "f"], "1 missing"),
        ([float("nan"), "f", "m", "f"], "1 missing"),
        ([pd.NA, "f", "m", pd.NA], "2 missing"),
        (np.array([0, np.inf, 1, 1]), "1 missing, NaN or infinite values in column 0"),
        (pd.Series([1, None, 2, 1], dtype="Int64"), "1 missing"),
        (np.array([1j, 2, 3, 4]), "dtype complex128"),
        (np.array(["2020-01-01"] * 4, dtype="M8[D]"), "dtype datetime64"),
        (pd.DataFrame(index=range(4)), "no columns"),
    ],
)
def test_concept_that_cannot_be_read_is_refused(values: Any, message: str) -> None:
    """Covers faults B1: None and NaN among strings became the categories 'None' and 'nan'."""
    with pytest.raises(ValueError, match=message):
        LEACE().fit(np.eye(4), sensitive_features=values)


@pytest.mark.parametrize(
    ("fitted", "given", "message"),
    [
        (["A", "B"], ["AB", "B"], r"hold \['AB'\]"),
        (["fem", "mal"], ["female", "mal"], r"hold \['female'\]"),
        ([0, 1], [0.7, 1.0], r"hold \[0.7\]"),
        ([0, 1], [2, 1], r"hold \[2\]"),
        ([0, 1], ["0", "1"], r"hold \['0', '1'\]"),
        (["0", "1"], [0, 1], r"hold \[0, 1\]"),
        ([True, False], [7, 0], r"hold \[7\]"),
        ([0.5, 1.5], ["a", "b"], "hold strings in column 0, which held numbers in fit"),
    ],
)
def test_unseen_categories_are_compared_before_any_cast(fitted: list[Any], given: list[Any], message: str) -> None:
    """Covers faults B1: "AB" was cut to "A", and 0.7 to 0."""
    X = np.random.default_rng(0).normal(size=(40, 4))
    oracle = OracleLEACE().fit(X, sensitive_features=fitted * 20)
    expected = oracle.transform(X, sensitive_features=fitted * 20)
    np.testing.assert_allclose(oracle.transform(X, sensitive_features=np.array(fitted * 20)), expected)
    with pytest.raises(ValueError, match=message):
        oracle.transform(X, sensitive_features=given * 20)


def test_concepts_of_unlike_units_are_both_erased_in_float32() -> None:
    """Covers audit A4: `sensitive_features=[income, sex]` left sex where it was in float32."""
    rng = np.random.default_rng(0)
    sex = rng.integers(0, 2, 3000)
    income = 30_000 + 20_000 * rng.normal(size=3000) + 5000 * sex
    X = rng.normal(size=(3000, 8))
    X[:, 0] += 2 * sex
    X[:, 1] += income / 20_000
    X = X.astype(np.float32)
    both = pd.DataFrame({"income": income, "sex": sex})
    for transformer in (LEACE(), SAL(), OracleLEACE()):
        kwargs = {"sensitive_features": both} if isinstance(transformer, OracleLEACE) else {}
        erased = transformer.fit(X, sensitive_features=both).transform(X, **kwargs)
        left = np.corrcoef(erased.astype(np.float64), both.to_numpy(), rowvar=False)[:8, 8:]
        assert np.abs(left).max() < 1e-5


def test_pipeline_without_the_attribute_warns_that_it_erases_the_target() -> None:
    """Covers faults C9: the accuracy of such a pipeline was 0.518."""
    X, y, _ = people()
    with pytest.warns(UserWarning, match="LEACE erases y itself, the target, as no sensitive_features were given"):
        make_pipeline(StandardScaler(), LEACE(), LogisticRegression()).fit(X, y)
