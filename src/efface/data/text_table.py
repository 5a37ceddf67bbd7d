"""Your own texts: a column of a table, as the states of a pretrained model, or as the tokens of a classifier."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, ClassVar

from torch import Tensor

from efface.cache import Entry, cached
from efface.data.base import Dataset, Split, TensorSplit
from efface.data.columns import FileTable, Labels, assembled, require_complete
from efface.data.encoders import Encoder, Pooling, Tokenizer
from efface.data.frames import TableFiles
from efface.extras import require
from efface.files import digest
from efface.options import Ge, options


@options
class Texts(FileTable, ABC):
    """A table with a column of texts.

    Args:
        text: the column of texts.
        revision: of a model on the hub: a branch, a tag or a commit; None for the branch `main`.
        max_length: tokens of a text that are read.
    """

    missing_values: Sequence[str] = ()
    text: str
    revision: str | None = None
    max_length: Annotated[int, Ge(1)] = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text in self.used:
            raise ValueError(f"text is {self.text!r}, which is in use as another column: name that of the texts")

    @property
    @abstractmethod
    def _reader(self) -> Tokenizer:
        """What reads the texts."""

    def fingerprint(self, data_dir: Path) -> str:
        """Hash the files of the table and of the model; a second for a gigabyte."""
        require("pandas", "pyarrow", "transformers", extra="scrub", what="dataset=text")
        return digest(self.files(data_dir).digest().encode(), self._reader.digest().encode())

    def _labelled(self, files: TableFiles) -> tuple[Labels, list[str]]:
        """Return the labels and the texts of the rows."""
        frame = self.read(files)
        self.require(frame, files, text=[self.text])
        require_complete(frame[self.text], "text", files)
        return self.labels(frame, files), [str(text) for text in frame[self.text]]

    def _assembled(
        self, x: Tensor, labels: Labels, files: TableFiles, fingerprint: str, *, tokens: bool = False
    ) -> Dataset:
        """Return the data set whose inputs are x `[n, ...]`."""
        splits: dict[str, Split] = {
            name: TensorSplit(index=rows, x=x[rows], **labels.at(rows)) for name, rows in labels.parts.items()
        }
        return assembled(
            splits,
            labels,
            files,
            flippable=False,
            input_shape=tuple(x.shape[1:]),
            fingerprint=fingerprint,
            per_sample_inputs=True,
            target=self.target,
            tokens=tokens,
        )


@options
class TextTable(Texts):
    """A table with a column of texts; the inputs are a pretrained model's states of them.

    States are computed once, and kept in `cache_dir` under the texts, the model and how it is asked. They are a
    function of each text alone, which `method=certified` needs. A pair is two texts of one label and different
    attributes.

    Args:
        text, revision, max_length: see `Texts`.
        encoder, gguf_file, pooling, batch_size: see `efface.data.encoders.Encoder`.
    """

    encoder: str
    gguf_file: str | None = None
    pooling: Pooling = "mean"
    batch_size: Annotated[int, Ge(1)] = 64

    @property
    def _reader(self) -> Encoder:
        return Encoder(
            path=self.encoder,
            revision=self.revision,
            pooling=self.pooling,
            max_length=self.max_length,
            gguf_file=self.gguf_file,
            batch_size=self.batch_size,
        )

    def load(self, *, data_dir: Path, cache_dir: Path, seed: int) -> Dataset:
        """Read the table, and the states of its texts if the cache does not have them. `seed` changes nothing."""
        fingerprint = self.fingerprint(data_dir)  # before the files are read, which may change meanwhile
        files = self.files(data_dir)
        labels, texts = self._labelled(files)
        encoder = self._reader

        def build() -> Entry:
            return {"x": encoder.states(texts)}, {}

        key = {
            "texts": digest(*(f"{len(text)} {text}".encode() for text in texts)),
            "encoder": encoder.digest(),
            "pooling": self.pooling,
            "max_length": self.max_length,
            "transformers": version("transformers"),
            **({} if self.gguf_file is None else {"gguf_file": self.gguf_file}),
        }
        return self._assembled(cached(cache_dir, "states", key, build)[0]["x"], labels, files, fingerprint)


@options
class TokenTable(Texts):
    """A table with a column of texts; the inputs are token ids and masks `[2, t]`, as a classifier of texts takes them.

    For `model=transformers`; no other model of the grid can do anything with the numbers of tokens.

    Args:
        text, revision, max_length: see `Texts`.
        tokenizer: of the classifier; see `efface.data.encoders.Tokenizer`.
    """

    tokenizer: str

    @property
    def _reader(self) -> Tokenizer:
        return Tokenizer(path=self.tokenizer, revision=self.revision, max_length=self.max_length)

    def load(self, *, data_dir: Path, cache_dir: Path, seed: int) -> Dataset:
        """Read the table, and make tokens of its texts. `seed` changes nothing."""
        fingerprint = self.fingerprint(data_dir)  # before the files are read, which may change meanwhile
        files = self.files(data_dir)
        labels, texts = self._labelled(files)
        return self._assembled(self._reader.tokens(texts), labels, files, fingerprint, tokens=True)


@options
class BiasInBios(TextTable):
    """Biographies, with the profession as target and the gender protected. The files are brought by the user.

    De-Arteaga et al., "Bias in Bios: a case study of semantic representation bias in a high-stakes setting", FAccT
    2019.
    """

    origin: ClassVar[str] = (
        "Bias in Bios is not downloaded: put its train, dev and test files (parquet or CSV, with the columns "
        "hard_text, profession, gender) into bias_in_bios/ in data_dir (or DATA_DIR), or set dataset.path and "
        "dataset.split to one file and its column of splits"
    )
    pooling: Pooling = "cls"
    max_length: Annotated[int, Ge(1)] = 128
