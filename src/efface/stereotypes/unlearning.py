"""Fast Model Debias on the output layer of a language model (Chen et al., NeurIPS 2023, strategy `external`).

The published step removes the biased member of each external pair from the training sum and adds its counterfactual,

    θ' = θ − (H + λI)⁻¹ Σ_pairs (∇ℓ(counterfactual) − ∇ℓ(biased)) / (number of pairs),

with H the Hessian of the loss on the model's text. ℓ of a sentence is minus the log-likelihood that CrowS-Pairs is
scored with. The λ on a path of them that is best on StereoSet's dev is taken, or the model as it is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor

from efface.data.crows_pairs import SentencePair, read_pairs
from efface.files import file_digest
from efface.options import Ge, Gt, Len, Lt, options
from efface.scrubbing.language_models import LanguageModel
from efface.scrubbing.tokens import TokenData
from efface.stereotypes.ask import masked_at
from efface.stereotypes.benchmarks import Questions, by_example, crows_pairs_questions, stereoset_questions
from efface.stereotypes.evaluation import CONCEPT, StereotypeEvaluation, is_for_fitting
from efface.stereotypes.intervention import Intervention
from efface.stereotypes.queries import Query, States, log_probabilities, output_layer, output_states
from efface.stereotypes.scores import StereoSetScores, stereoset_scores
from efface.stereotypes.vocabulary import OutputLayer, VocabularyHessian


class HeadMethod(ABC):
    """A class of `options` that changes the output layer."""

    @abstractmethod
    def fingerprint(self, data_dir: Path) -> str:
        """Return a digest of the files that it reads, beside those of the evaluation."""

    @abstractmethod
    def fit(
        self,
        lm: LanguageModel,
        train: TokenData,
        evaluation: StereotypeEvaluation,
        *,
        data_dir: Path,
        seed: int,
        progress: bool,
    ) -> Intervention:
        """Fit on train, and choose on StereoSet's dev."""


@dataclass(frozen=True)
class Chosen:
    """The best candidate so far."""

    scores: StereoSetScores
    penalty: float | None = None
    """None for the model as it is."""
    weight: Tensor | None = None


@options
class HeadUnlearning(HeadMethod):
    """FMD `external` on the output layer.

    Args:
        pairs: a csv below the data directory with the columns of CrowS-Pairs, all of whose pairs are used; None for
            every other pair of CrowS-Pairs that is about gender, which is then not measured on them.
        penalties: candidates for λ, in units of the largest curvature that the loss can have.
        hessian_tokens: tokens of train that H is a mean over, drawn at random.
        tol: on the residual of conjugate gradients, relative.
        max_iter: products with H for one λ at most; what is reached then is taken, and the record has the residual.
    """

    pairs: str | None = None
    penalties: Annotated[Sequence[Annotated[float, Gt(0)]], Len(1)] = (1.0, 0.1, 0.01, 0.001, 0.0001)
    hessian_tokens: Annotated[int, Ge(1)] = 1024
    tol: Annotated[float, Gt(0), Lt(1)] = 0.01
    max_iter: Annotated[int, Ge(1)] = 100

    def fingerprint(self, data_dir: Path) -> str:
        if self.pairs is None:
            return ""
        read_pairs(data_dir / self.pairs)
        return file_digest(data_dir / self.pairs)

    @torch.no_grad()
    def fit(
        self,
        lm: LanguageModel,
        train: TokenData,
        evaluation: StereotypeEvaluation,
        *,
        data_dir: Path,
        seed: int,
        progress: bool,
    ) -> Intervention:
        if evaluation.stereoset is None:
            raise ValueError("evaluation.stereoset is null, but fmd chooses its penalty on StereoSet's dev: name it")
        pairs = self._pairs(evaluation, data_dir)
        head = output_layer(lm)
        layer = OutputLayer(head.weight.detach().float(), None if head.bias is None else head.bias.detach().float())

        def read(queries: Sequence[Query]) -> States:
            states = output_states(lm, queries, batch_tokens=evaluation.batch_tokens, progress=progress)
            return states.to(layer.weight.device)

        _require_plain(lm, layer, text_queries(lm, train, 1, seed), read)
        score = dev_scorer(lm, layer, evaluation, data_dir, read)
        hessian = VocabularyHessian(layer, read(text_queries(lm, train, self.hessian_tokens, seed)).x)
        gradient = pair_gradient(layer, crows_pairs_questions(lm, pairs), read)
        chosen, path = Chosen(score(None)), list[dict[str, Any]]()
        for penalty, weight, facts in self._path(layer, hessian, gradient):
            scores = score(weight)
            path.append({"penalty": penalty, **facts, **{k: e.value for k, e in vars(scores).items()}})
            if scores.icat.value > chosen.scores.icat.value:
                chosen = Chosen(scores, penalty, weight)
        info: dict[str, Any] = {"pairs": len(pairs), "penalty": chosen.penalty, "unlearning_path": path}
        if chosen.weight is None:
            info["unchanged_reason"] = "no penalty raises ICAT on dev"
        seen = frozenset(pairs) if chosen.weight is not None else frozenset()
        return Intervention(head=chosen.weight, seen=seen, info=info)

    def _pairs(self, evaluation: StereotypeEvaluation, data_dir: Path) -> list[SentencePair]:
        if self.pairs is not None:
            return list(read_pairs(data_dir / self.pairs))
        if evaluation.crows_pairs is None:
            raise ValueError("pairs is null, and so is evaluation.crows_pairs: name a csv of pairs to learn from")
        numbered = enumerate(read_pairs(data_dir / evaluation.crows_pairs))
        return [pair for n, pair in numbered if pair.category == CONCEPT and is_for_fitting(n)]

    def _path(
        self, layer: OutputLayer, hessian: VocabularyHessian, gradient: Tensor
    ) -> Iterator[tuple[float, Tensor, dict[str, Any]]]:
        """Yield each penalty with its θ', and how it was solved; from the largest, which changes least."""
        for penalty in sorted(self.penalties, reverse=True):
            step, products, residual = hessian.solve(
                gradient, damping=penalty * hessian.curvature, tol=self.tol, max_iter=self.max_iter
            )
            yield penalty, layer.weight - step, {"products": products, "residual": residual}


def pair_gradient(layer: OutputLayer, questions: Questions, read: Callable[[Sequence[Query]], States]) -> Tensor:
    """Return the mean over pairs of ∇ℓ(less) − ∇ℓ(more), of θ's shape, ℓ minus a sentence's log-likelihood.

    Args:
        layer: θ.
        questions: for the likelihoods of the stereotyping members, and behind them of the others.
        read: returns what the output layer reads for some queries.
    """
    states = read(questions.queries)
    n_pairs = questions.n_sentences // 2
    sentence = torch.tensor(questions.sentence, device=states.query.device)[states.query]
    return layer.gradient(states, torch.where(sentence < n_pairs, -1.0, 1.0) / n_pairs)


def dev_scorer(
    lm: LanguageModel,
    layer: OutputLayer,
    evaluation: StereotypeEvaluation,
    data_dir: Path,
    read: Callable[[Sequence[Query]], States],
) -> Callable[[Tensor | None], StereoSetScores]:
    """Return what scores a θ on the examples of StereoSet's dev that are about gender, of both tasks together.

    A masked model judges sentences behind a context by another layer, so that those are left out.
    """
    examples = evaluation.examples(data_dir, "dev", domain=CONCEPT)
    if lm.head == "masked":
        examples = [example for example in examples if example.task == "intrasentence"]
    questions = stereoset_questions(lm, examples)
    states, terms = read(questions.queries), [example.target for example in examples]

    def score(weight: Tensor | None) -> StereoSetScores:
        scores = questions.scores(layer.log_probabilities(states, weight))
        return stereoset_scores(terms, by_example(scores))

    return score


def text_queries(lm: LanguageModel, text: TokenData, n: int, seed: int) -> list[Query]:
    """Ask for n tokens of a text or somewhat more, in sequences drawn at random; fewer, if it has no more.

    Of a causal model for all tokens of a sequence, of a masked one for one of each sequence.
    """
    generator = torch.Generator().manual_seed(seed)
    queries, count = list[Query](), 0
    for row in torch.randperm(len(text), generator=generator).tolist():
        ids = text.input_ids[row][text.attention_mask[row] > 0].tolist()
        if lm.head == "masked":
            first, end = len(lm.prefix), len(ids) - len(lm.suffix)
            queries.append(masked_at(lm, ids, int(torch.randint(first, end, (), generator=generator))))
        else:
            queries.append(Query(tuple(ids[:-1]), tuple(range(len(ids) - 1)), tuple(ids[1:])))
        count += len(queries[-1].places)
        if count >= n:
            break
    return queries


def _require_plain(
    lm: LanguageModel, layer: OutputLayer, queries: Sequence[Query], read: Callable[[Sequence[Query]], States]
) -> None:
    """Check that the model's probabilities are the softmax of θ x + b, and not of something made of that."""
    ours = torch.cat(layer.log_probabilities(read(queries))).cpu()
    theirs = torch.cat(log_probabilities(lm, queries, batch_tokens=1 << 10))
    if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-2):
        raise ValueError(
            f"model: {type(lm.model).__name__} does more to its logits than its output layer says (it scales or caps "
            "them), so that method=fmd does not apply: take another method"
        )
