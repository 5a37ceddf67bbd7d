from pathlib import Path

from efface.identity import identity, run_id, run_id_v1, run_subdir

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
    assert len(run_id(CONFIG)) == 16
    assert run_id(CONFIG) == run_id(dict(reversed(CONFIG.items())))
    assert run_id(changed("dataset", ratio=1)) == run_id(CONFIG)
    assert run_id({**CONFIG, "seed": 3, "device": "cuda"}) == run_id(CONFIG)


def test_every_node_counts() -> None:
    ids = {run_id(changed(node, extra=1)) for node in CONFIG} | {run_id(CONFIG)}
    assert len(ids) == 6
    assert run_id(changed("method", refit_head=1)) != run_id(CONFIG)  # true is not 1


def test_id_ignores_where_the_code_lives() -> None:
    moved = changed("method", _target_="efface.methods.leace.Leace")
    assert run_id(moved) == run_id(changed("method", _target_="elsewhere.Leace")) == run_id(CONFIG)
    nested = changed("model", inner={"_target_": "efface.x", "width": 3})
    assert run_id(nested) == run_id(changed("model", inner={"width": 3})) != run_id(CONFIG)
    assert identity(moved) == CONFIG
    assert run_id_v1(moved) != run_id_v1(CONFIG)


def test_option_that_was_added_later_changes_no_id_at_its_default() -> None:
    assert run_id(changed("dataset", split="official", fold=None)) == run_id(CONFIG)
    assert identity(changed("dataset", split="official", fold=None)) == CONFIG
    assert run_id(changed("model", revision=None)) == run_id(CONFIG) != run_id(changed("model", revision="v1"))
    assert len({run_id(changed("dataset", split="people", fold=fold)) for fold in range(5)} | {run_id(CONFIG)}) == 6


def test_the_id_of_a_record_of_version_1_is_that_of_its_time() -> None:
    assert run_id_v1(CONFIG) == "ec7bcf01"


def test_directory() -> None:
    assert run_subdir(CONFIG, 3) == Path("d/m/t/leace") / run_id(CONFIG) / "seed=3"
