"""What people hand to the transformers of scikit-learn: sparse matrices, text, columns that are the concept, a part."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder

from efface.sklearn import LEACE, RLACE, SAL, SPLINCE, OracleLEACE


def people(n: int = 600) -> tuple[pd.DataFrame, pd.Series]:
    rng = np.random.default_rng(0)
    sex = pd.Series(rng.choice(["f", "m"], n), name="sex")
    frame = pd.DataFrame(rng.normal(size=(n, 3)), columns=list("abc"))
    frame["a"] += 2 * (sex == "m")
    frame["job"] = np.where(rng.random(n) < 0.2, rng.choice(list("xyz"), n), np.where(sex == "m", "x", "y"))
    return frame, sex


def one_hot(n: int = 600) -> tuple[Any, pd.Series]:
    frame, sex = people(n)
    coded = frame[list("abc")].apply(lambda column: (4 * column).round())
    return OneHotEncoder(min_frequency=10).fit_transform(pd.concat([coded, frame["job"]], axis=1)), sex


@pytest.mark.parametrize("transformer", [LEACE(), SAL(), OracleLEACE(), RLACE(), RLACE(solver="squared")], ids=repr)
def test_one_hot_matrix_is_read_as_it_is(transformer: Any) -> None:
    x, sex = one_hot()
    assert sparse.issparse(x)
    ours = transformer.fit(x, sensitive_features=sex).transform(x)
    expected = transformer.fit(x.toarray(), sensitive_features=sex).transform(x.toarray())
    assert isinstance(ours, np.ndarray)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_sparse_matrix_is_never_formed_in_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    x, sex = one_hot()
    wide = sparse.csr_matrix(x)
    shapes = []
    toarray = sparse.csr_matrix.toarray
    kinds = {type(wide), type(wide.T @ wide), sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix, sparse.csc_array}
    for kind in kinds:
        monkeypatch.setattr(kind, "toarray", lambda self, *args, **kw: shapes.append(self.shape) or toarray(self))
    LEACE().fit(wide, sensitive_features=sex)
    assert shapes == [(x.shape[1], x.shape[1])]


def test_splince_refuses_a_sparse_matrix() -> None:
    x, sex = one_hot()
    with pytest.raises(TypeError, match=r"[Ss]parse"):
        SPLINCE().fit(x, np.arange(600) % 2, sensitive_features=sex)


def test_large_sparse_matrix_is_transformed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("efface.sklearn.base._CHUNK_BYTES", 8 * 7 * 40)
    x, sex = one_hot()
    for transformer in (LEACE(), OracleLEACE()):
        transformer.fit(x, sensitive_features=sex)
        options = {"sensitive_features": sex} if isinstance(transformer, OracleLEACE) else {}
        np.testing.assert_allclose(transformer.transform(x, **options), transformer.transform(x.toarray(), **options))


def test_output_is_in_the_dtype_asked_for() -> None:
    x, sex = one_hot()
    expected = LEACE().fit(x, sensitive_features=sex).transform(x)
    for features in (x, x.toarray()):
        narrow = LEACE(dtype="float32").fit(features, sensitive_features=sex).transform(features)
        assert narrow.dtype == np.float32
        np.testing.assert_allclose(narrow, expected, atol=1e-6)
    with pytest.raises(ValueError, match="dtype is 'int8', but must be 'float32', 'float64' or None"):
        LEACE(dtype="int8").fit(x, sensitive_features=sex)  # type: ignore[arg-type]


def test_columns_of_text_are_refused_with_advice() -> None:
    frame, sex = people()
    advice = r"X has columns of text, \['job'\], but an eraser moves numbers: encode them first, for instance"
    for text in (frame, frame.astype({"job": "category"}), frame.astype({"job": "string"})):
        with pytest.raises(ValueError, match=advice):
            LEACE().fit(text, sensitive_features=sex)
    encode = make_column_transformer((OneHotEncoder(sparse_output=False), ["job"]), remainder="passthrough")
    erased = LEACE().fit_transform(encode.fit_transform(frame), sensitive_features=sex)
    assert erased.shape == (600, 6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_part_of_the_concept_is_erased(alpha: float) -> None:
    frame, sex = people()
    x = frame[list("abc")]
    for kind in (LEACE, SAL, OracleLEACE, RLACE):
        whole = kind().fit_transform(x, sensitive_features=sex)
        part = kind(alpha=alpha).fit_transform(x, sensitive_features=sex)
        np.testing.assert_allclose(part, alpha * whole + (1 - alpha) * x, atol=1e-12)


@pytest.mark.parametrize("alpha", [-0.1, 1.1, np.nan, "half", None, True])
def test_alpha_out_of_range_is_refused(alpha: Any) -> None:
    frame, sex = people()
    with pytest.raises(ValueError, match=r"alpha is .*, but must lie in \[0, 1\]"):
        LEACE(alpha=alpha).fit(frame[list("abc")], sensitive_features=sex)


@pytest.mark.parametrize("alpha", [0.25, 1.0])
def test_oracle_equals_the_correlation_remover_of_fairlearn(alpha: float) -> None:
    preprocessing = pytest.importorskip("fairlearn.preprocessing")
    frame, sex = people()
    rng = np.random.default_rng(1)
    x = frame[list("abc")].assign(sex=(sex == "m").astype(float), age=rng.uniform(18, 90, 600))
    x["b"] += x["age"] / 20
    x[["d", "e"]] = rng.normal(size=(600, 2))
    remover = preprocessing.CorrelationRemover(sensitive_feature_ids=["sex", "age"], alpha=alpha)
    oracle = OracleLEACE(sensitive_feature_ids=["sex", "age"], alpha=alpha)
    np.testing.assert_allclose(oracle.fit_transform(x), np.asarray(remover.fit(x).transform(x)), atol=1e-10)


@pytest.mark.parametrize("kind", [LEACE, SAL, OracleLEACE, RLACE])
def test_named_columns_are_the_concept_and_are_dropped(kind: Any) -> None:
    frame, sex = people()
    x = frame[list("abc")]
    expected = kind().fit_transform(x, sensitive_features=sex)
    with_sex = pd.concat([x[["a"]], sex, x[["b", "c"]]], axis=1)
    transformer = kind(sensitive_feature_ids=["sex"]).set_output(transform="pandas")
    erased = transformer.fit_transform(with_sex)
    assert list(erased.columns) == ["a", "b", "c"]
    assert transformer.n_features_in_ == 4
    np.testing.assert_allclose(erased, expected)
    coded = np.column_stack([x["a"], sex == "m", x[["b", "c"]]])
    for features in (coded, coded.tolist()):
        np.testing.assert_allclose(kind(sensitive_feature_ids=[1]).fit_transform(features), expected, atol=1e-12)
    if kind is not RLACE:  # whose rounding of a sparse matrix is that of float64 sums about zero
        np.testing.assert_allclose(
            kind(sensitive_feature_ids=[1]).fit_transform(sparse.csr_matrix(coded)), expected, atol=1e-6
        )


def test_named_columns_work_in_a_pipeline_without_routing() -> None:
    frame, sex = people()
    x = pd.concat([frame[list("abc")], sex], axis=1)
    pipeline = make_pipeline(LEACE(sensitive_feature_ids=["sex"]), LogisticRegression()).fit(x, frame["job"] == "x")
    assert pipeline[-1].n_features_in_ == 3
    assert pipeline.predict(x).shape == (600,)


def test_splince_takes_named_columns() -> None:
    frame, sex = people()
    x, y = frame[list("abc")], (frame["b"] + frame["a"] > 1).to_numpy()
    expected = SPLINCE().fit(x, y, sensitive_features=sex).transform(x)
    both = pd.concat([x, sex], axis=1)
    np.testing.assert_allclose(SPLINCE(sensitive_feature_ids=["sex"]).fit(both, y).transform(both), expected)


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (["race"], r"hold 'race', which is no column of X: its columns are \['a', 'b', 'c', 'sex'\]"),
        ([7], "hold 7, which is no column of X"),
        (["sex", 3], r"are \['sex', 3\], which name a column twice"),
        (["a", "b", "c", "sex"], "name all 4 columns of X: nothing is left"),
        ("sex", r"is 'sex', but must be a list: give \['sex'\]"),
    ],
)
def test_columns_that_cannot_be_the_concept_are_refused(ids: Any, message: str) -> None:
    frame, sex = people()
    with pytest.raises(ValueError, match=f"sensitive_feature_ids {message}"):
        LEACE(sensitive_feature_ids=ids).fit(pd.concat([frame[list("abc")], sex], axis=1))


def test_concept_is_given_once_and_by_name_or_number() -> None:
    frame, sex = people()
    with pytest.raises(ValueError, match="sensitive_features and sensitive_feature_ids are both given"):
        LEACE(sensitive_feature_ids=["a"]).fit(frame[list("abc")], sensitive_features=sex)
    with pytest.raises(ValueError, match="its columns are 0 … 2, without names"):
        LEACE(sensitive_feature_ids=["a"]).fit(frame[list("abc")].to_numpy())
