"""Erasers of any kind, from their files, and what they make of a batch."""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import efface
from efface import tensorfiles
from efface.embeddings.shards import Summary
from efface.erasure.affine import AffineEraser
from efface.erasure.igbp import IgbpEraser
from efface.erasure.obliviator import ObliviatorEraser
from efface.erasure.oracle import OracleEraser
from efface.erasure.quadratic import QuadraticEraser
from efface.erasure.quadratic_free import PosteriorQuadraticEraser

Eraser = AffineEraser | OracleEraser | QuadraticEraser | PosteriorQuadraticEraser | IgbpEraser | ObliviatorEraser


@dataclass(frozen=True)
class LoadedEraser:
    """An eraser and its file."""

    path: Path
    eraser: Eraser

    @classmethod
    def load(cls, path: Path) -> "LoadedEraser":
        """Read an eraser of any kind.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it is damaged, or holds no eraser.
        """
        if not path.is_file():
            raise FileNotFoundError(f"there is no file {path}: name an eraser that fit or .save() wrote")
        kind = tensorfiles.kind(path)
        eraser = getattr(efface, kind, None) if kind is not None and kind.endswith("Eraser") else None
        if eraser is None:
            content = "something else" if kind is None else f"a saved {kind}"
            raise ValueError(f"{path} is no eraser, it holds {content}: name one that fit or .save() wrote")
        return cls(path, eraser.load(path))

    @property
    def needs_labels(self) -> bool:
        """Whether the concept of a row has to be known to erase it."""
        return isinstance(self.eraser, OracleEraser | QuadraticEraser)

    @property
    def d(self) -> int:
        """The width of what it erases from."""
        if isinstance(self.eraser, AffineEraser):
            return len(self.eraser.proj_left)
        if isinstance(self.eraser, OracleEraser):
            return len(self.eraser.coef)
        if isinstance(self.eraser, PosteriorQuadraticEraser):
            return self.eraser.global_means.shape[1]
        return len(self.eraser.global_mean if isinstance(self.eraser, QuadraticEraser) else self.eraser.mean)

    def require_width(self, data: Summary) -> None:
        """ValueError if the shards have another width."""
        if data.d != self.d:
            raise ValueError(
                f"{self.path} erases from {self.d} columns, but the shards have {data.d}: fit an eraser on such shards"
            )

    def erase(self, x: Tensor, z: Tensor | None) -> Tensor:
        """Erase the concept from x `[n, d]` in float32 or wider, and round once to the dtype of x.

        Raises:
            ValueError: x is not finite, a result is beyond the range of its dtype, or labels do not fit.
        """
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        if isinstance(self.eraser, OracleEraser | QuadraticEraser):
            erased = self.eraser(wide, z).to(x.dtype)
        else:
            erased = self.eraser(wide).to(x.dtype)
        if not bool(torch.isfinite(erased).all()):
            row = int((~torch.isfinite(erased)).any(1).nonzero()[0])
            raise ValueError(f"an erased value is beyond the range of {x.dtype} ({wide[row].abs().max():g} before it)")
        return erased
