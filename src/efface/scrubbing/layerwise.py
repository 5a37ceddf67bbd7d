"""Concept scrubbing: fit an eraser at every layer of a model, each on states already scrubbed below it.

Belrose et al., "LEACE: Perfect linear concept erasure in closed form", section 6 (NeurIPS 2023). The model's own
forward pass is used throughout, with hooks, so that a family needs no more than a description of where its layers are.
"""

import functools
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from tqdm import tqdm

from efface.erasure.leace import ErasureMethod, LeaceEraser, LeaceFitter
from efface.files import scratch
from efface.scrubbing.families import Family, base_model, family_of
from efface.scrubbing.scrubber import ConceptScrubber, Hook, hooked
from efface.scrubbing.tokens import Batch, Batches, predicted, token_nats

StatesOption = Literal["memory", "disk", "recompute"]


@torch.no_grad()
def scrub(
    model: nn.Module,
    train: Any,
    z_column: str | None,
    affine: bool = True,
    batch_size: int = 1,
    method: ErasureMethod = "leace",
    sublayers: bool = True,
    *,
    pre_hook: bool = False,
    layer: int | None = None,
    n_labels: int | None = None,
    rtol: float = 1e-4,
    shrinkage: bool | Literal["correlation"] = True,
    states: StatesOption = "memory",
    states_dir: str | Path | None = None,
    family: Family | None = None,
    with_loss: bool = True,
    progress: bool = True,
) -> tuple[ConceptScrubber | None, float | None]:
    """Fit an eraser behind every normalisation, one after the other, on states that the erasers before it act on.

    Args:
        model: a model of `transformers`, of a known family or of `family`; on one device or several, in any precision.
            It is put into evaluation mode and otherwise unchanged.
        train: a `datasets.Dataset` or a mapping of tensors with the column `input_ids` and, if there is padding,
            `attention_mask`; see `efface.scrubbing.tokens.Batches`.
        z_column: labels of the tokens `[n, t]`; negative ones, and padding, are left out. None fits nothing and
            returns the loss only.
        affine: keep the mean of the states where it is.
        batch_size: sequences at a time; the result is the same up to rounding.
        method: `leace`, or `orth` for SAL.
        sublayers: erase at the input of the attention and of the MLP of every block; if off, of the block only.
        pre_hook: erase from the inputs of the normalisations, and not from their outputs.
        layer: the number of one block, from 0, to erase in it alone, from states that nothing was erased from; None for
            all blocks.
        n_labels: number of classes; counted if None.
        rtol: canonical correlations with the concept below this are left alone.
        shrinkage: see `LeaceFitter`.
        states: keep the inputs of the next block in `memory`, on `disk`, or compute them anew from the tokens each time
            (`recompute`), in which case time grows with the square of the number of blocks.
        states_dir: the folder for `disk`; the system's temporary folder if None.
        family: the places of blocks and normalisations, if the model's family is not known.
        with_loss: compute the loss under the scrubber, which takes another pass over the data.
        progress: show a bar.

    Returns:
        The scrubber (None if `z_column` is), and the mean loss in nats for each predicted token of `train` under it
        (None if the model has no language-modelling head, or `with_loss` is off).

    Raises:
        ValueError: the family is not known, it has no such block, or the data are not as
            `efface.scrubbing.tokens.Batches` needs them.

    Cost: every block runs at most (sites + 1) times for each batch, whatever the number of blocks. Memory for the
    statistics of one layer at a time, 8 d² bytes, and 24 d² while its eraser is computed.
    """
    if states not in ("memory", "disk", "recompute"):
        raise ValueError(f"states is {states!r}, but must be 'memory', 'disk' or 'recompute'")
    family = family_of(model) if family is None else family
    batches = Batches(train, z_column, batch_size, input_device(model), vocabulary=_vocabulary(model))
    model.eval()
    with _open_states(states, states_dir) as store:
        walk = _Walk(model, family, batches, store, pre_hook)
        if z_column is None:
            return None, walk.loss(ConceptScrubber())
        n_labels = batches.n_labels() if n_labels is None else n_labels
        if not isinstance(n_labels, int) or n_labels < 2:
            raise ValueError(f"{z_column!r} has n_labels={n_labels} classes, but needs two or more to be erased")
        make_fitter = functools.partial(
            LeaceFitter,
            z_dim=n_labels,
            method=method,
            affine=affine,
            dtype=torch.float32,
            shrinkage=shrinkage,
            rtol=rtol,
        )
        scrubber = ConceptScrubber(pre_hook)
        stages = _stages(model, family, sublayers, layer)
        total = len(batches) * sum(len(paths) + (layer is None) for _, paths in stages)
        off = None if progress else True  # None: off where there is no terminal
        with tqdm(total=total, desc="scrub", unit="batch", disable=off, leave=False) as bar:
            for block, paths in stages:
                for path in paths:
                    bar.set_postfix_str(path)
                    scrubber.erasers[path] = walk.fit(path, scrubber, bar, make_fitter)
                if layer is None:
                    bar.set_postfix_str("next block")
                    walk.advance(block, scrubber, bar)
        return scrubber, walk.loss(scrubber) if with_loss else None


def _stages(model: nn.Module, family: Family, sublayers: bool, layer: int | None) -> list[tuple[int, list[str]]]:
    """List the blocks in the order in which they run, with the paths of their sites; −1 for those before the first.

    One block alone, if it is named.
    """
    sites = [site for site in family.sites if sublayers or not site.sublayer]
    blocks = range(len(family.block_list(model)))
    if layer is not None and layer not in blocks:
        raise ValueError(f"layer is {layer}, but the model has the blocks 0 … {len(blocks) - 1}")
    chosen = [(i, [f"{family.blocks}.{i}.{site.path}" for site in sites]) for i in blocks if layer in (None, i)]
    return [(-1, list(family.before)), *chosen] if layer is None else chosen


def input_device(model: nn.Module) -> torch.device:
    """Find the device of a model's embeddings, which takes the tokens also if the model is spread over several."""
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    parameters = (model if embeddings is None else embeddings).parameters()
    device = next(parameters).device
    if device.type == "meta":  # offloaded: hooks of the model bring it in
        device = torch.device(getattr(model, "hf_device_map", {}).get("", "cpu"))
    return device


def _vocabulary(model: nn.Module) -> int | None:
    """Count the tokens that a model knows; None if it does not say."""
    embeddings = getattr(model, "get_input_embeddings", lambda: None)()
    return getattr(embeddings, "num_embeddings", None)


class _Stop(Exception):  # noqa: N818
    """Ends a forward pass when the states that it was run for have been read."""


class _States:
    """Hidden states of batches, in memory or in files of a folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self.memory: dict[int, Tensor] = {}

    def __setitem__(self, i: int, x: Tensor) -> None:
        if self.folder is None:
            self.memory[i] = x.cpu()
        else:
            from safetensors.torch import save_file

            save_file({"x": x.cpu().contiguous()}, self.folder / f"{i}.safetensors")

    def __getitem__(self, i: int) -> Tensor:
        if self.folder is None:
            return self.memory[i]
        from safetensors.torch import load_file

        return load_file(self.folder / f"{i}.safetensors")["x"]


@contextmanager
def _open_states(states: StatesOption, folder: str | Path | None) -> Iterator[_States | None]:
    """Open a store of states; None if they are to be computed anew."""
    if states == "disk":
        with scratch(Path(folder or tempfile.gettempdir()), prefix=".scrub-") as temporary:
            yield _States(temporary)
    else:
        yield _States() if states == "memory" else None


class _Walk:
    """Forward passes of the real model that begin at a block, with the outputs of the block before.

    Args:
        states: store of the inputs of the next block; None to start at the tokens each time.
    """

    def __init__(
        self, model: nn.Module, family: Family, batches: Batches, states: _States | None, pre_hook: bool
    ) -> None:
        self.model, self.family, self.batches, self.states = model, family, batches, states
        self.pre_hook = pre_hook
        self.base = base_model(model)
        self.blocks = family.block_list(model)
        self.returns_tuple = False
        """Whether blocks return hidden states and more, as they did up to transformers 4.53."""
        self.next: int | None = None
        """The block whose inputs are stored; None while passes begin at the tokens."""

    def fit(
        self, path: str, scrubber: ConceptScrubber, bar: "tqdm[Any]", make_fitter: Callable[..., LeaceFitter]
    ) -> LeaceEraser:
        """Fit the eraser at a path on all batches; `make_fitter` takes the width and the device of the states."""
        fitter: LeaceFitter | None = None

        for i, batch in enumerate(self.batches):
            outputs: list[Tensor] = []

            def read(path: str, x: Tensor, outputs: list[Tensor] = outputs) -> None:
                outputs.append(x)
                raise _Stop

            self._run(self.base, i, batch, {**self._erasing(scrubber, path), path: read})
            if not outputs:
                raise ValueError(f"the model did not run {path!r}: give a family whose sites its forward pass uses")
            x, rows = outputs[0], batch.labelled.to(outputs[0].device)
            if fitter is None:
                fitter = make_fitter(x.shape[-1], device=x.device)
            assert batch.z is not None
            fitter.update(x[rows], batch.z.to(x.device)[rows])
            bar.update()
        assert fitter is not None
        return fitter.eraser

    def advance(self, block: int, scrubber: ConceptScrubber, bar: "tqdm[Any]") -> None:
        """Replace the inputs of a block by its outputs, under all erasers so far; −1: begin with those of the first."""
        if self.states is None:
            bar.update(len(self.batches))
            return
        for i, batch in enumerate(self.batches):
            states: list[Tensor] = []

            def read(module: nn.Module, args: Any, kwargs: Any, *output: Any, states: list[Tensor] = states) -> None:
                if output:  # the outputs of this block, else the inputs of the first
                    self.returns_tuple = isinstance(output[0], tuple)
                first = (*args, *kwargs.values()) if not output else output[0]
                states.append(first[0] if isinstance(first, tuple) else first)
                raise _Stop

            if block < 0:
                handle = self.blocks[0].register_forward_pre_hook(read, with_kwargs=True)
            else:
                handle = self.blocks[block].register_forward_hook(read, with_kwargs=True)
            try:
                self._run(self.base, i, batch, self._erasing(scrubber))
            finally:
                handle.remove()
            self.states[i] = states[0]
            bar.update()
        self.next = block + 1

    def loss(self, scrubber: ConceptScrubber) -> float | None:
        """Compute the mean loss of predicted tokens in nats; None without a head that predicts the next token."""
        if not self.family.causal or getattr(self.model, "get_output_embeddings", lambda: None)() is None:
            return None
        total, count = 0.0, 0
        for i, batch in enumerate(self.batches):
            nats = token_nats(self._run(self.model, i, batch, self._erasing(scrubber)).logits, batch)
            total += float(nats.double().sum())
            count += int(predicted(batch).sum())
        return total / count if count else None

    def _erasing(self, scrubber: ConceptScrubber, without: str = "") -> dict[str, Hook]:
        """Make the hooks that erase, at the fitted sites that a pass still reaches."""
        passed: tuple[str, ...] = ()
        if self.next is not None:
            passed = (*self.family.before, *(f"{self.family.blocks}.{i}." for i in range(self.next)))
        return {
            path: lambda site, x: scrubber.erasers[site].to(x.device)(x)
            for path in scrubber.erasers
            if path != without and not path.startswith(passed)
        }

    def _run(self, model: nn.Module, i: int, batch: Batch, hooks: Mapping[str, Hook]) -> Any:
        """Run the model on batch i, from the stored states if there are any; return None if a hook stopped it."""
        with hooked(self.model, hooks, pre_hook=self.pre_hook), self._from_states(i):
            try:
                return model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
            except _Stop:
                return None

    @contextmanager
    def _from_states(self, i: int) -> Iterator[None]:
        """Skip the blocks before `next` within this context, and replace the input of `next` by the stored states."""
        if self.states is None or self.next is None:
            yield
            return
        states = self.states[i]
        skipped = list(self.blocks)[: self.next]

        def give(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            if args:
                return (states.to(args[0].device), *args[1:]), kwargs
            name = next(iter(kwargs))
            return args, {**kwargs, name: states.to(kwargs[name].device)}

        block = self.blocks[min(self.next, len(self.blocks) - 1)]
        handle = block.register_forward_pre_hook(give, with_kwargs=True, prepend=True)
        try:
            with _skipped(skipped, self.returns_tuple):
                yield
        finally:
            handle.remove()


@contextmanager
def _skipped(blocks: list[nn.Module], as_tuple: bool) -> Iterator[None]:
    """Have the blocks return their inputs within this context."""

    def forward(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        return (hidden_states,) if as_tuple else hidden_states

    originals = [vars(block).get("forward") for block in blocks]
    try:
        for block in blocks:
            block.__dict__["forward"] = forward
        yield
    finally:
        for block, original in zip(blocks, originals, strict=True):
            if original is None:
                block.__dict__.pop("forward", None)
            else:
                block.__dict__["forward"] = original
