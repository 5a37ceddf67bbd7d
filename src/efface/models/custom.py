"""A network of one's own: what a function returns, with weights from a file."""

from pathlib import Path
from typing import Any

from efface.files import digest, file_digest
from efface.models.base import Model
from efface.models.classifier import Classifier, random_inputs
from efface.models.factory import build, source_digest
from efface.models.pretrained import load_weights
from efface.options import options


@options
class Custom(Classifier):
    """A network of one's own, with the options of a `Classifier`.

    Args:
        factory: `package.module:function`, found in the current folder or among installed packages; it returns an
            `nn.Module` that gives a logit for each class, or one logit for two classes.
        arguments: what it is called with, by name.
        weights: the file of weights, `.safetensors` or a state dict that `torch.save` wrote; None for those that the
            factory returns.
        pretrained: whether the network has weights from elsewhere; None if `weights` are named. Of a factory that
            reads weights itself it is to be set to true.
    """

    factory: str
    arguments: dict[str, Any] | None = None
    weights: str | None = None
    pretrained: bool | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.weights is not None and self.pretrained is False:
            raise ValueError(f"weights is {self.weights}, but pretrained=false reads none: leave one of them out")

    def fingerprint(self) -> str:
        """Return a digest of the weights and of the file that holds the factory: another file is another run."""
        weights = "" if self.weights is None else file_digest(self._file(self.weights))
        return digest(weights.encode(), source_digest(self.factory).encode())

    def code(self) -> dict[str, Any]:
        return {"factory": source_digest(self.factory)}

    def __call__(self, *, input_shape: tuple[int, ...], n_classes: int) -> Model:
        module = build(self.factory, self.arguments or {})
        if self.weights is not None:
            load_weights(module, self._file(self.weights), what=self.factory, option="weights")
        return self.model(
            module,
            self.normalised(input_shape, self.mean, self.std),
            n_classes,
            example=random_inputs(input_shape),
            pretrained=self.weights is not None if self.pretrained is None else self.pretrained,
        )

    def _file(self, weights: str) -> Path:
        file = Path(weights).expanduser()
        if not file.is_file():
            raise FileNotFoundError(f"weights: there is no file {file.resolve()}")
        return file
