import math

import pytest
import torch

from efface.evaluation import bootstrap


def mean_of(values: torch.Tensor) -> object:
    return lambda times: {"mean": values @ times / times.sum(0)}


def test_a_resample_draws_n_samples() -> None:
    parts = list(bootstrap.resamples(40, 600))
    times = torch.cat(parts, 1)
    assert times.shape == (40, 600)
    assert (times.sum(0) == 40).all()
    assert float(times.var(1).mean()) == pytest.approx(1, abs=0.05)  # as of a multinomial
    assert torch.equal(torch.cat(list(bootstrap.resamples(40, 600)), 1), times)


def test_the_interval_of_a_mean_is_that_of_its_standard_error() -> None:
    values = torch.randn(2000, generator=torch.Generator().manual_seed(0)) + 3
    found = bootstrap.intervals(2000, 2000, mean_of(values))["mean"]  # type: ignore[arg-type]
    assert found is not None
    se = float(values.std()) / math.sqrt(2000)
    for bound, expected in zip(found, (-1.96, 1.96), strict=True):
        assert bound == pytest.approx(float(values.mean()) + expected * se, abs=0.15 * se)


def test_clusters_are_drawn_whole() -> None:
    cluster = torch.arange(300) // 10 * 7  # codes need not be dense
    times = next(bootstrap.resamples(300, 50, cluster=cluster))
    assert (times.view(30, 10, 50) == times.view(30, 10, 50)[:, :1]).all()
    values = torch.randn(30, generator=torch.Generator().manual_seed(0)).repeat_interleave(10)
    widths = []
    for clusters in (None, cluster):
        low, high = bootstrap.intervals(300, 1000, mean_of(values), cluster=clusters)["mean"]  # type: ignore
        widths.append(high - low)
    # Ten copies of one value are worth one: √10 times as wide.
    assert widths[1] / widths[0] == pytest.approx(math.sqrt(10), rel=0.15)


def test_sums_by_cell() -> None:
    times = next(bootstrap.resamples(100, 7))
    cells = torch.arange(100) % 3
    values = torch.rand(100)
    found = bootstrap.sums(values, cells, 4, times)
    for k in range(4):
        torch.testing.assert_close(found[k], (values * (cells == k)) @ times)


def test_a_metric_that_is_often_undefined_has_no_interval() -> None:
    def one_sample(times: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"of the first": times[0] / times[0], "of all": times.mean(0)}

    found = bootstrap.intervals(50, 500, one_sample)
    assert found["of the first"] is None
    assert found["of all"] == pytest.approx([1, 1])


def test_a_single_sample_or_cluster_has_no_interval() -> None:
    values = torch.arange(6, dtype=torch.float32)
    for n, cluster in ((1, None), (6, torch.full((6,), 7))):
        assert bootstrap.intervals(n, 50, mean_of(values[:n]), cluster=cluster) == {"mean": None}  # type: ignore[arg-type]
