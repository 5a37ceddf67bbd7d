"""The experiments on language models compose, and their pages have the commands."""

import pytest
from hydra import compose, initialize_config_dir
from tests.conftest import CONF


@pytest.mark.parametrize(
    ("root", "name", "swept"),
    [("language_model", "language_model", "method"), ("scrubbing", "amnesic_layers", "method.layer")],
)
def test_an_experiment_composes_and_its_page_has_the_command(root: str, name: str, swept: str) -> None:
    with initialize_config_dir(str(CONF / root), version_base="1.3"):
        cfg = compose(root, overrides=[f"experiment={name}"], return_hydra_config=True)
    assert cfg.model.name == "smollm2"
    assert list(cfg.hydra.sweeper.params) == [swept]
    page = (CONF.parent / "experiments" / name / "README.md").read_text()
    block = page.partition("```sh\n")[2].partition("```")[0]
    assert f"--config-name={root} experiment={name}" in block
    assert "python -m efface.report " in block
    assert "quantised to 4 bits" in page
    assert "instruction-tuned" in page
    assert "@@" not in page


@pytest.mark.parametrize("name", ["gpt2", "bert", "smollm2", "tiny_llama"])
def test_every_model_says_how_it_is_trained(name: str) -> None:
    with initialize_config_dir(str(CONF / "language_model"), version_base="1.3"):
        cfg = compose("language_model", overrides=[f"model={name}"])
    assert cfg.training.name == ("lm" if name.startswith("tiny") else "none")
    assert cfg.dataset.scope == ("sentence" if name == "bert" else "prefix")
