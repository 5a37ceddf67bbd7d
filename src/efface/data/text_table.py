"""Your own texts: a column of a table, as the states of a pretrained model."""

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, ClassVar

from efface.cache import Entry, cached
from efface.data.base import Dataset, Split, TensorSplit
from efface.data.columns import FileTable, assembled, require_complete
from efface.data.encoders import Encoder, Pooling
from efface.extras import require
from efface.files import digest
from efface.options import Ge, options


@options
class TextTable(FileTable):
    """A table with a column of texts; the inputs are a pretrained model's states of them.

    States are computed once, and kept in `cache_dir` under the texts, the model and how it is asked. They are a
    function of each text alone, which `method=certified` needs. A pair is two texts of one label and different
    attributes.

    Args:
        text: the column of texts.
        encoder, revision, gguf_file, pooling, max_length, batch_size: see `efface.data.encoders.Encoder`.
    """

    missing_values: Sequence[str] = ()
    text: str
    encoder: str
    revision: str | None = None
    gguf_file: str | None = None
    pooling: Pooling = "mean"
    max_length: Annotated[int, Ge(1)] = 256
    batch_size: Annotated[int, Ge(1)] = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.text in self.used:
            raise ValueError(f"text is {self.text!r}, which is in use as another column: name that of the texts")

    @property
    def _encoder(self) -> Encoder:
        return Encoder(
            path=self.encoder,
            revision=self.revision,
            gguf_file=self.gguf_file,
            pooling=self.pooling,
            max_length=self.max_length,
            batch_size=self.batch_size,
        )

    def fingerprint(self, data_dir: Path) -> str:
        """Hash the files of the table and of the model; a second for a gigabyte."""
        require("pandas", "pyarrow", "transformers", extra="scrub", what="dataset=text")
        return digest(self.files(data_dir).digest().encode(), self._encoder.digest().encode())

    def load(self, *, data_dir: Path, cache_dir: Path, seed: int) -> Dataset:
        """Read the table, and the states of its texts if the cache does not have them. `seed` changes nothing."""
        fingerprint = self.fingerprint(data_dir)  # before the files are read, which may change meanwhile
        files = self.files(data_dir)
        frame = self.read(files)
        self.require(frame, files, text=[self.text])
        require_complete(frame[self.text], "text", files)
        labels = self.labels(frame, files)
        texts = [str(text) for text in frame[self.text]]
        encoder = self._encoder

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
        x = cached(cache_dir, "states", key, build)[0]["x"]
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
        )


@options
class BiasInBios(TextTable):
    """Biographies, with the profession as target and the gender protected. The files are brought by the user.

    De-Arteaga et al., "Bias in Bios: a case study of semantic representation bias in a high-stakes setting", FAccT
    2019.
    """

    origin: ClassVar[str] = (
        "Bias in Bios is published at https://huggingface.co/datasets/LabHC/bias_in_bios: put its train, dev and test "
        "files (parquet, or CSV with the columns hard_text, profession, gender) into bias_in_bios/ in data_dir "
        "(or DATA_DIR), or set dataset.path and dataset.split to one file and its column of splits"
    )
    pooling: Pooling = "cls"
    max_length: Annotated[int, Ge(1)] = 128
