"""What a person reads when Hydra refuses a command."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException
from tests.conftest import CONF

from efface.cli.errors import explain
from efface.cli.resolvers import SCRATCH


@pytest.fixture
def said_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return what is said of a command, up to where Hydra makes its folder; the folder if nothing is wrong."""
    monkeypatch.setenv(SCRATCH, str(tmp_path / "scratch"))
    monkeypatch.chdir(tmp_path)

    def said(*overrides: str, name: str = "config") -> str:
        root = CONF if name == "config" else CONF / name
        try:
            with initialize_config_dir(str(root), version_base="1.3"):
                return str(compose(name, overrides=list(overrides), return_hydra_config=True).hydra.run.dir)
        except (HydraException, OmegaConfBaseException) as error:
            return explain(error, root)

    yield said
    assert not list(tmp_path.iterdir())  # nothing was made, whatever was said


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["metod=leace"], "^metod: there is no such option\nGroups and keys: model, .*\nDid you mean method\\?$"),
        (["+metod=leace"], "^metod: there is no such option\nGroups and keys: .*\nDid you mean method\\?$"),
        (["+metod.rank=1"], "^metod: there is no such option"),
        (["++sed=1"], "^sed: there is no such option\nGroups and keys: .*, seed, .*\nDid you mean seed\\?$"),
        (["method=leac"], "Could not find 'method/leac'\nOptions of method: .*\nDid you mean method=leace\\?$"),
        (["method=leace", "method.refit_hed=1"], "\nKeys of method: .*\nDid you mean method.refit_head\\?$"),
        (["method=leace", "method.rank=1"], "^method=leace has no option rank. Its options: fit_on, .*, rtol\n"),
        (["method=leace", "method.rank=1"], "\nThese have method.rank: inlp, mean_projection, pca, random_proj"),
        (["method=none", "method.refit_head=true"], "^method=none has no option refit_head. Its options: none\n"),
        (["method=none", "method.min_support=0"], "These .*: igbp, inlp, leace, leace_orth, mean_projection, "),
        (["method=none", "method.rank.x=1"], "^method=none has no option rank"),
        (["dataset=features"], "^path has no value, and no default: set path=...\ndataset=features: .*=my.npz$"),
        (["results_dir=a>b"], "Quote it, for the shell and for Hydra: 'results_dir=\"a>b\"'$"),
        (["results_dir=ü"], "Quote it, .*'results_dir=\"ü\"'$"),
        (["path=a=b'"], "Quote it, .*'path=\"a=b'\"'$"),
        (["results_dir=null"], "^results_dir is null, but must be a string$"),
        (["results_dir="], "^results_dir is empty: name a folder"),
        (["results_dir=' '"], "^results_dir is empty"),
        (["data_dir="], "^data_dir is empty: name a folder"),
        (["cache_dir="], "^cache_dir is empty: name a folder"),
        (["results_dir='~nobody-of-this-name/x'"], "^results_dir is '~nobody-of-this-name/x': "),
        (["device=gpu"], "^device is 'gpu', but must be auto, cpu, cuda or cuda:<number>$"),
        (["device=meta"], "^device is 'meta', but must be"),
        (["device=3"], "^device is 3, but must be a string$"),
        (["seed=1.5"], "^seed is 1.5, but must be an integer$"),
        (["seed=[1]"], r"^seed is \[1\], but must be an integer$"),
        (["device={a: 1}"], "^device is {'a': 1}, but must be a string$"),
        (["seed=-1"], "^seed is -1, but must lie between 0 and 4294967295$"),
        (["seed=99999999999999999999"], "^seed is 99999999999999999999, but must lie between"),
        (["objective=acuracy"], "^objective is 'acuracy', .* one of accuracy, .*\\. Did you mean accuracy\\?$"),
        (["objective=tpr_gap"], "^objective is 'tpr_gap', but must be one of"),
        (["overwrite=maybe"], "^overwrite is 'maybe', but must be true or false$"),
        (["dataset.name=../../../esc"], "^dataset.name is '../../../esc', but must be a letter or digit and"),
        (["method.name=/abs/path"], "^method.name is '/abs/path', but must be"),
        (["method.name=.."], "^method.name is '..', but must be"),
        (["method.name=''"], "^method.name is '', but must be"),
        (["model.name=" + 101 * "a"], "^model.name is 'a+', but must be"),
        (["method.name=3"], "^method.name is 3, but must be"),
        (["~method.name"], "^method.name is None, but must be"),
        (["method=leace", "method.name=none"], "^method.name is 'none', which is the name of another method"),
        (["hydra/launcher=jblib"], "Could not find 'hydra/launcher/jblib'\n.*\nDid you mean hydra/launcher=joblib\\?$"),
    ],
)
def test_refused_command_is_explained(said_of: Callable[..., str], overrides: list[str], expected: str) -> None:
    """Covers faults B14, C1, C2, C3."""
    text = said_of(*overrides)
    assert re.search(expected, text), text
    assert "use +" not in text


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["model=pretrained"], "^model.path has no value, and no default: set model.path=...\nmodel=pretrained: Any "),
        (["model.depth=3"], "^model.depth: there is no such option\nKeys of model: architecture, "),
        (["method=rlace"], "Options of method: leace, none, orth, random\n"),
        (["method=leace", "method.name=none"], "^method.name is 'none', which is the name of another method"),
    ],
)
def test_refused_scrubbing_command_is_explained(
    said_of: Callable[..., str], overrides: list[str], expected: str
) -> None:
    """Covers faults C1."""
    text = said_of(*overrides, name="scrubbing")
    assert re.search(expected, text), text


@pytest.mark.parametrize(
    "overrides",
    [
        ["method=fmd", "method.name=fmd_published.2-b"],
        ["++seed=4294967295"],
        ["dataset=features", "path=x.npz"],
        ["dataset=features", "dataset.path=x.npz", "dataset.name=mine"],
        ["device=cuda:3"],
        ["experiment=erasers"],
    ],
)
def test_legal_command_has_a_folder(said_of: Callable[..., str], overrides: list[str]) -> None:
    assert said_of(*overrides).startswith("results/")


def test_home_is_expanded(said_of: Callable[..., str]) -> None:
    """Covers faults C2."""
    assert said_of("results_dir='~/x'").startswith(str(Path.home() / "x" / "colored_mnist_mini"))


@pytest.mark.parametrize("override", ["dry_run=true", "results_dir=/proc/efface", "results_dir=/etc/hostname"])
def test_hydra_writes_elsewhere_where_it_may_not_or_cannot(
    said_of: Callable[..., str], override: str, tmp_path: Path
) -> None:
    """Covers faults B4."""
    assert said_of(override).startswith(str(tmp_path / "scratch" / "colored_mnist_mini"))
