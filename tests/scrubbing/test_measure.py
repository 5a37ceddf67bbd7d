import torch

from efface.data.conllu import TaggedText
from efface.scrubbing import ConceptScrubber, scrub
from efface.scrubbing.evaluation import ScrubbingEvaluation
from efface.scrubbing.families import family_of
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.measure import states_behind, states_by_site
from efface.scrubbing.tokens import TokenData


def test_states_come_as_many_sites_at_a_time_as_memory_holds(lm: LanguageModel, train: TokenData) -> None:
    paths, tokens = family_of(lm.model).paths(lm.model), train.z >= 0
    passes: list[int] = []
    handle = lm.model.base_model.register_forward_pre_hook(lambda *_: passes.append(1))  # type: ignore[operator, union-attr]
    try:
        whole = states_behind(lm, ConceptScrubber(), train, paths, batch_size=8, tokens=tokens)
        one_pass = len(passes)
        size = whole[paths[0]].numel() * 4
        for max_bytes, n_passes in ((size - 1, 4), (3 * size, 2), (1 << 30, 1)):
            passes.clear()
            states = states_by_site(
                lm, ConceptScrubber(), train, paths, batch_size=8, tokens=tokens, max_bytes=max_bytes
            )
            for path, (name, x) in zip(paths, states, strict=True):
                assert name == path
                assert torch.equal(x, whole[path])
            assert len(passes) == n_passes * one_pass
    finally:
        handle.remove()


def test_scales_and_probes_hold_as_few_sites_as_they_are_allowed(
    lm: LanguageModel, train: TokenData, text: TaggedText
) -> None:
    passes: list[int] = []
    handle = lm.model.base_model.register_forward_pre_hook(lambda *_: passes.append(1))  # type: ignore[operator, union-attr]
    paths = family_of(lm.model).paths(lm.model)[:2]

    def measured(fit_bytes: int) -> tuple[list[dict], int]:
        passes.clear()
        evaluation = ScrubbingEvaluation(batch_size=8, probe_tokens=200, fit_bytes=fit_bytes)
        scales = evaluation.scales(lm, ConceptScrubber(), train, paths)
        return evaluation(lm, ConceptScrubber(), train, scales, len(text.tags)).layers, len(passes)

    try:
        (together, few), (one_by_one, many) = measured(1 << 30), measured(0)
    finally:
        handle.remove()
    assert one_by_one == together
    # A pass each for bits, scales and probes, and for each of two sites where they come one by one.
    assert few / 3 == many / 5


def test_evaluation_on_the_data_fitted_on_holds_as_few_sites_as_it_is_allowed(
    lm: LanguageModel, train: TokenData, text: TaggedText
) -> None:
    k = len(text.tags)
    scrubber, _ = scrub(lm.model, train.columns(), "z", batch_size=8, n_labels=k, progress=False)
    assert scrubber is not None
    size = 4 * int((train.z >= 0).sum()) * int(lm.model.config.hidden_size)  # type: ignore[union-attr, arg-type]

    def measured(fit_bytes: int) -> tuple[dict, int]:
        passes: list[int] = []
        evaluation = ScrubbingEvaluation(batch_size=8, fit_bytes=fit_bytes)
        scales = evaluation.scales(lm, scrubber, train, list(scrubber.erasers))
        handle = lm.model.base_model.register_forward_pre_hook(lambda *_: passes.append(1))  # type: ignore[operator, union-attr]
        try:
            return evaluation.on_fit(lm, scrubber, train, scales, k), len(passes)
        finally:
            handle.remove()

    (together, few), (one_by_one, many), (none, fewest) = (measured(n) for n in (1 << 30, size, size - 1))
    assert one_by_one == together
    assert all(abs(row["fit_information"]) < 1e-3 for row in together.values())
    assert many - fewest == len(scrubber.erasers) * (few - fewest)
    assert {row["fit_information"] for row in none.values()} == {None}
    assert [row["max_abs_cov"] for row in none.values()] == [row["max_abs_cov"] for row in together.values()]
