from pathlib import Path

from efface.identity import run_id, run_subdir

CONFIG = {
    "dataset": {"name": "d", "ratio": 1.0},
    "model": {"name": "m"},
    "training": {"name": "t", "epochs": 10},
    "method": {"name": "leace", "refit_head": True, "grid": [1, 2]},
    "evaluation": {"name": "default"},
}


def changed(node: str, **values: object) -> dict:
    return {**CONFIG, node: {**CONFIG[node], **values}}


def test_id_is_of_the_content() -> None:
    assert len(run_id(CONFIG)) == 8
    assert run_id(CONFIG) == run_id(dict(reversed(CONFIG.items())))
    assert run_id(changed("dataset", ratio=1)) == run_id(CONFIG)
    assert run_id({**CONFIG, "seed": 3, "device": "cuda"}) == run_id(CONFIG)


def test_every_node_counts() -> None:
    ids = {run_id(changed(node, extra=1)) for node in CONFIG} | {run_id(CONFIG)}
    assert len(ids) == 6
    assert run_id(changed("method", refit_head=1)) != run_id(CONFIG)  # true is not 1


def test_directory() -> None:
    assert run_subdir(CONFIG, 3) == Path("d/m/t/leace") / run_id(CONFIG) / "seed=3"
