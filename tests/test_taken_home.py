"""Models trained elsewhere, debiased here and taken home: each by its owner's code, with the bias of its record."""

import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.export.networks import QUICK, coloured_digits, train
from torch import Tensor
from torchvision.models import resnet18

import efface
from efface.export.__main__ import export
from efface.verify.verify import verify

TRAIN, VAL, TEST = slice(0, 900), slice(900, 1100), slice(1100, 1500)


def onnx_logits(file: Path, **inputs: Tensor) -> Tensor:
    import onnxruntime

    session = onnxruntime.InferenceSession(file)
    return torch.from_numpy(session.run(["logits"], {name: x.numpy() for name, x in inputs.items()})[0])


def parity(predicted: np.ndarray, a: np.ndarray) -> float:
    """The difference of the shares that the two groups are predicted the second class, without its sign."""
    return abs(float(predicted[a == 1].mean() - predicted[a == 0].mean()))


def require_verified(folder: Path) -> None:
    checks = list(verify(folder, run_programs=True))
    assert [check for check in checks if check.holds is False] == []
    assert sum(check.holds is True for check in checks) >= 5


@pytest.mark.slow
def test_resnet_of_torchvision(tmp_path: Path) -> None:
    x, y, a = coloured_digits(1500)
    torch.manual_seed(0)
    network = train(resnet18(num_classes=2), x[TRAIN], y[TRAIN], epochs=3)
    data = {name: (x[rows], y[rows], a[rows]) for name, rows in (("train", TRAIN), ("val", VAL), ("test", TEST))}
    debiased = efface.debias(network, data, "leace", evaluation=QUICK, progress=False)
    saved = debiased.save(tmp_path / "saved")
    graph = export(saved, "onnx") / "model.onnx"
    weights = load_file(export(saved, "safetensors") / "model.safetensors")

    own = resnet18(num_classes=2)
    own.load_state_dict(weights)
    with torch.no_grad():
        logits = own.eval()(x[TEST])
        torch.testing.assert_close(logits, debiased(x[TEST]), atol=1e-5, rtol=0)
    torch.testing.assert_close(onnx_logits(graph, x=x[TEST]), logits, atol=1e-5, rtol=1e-5)
    assert {n for n, t in weights.items() if not torch.equal(t, network.state_dict()[n])} == {"fc.weight", "fc.bias"}
    by_hand = parity(logits.argmax(1).numpy(), a[TEST].numpy())
    assert abs(debiased.metrics["statistical_parity_difference"]) == pytest.approx(by_hand, abs=1e-6)
    assert debiased.before is not None
    assert by_hand < abs(debiased.before.metrics["statistical_parity_difference"])
    for folder in (saved, graph.parent):
        require_verified(folder)


def adult() -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """The numbers of UCI Adult, sex among them, as a person reads them."""
    names = "age workclass fnlwgt education years marital occupation relationship race sex gain loss hours country"
    file = Path(os.environ["DATA_DIR"]) / "adult" / "adult.data"
    table = pd.read_csv(file, names=[*names.split(), "income"], skipinitialspace=True)
    sex = table["sex"].str.strip().to_numpy(str)
    numbers = table[["age", "fnlwgt", "years", "gain", "loss", "hours"]].assign(male=sex == "Male").astype(float)
    return numbers, table["income"].str.strip().to_numpy(str), sex


@pytest.mark.slow
@pytest.mark.skipif("DATA_DIR" not in os.environ, reason="set DATA_DIR to a folder with adult/")
def test_pipeline_of_scikit_learn_on_adult(tmp_path: Path) -> None:
    from skops import io

    x, y, sex = adult()
    pipeline = make_pipeline(StandardScaler(), LogisticRegression()).fit(x[:20000], y[:20000])
    cut = {"train": slice(0, 20000), "val": slice(20000, 24000), "test": slice(24000, len(x))}
    data = {name: (x[rows], y[rows], sex[rows]) for name, rows in cut.items()}
    debiased = efface.debias(pipeline, data, "leace", evaluation=QUICK, progress=False)
    saved = debiased.save(tmp_path / "saved")
    file = export(saved, "sklearn") / "model.skops"
    own = io.load(file, trusted=io.get_untrusted_types(file=file))
    rows = x[cut["test"]]
    np.testing.assert_allclose(own.predict_proba(rows), debiased(rows).double().softmax(1), atol=1e-5)
    by_hand = parity(own.predict(rows) == ">50K", (sex[cut["test"]] == "Male").astype(int))
    assert abs(debiased.metrics["statistical_parity_difference"]) == pytest.approx(by_hand, abs=1e-6)
    assert debiased.before is not None
    before = parity(pipeline.predict(rows) == ">50K", (sex[cut["test"]] == "Male").astype(int))
    assert abs(debiased.before.metrics["statistical_parity_difference"]) == pytest.approx(before, abs=1e-6)
    assert by_hand < before / 2
    columns = torch.from_numpy(own[:-1].transform(rows).astype(np.float32))
    logits = onnx_logits(export(saved, "onnx") / "model.onnx", x=columns)
    torch.testing.assert_close(logits, debiased(rows), atol=1e-5, rtol=1e-5)
    require_verified(saved)


@pytest.mark.slow
def test_classifier_of_transformers(tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    network = BertForSequenceClassification(BertConfig(vocab_size=60, num_labels=2, **sizes)).eval()
    ids, a = torch.randint(2, 60, (1500, 12)), torch.arange(1500) % 2
    y = torch.where(torch.rand(1500) < 0.85, a, 1 - a)
    ids[:, 0], ids[:, 1] = 1, torch.where(a == 1, 2 + ids[:, 1] % 10, 12 + ids[:, 1] % 48)
    x = {"input_ids": ids, "attention_mask": (torch.arange(12) < torch.randint(8, 13, (1500, 1))).long()}
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for rows in torch.arange(900).repeat(6).split(100):
        loss = network(**{name: t[rows] for name, t in x.items()}, labels=y[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def part(rows: slice) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        return {name: t[rows] for name, t in x.items()}, y[rows], a[rows]

    data = {"train": part(TRAIN), "val": part(VAL), "test": part(TEST)}
    debiased = efface.debias(network.eval(), data, "leace", evaluation=QUICK, progress=False)
    saved = debiased.save(tmp_path / "saved")
    own = AutoModelForSequenceClassification.from_pretrained(export(saved, "transformers")).eval()
    inputs, _, attribute = data["test"]
    with torch.no_grad():
        logits = own(**inputs).logits
        torch.testing.assert_close(debiased(**inputs).logits, logits, atol=1e-5, rtol=0)
    graph = export(saved, "onnx") / "model.onnx"
    torch.testing.assert_close(onnx_logits(graph, **inputs), logits, atol=1e-5, rtol=1e-5)
    shorter = {name: t[:3, :9] for name, t in inputs.items()}
    with torch.no_grad():
        torch.testing.assert_close(onnx_logits(graph, **shorter), own(**shorter).logits, atol=1e-5, rtol=1e-5)
    by_hand = parity(logits.argmax(1).numpy(), attribute.numpy())
    assert abs(debiased.metrics["statistical_parity_difference"]) == pytest.approx(by_hand, abs=1e-6)
    require_verified(saved)
