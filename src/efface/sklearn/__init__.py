"""The erasers as scikit-learn transformers, with fairlearn's keyword `sensitive_features` for the concept.

    LEACE().fit(X, sensitive_features=sex).transform(X)

In a `Pipeline` or a `ColumnTransformer`, switch on metadata routing and request the keyword:

    sklearn.set_config(enable_metadata_routing=True)
    make_pipeline(LEACE().set_fit_request(sensitive_features=True), LogisticRegression()).fit(
        X, y, sensitive_features=sex)

Or let the concept be columns of X, which are dropped: `LEACE(sensitive_feature_ids=["sex"]).fit(X).transform(X)`.

Data may be numpy arrays, pandas frames, torch tensors or, but for SPLINCE, sparse matrices of scipy; column names are
kept (`set_output`). docs/sklearn.md has examples.
"""

from efface.extras import require

require("sklearn", extra="sklearn", what="efface.sklearn")

from efface.sklearn.transformers import LEACE, RLACE, SAL, SPLINCE, OracleLEACE  # noqa: E402

__all__ = ["LEACE", "RLACE", "SAL", "SPLINCE", "OracleLEACE"]
