import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tests.unlearning.certified.models import ROOMY, D, model, samples, true_residual

from efface.unlearning.certified.removal import CertifiedLogisticRegression


@pytest.mark.parametrize("budget", ["bound", "measured"])
def test_saved_model_can_go_on_removing(budget: str, tmp_path: Path) -> None:
    x, y = samples()
    fitted = model(budget=budget, **ROOMY)
    fitted.remove([0, 7, 399])
    fitted.save(tmp_path / "model")
    rest = fitted.remaining
    loaded = CertifiedLogisticRegression.load(tmp_path / "model", x[rest], y[rest])
    assert torch.equal(loaded.logits(x), fitted.logits(x))
    assert loaded.spent == fitted.spent
    assert loaded.gradient_norm() >= fitted.gradient_norm()
    B = fitted.debug_state().perturbation  # which the loaded model does not know
    for i in range(10, 40):
        loaded.remove([i])
        assert true_residual(loaded, B, 2, loaded.remaining) <= loaded.spent - loaded.tol + 1e-12
        assert loaded.gradient_norm() <= loaded.spent - loaded.tol + 1e-12
    assert loaded.remaining.tolist() == [i for i in rest.tolist() if not 10 <= i < 40]
    loaded.retrain()
    assert loaded.spent <= 2 * loaded.tol


def test_file_holds_neither_data_nor_perturbation_nor_residual(tmp_path: Path) -> None:
    fitted = model()
    fitted.remove([5])
    fitted.save(tmp_path / "model")
    with safe_open(tmp_path / "model", framework="pt") as file:
        assert sorted(file.keys()) == ["remaining", "theta"]
        assert file.get_tensor("theta").shape == (D + 1, 1)
        told = json.loads(file.metadata()["facts"])
    assert all(not isinstance(value, list) for value in told.values())
    content = (tmp_path / "model").read_bytes()
    for secret in (fitted.debug_state().perturbation, fitted.debug_state().gradient, fitted.debug_state().rows[0]):
        assert secret.numpy().tobytes()[:8] not in content


def test_loading_asks_for_the_samples_that_are_left(tmp_path: Path) -> None:
    x, y = samples()
    fitted = model()
    fitted.remove([5])
    fitted.save(tmp_path / "model")
    rest = fitted.remaining
    predictor = CertifiedLogisticRegression.load(tmp_path / "model")
    assert torch.equal(predictor.predict(x), fitted.predict(x))
    assert torch.equal(predictor.remaining, rest)
    with pytest.raises(RuntimeError, match="loaded without its samples"):
        predictor.remove([0])
    other = rest.clone()
    other[[0, 1]] = other[[1, 0]]
    changed = x[rest].clone()
    changed[3, 3] += 1e-6
    for bad_x, bad_y in ((x, y), (x[other], y[other]), (changed, y[rest]), (x[rest], 1 - y[rest])):
        with pytest.raises(ValueError, match="`remaining`"):
            CertifiedLogisticRegression.load(tmp_path / "model", bad_x, bad_y)
    (tmp_path / "model").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is not a saved CertifiedLogisticRegression"):
        CertifiedLogisticRegression.load(tmp_path / "model")
