from pathlib import Path

import pytest
from tests.conftest import CONF

from efface.metrics import METRICS
from efface.report import published, render, table
from efface.report.records import collect

HEADER = ",".join(published.COLUMNS)
UNBIASED = "unbiased acc."
HEADINGS = {metric.key: metric.heading for metric in METRICS}
UNMEASURED = {"v_measure", "seat", "accuracy_above_majority"}
"""What is quoted beside metrics, and perhaps measured nowhere here."""


def numbers(tmp_path: Path, *lines: str) -> tuple[published.Published, ...]:
    path = tmp_path / "published.csv"
    path.write_text("\n".join([HEADER, *lines]) + "\n")
    return published.read(path)


def test_a_published_number_stands_beside_ours_with_the_difference(results: Path, tmp_path: Path) -> None:
    runs = collect(results).runs
    quoted = numbers(
        tmp_path,
        "none,colored_mnist_mini bias_ratio=0.950,unbiased_accuracy,0.6,0.01,A paper,table 1,row 2",
        "leace refit_head=true,colored_mnist_mini variant=lff bias_ratio=0.95,unbiased_accuracy,0.9,,A paper,table 2,3",
        "leace,other_data,unbiased_accuracy,0.7,,Another paper,table 4,row 1",
        "none,colored_mnist_mini bias_ratio=0.95 model=resnet50,unbiased_accuracy,0.2,,A paper,table 3,row 1",
        "none,colored_mnist_mini bias_ratio=0.95 model=mlp training=erm,accuracy,0.65,,A paper,table 3,row 1",
        "jtt,colored_mnist_mini bias_ratio=0.95,unbiased_accuracy,0.5,,A paper,table 1,row 9",
        "none,colored_mnist_mini bias_ratio=0.95 variant=rebias,unbiased_accuracy,0.1,,A paper,table 2,row 1",
    )
    made = table.build(runs, published=quoted)
    ours = "colored_mnist_mini bias_ratio=0.95"
    theirs, difference = (ours, f"{UNBIASED}, published"), (ours, f"{UNBIASED}, difference")
    assert made.cell("none", theirs).text == "0.600 ± 0.010"
    assert made.cell("none", theirs).note == "A paper, table 1, row 2"
    mean = runs.loc[runs["method"] == "none", "unbiased_accuracy"].mean()
    assert made.cell("none", difference).text == f"{mean - 0.6:+.3f}"
    assert made.cell("leace refit_head=true", difference).text.startswith("−0.")
    assert made.cell("leace refit_head=false", theirs).text == ""
    # What was not run has a row or a column of its own, and another variant is not ours.
    assert made.cell("jtt", theirs).text == "0.500"
    assert made.cell("leace refit_head=false", ("other_data", f"{UNBIASED}, published")).text == "0.700"
    assert (
        made.cell("none", ("colored_mnist_mini bias_ratio=0.95 variant=rebias", f"{UNBIASED}, published")).text
        == "0.100"
    )
    assert made.cell("none", (ours, "accuracy, published")).text == "0.650"
    deeper = "colored_mnist_mini bias_ratio=0.95 model=resnet50"
    assert made.cell("none", (deeper, f"{UNBIASED}, published")).text == "0.200"
    assert made.columns.index(theirs) == made.columns.index((ours, f"{UNBIASED} ↑")) + 1
    assert 'title="A paper, table 1, row 2"' in render.to_html(made)
    assert "difference: ours minus published" in " ".join(made.caption)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("none,d,accuracy,high,,S,T,C", "line 2: could not convert string to float: 'high'"),
        ("none,d,accuracy,nan,,S,T,C", "line 2: 'nan' is not finite"),
        ("none,d,accuracy,0.5,,,T,C", "line 2: no source: what has none is not quoted"),
        ("none,d,accuracy,0.5,,S,,C", "line 2: no table"),
        ("none,d,accuracy,0.5,,S,T, ", "line 2: no cell"),
    ],
)
def test_bad_lines_are_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        numbers(tmp_path, line)


def test_other_columns_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "published.csv"
    with pytest.raises(FileNotFoundError):
        published.read(path)
    path.write_text("a,b\n")
    with pytest.raises(ValueError, match="must have the columns method, dataset"):
        published.read(path)


@pytest.mark.parametrize(
    "path", sorted((CONF.parent / "experiments").glob("*/published.csv")), ids=lambda p: p.parent.name
)
def test_every_experiments_numbers_can_be_read_and_are_in_our_units(path: Path) -> None:
    numbers = published.read(path)
    assert len(set(numbers)) == len(numbers) > 0
    for number in numbers:
        assert number.metric in HEADINGS | dict.fromkeys(UNMEASURED), number.text
        bits = "bits" in HEADINGS.get(number.metric, "")
        assert abs(number.value) <= (10 if bits else 2), number.text
