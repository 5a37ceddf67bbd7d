import torch

from efface.scrubbing import ConceptScrubber
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
