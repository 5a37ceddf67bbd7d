"""The control for erasers: the same number of directions, chosen at random."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from efface.erasure.affine import AffineEraser
from efface.scrubbing.families import Family, base_model, family_of, submodule
from efface.scrubbing.scrubber import ConceptScrubber


def random_scrubber(
    model: nn.Module, subspace_dim: int, *, seed: int = 0, sublayers: bool = True, family: Family | None = None
) -> ConceptScrubber:
    """Draw orthogonal projections off random subspaces, one for each site, that depend only on the seed.

    A sequence has the same subspaces from its first to its last token, also where a cache spreads it over many calls.

    Args:
        model: a model of a known family, or of `family`.
        subspace_dim: dimensions erased; for a fair control, as many as the eraser that it is compared with.
        seed: seed of the subspaces.
        sublayers: see `scrub`.
        family: the places of blocks and normalisations, if the model's family is not known.

    Raises:
        ValueError: `subspace_dim` is not below the width of the states.
    """
    family = family_of(model) if family is None else family
    generator = torch.Generator().manual_seed(seed)
    scrubber = ConceptScrubber()
    for path in family.paths(model, sublayers=sublayers):
        width = next(submodule(base_model(model), path).parameters()).shape[-1]
        if not 0 <= subspace_dim < width:
            raise ValueError(f"subspace_dim is {subspace_dim}, but must lie in 0 … {width - 1}")
        normal = torch.randn(width, subspace_dim, generator=generator, dtype=torch.float64)
        scrubber.erasers[path] = AffineEraser.orthogonal(torch.linalg.qr(normal)[0].float(), None)
    return scrubber


@contextmanager
def random_scrub(
    model: nn.Module, subspace_dim: int, *, seed: int = 0, sublayers: bool = True, family: Family | None = None
) -> Iterator[ConceptScrubber]:
    """Erase random subspaces within this context; arguments as for `random_scrubber`."""
    with random_scrubber(model, subspace_dim, seed=seed, sublayers=sublayers, family=family).scrub(model) as scrubber:
        yield scrubber
