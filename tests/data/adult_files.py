"""Files in the layout of UCI Adult, with made-up people: income depends on education, and so does nothing on sex but
the relationship, the hours, and the occupation."""

from pathlib import Path

import numpy as np

EDUCATION = (
    *("Preschool", "1st-4th", "5th-6th", "7th-8th", "9th", "10th", "11th", "12th", "HS-grad", "Some-college"),
    *("Assoc-voc", "Assoc-acdm", "Bachelors", "Masters", "Prof-school", "Doctorate"),
)
"""By education-num, from 1."""


def people(n: int, seed: int) -> list[list[str]]:
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(n):
        male = rng.random() < 0.67
        white = rng.random() < 0.85
        married = rng.random() < (0.6 if male else 0.3)
        years = int(rng.integers(3, 17))
        hours = int(np.clip(rng.normal(42 if male else 36, 8), 1, 99))
        rich = rng.random() < 1 / (1 + np.exp(-(years - 12 + 2 * married + (hours - 40) / 10)))
        occupation = rng.choice(["Sales", "Craft-repair"], p=[0.4, 0.6] if male else [0.9, 0.1])
        country = rng.choice(["United-States", "Mexico", "Laos"], p=[0.94, 0.05, 0.01])
        relationship = ("Husband" if male else "Wife") if married else "Not-in-family"
        rows.append(
            [
                str(rng.integers(17, 90)),
                str(rng.choice(["Private", "State-gov"], p=[0.8, 0.2])),
                "100",
                EDUCATION[years - 1],
                str(years),
                "Married-civ-spouse" if married else "Never-married",
                str(occupation),
                relationship,
                "White" if white else "Black",
                "Male" if male else "Female",
                str(int(rng.integers(1000, 9000) * (rng.random() < 0.1))),
                "0",
                str(hours),
                str(country),
                ">50K" if rich else "<=50K",
            ]
        )
    return rows


def write(folder: Path, n_train: int = 1400, n_test: int = 800) -> Path:
    """adult.data and adult.test in `folder/adult`, some values missing; returns the folder."""
    (folder / "adult").mkdir(parents=True)
    for name, n, seed in (("adult.data", n_train, 0), ("adult.test", n_test, 1)):
        rows = people(n, seed)
        for i in range(5, n, 20):
            rows[i][6] = "?"
        text = "\n".join(", ".join(row) + ("." if name == "adult.test" else "") for row in rows)
        head = "|1x3 Cross validator\n" if name == "adult.test" else ""
        (folder / "adult" / name).write_text(head + text + "\n\n")
    return folder
