"""Scores of StereoSet and CrowS-Pairs, computed by hand."""

import pytest

from efface.stereotypes.scores import prefers_more, stereoset_scores


def test_crows_pairs_is_the_share_of_stereotyping_sentences_that_are_likelier() -> None:
    # Three of five are likelier; the equal pair counts as one that is not.
    score = prefers_more([-1.0, -5.0, -2.0, -3.0, -4.0], [-2.0, -4.0, -3.0, -3.0, -9.0])
    assert score.value == pytest.approx(3 / 5)
    assert score.interval is not None
    low, high = score.interval
    assert 0 <= low < 3 / 5 < high <= 1


def test_stereoset_is_a_mean_over_terms() -> None:
    terms = ["nurse", "nurse", "chef"]
    scores = [  # stereotype, anti-stereotype, unrelated
        (-1.0, -2.0, -3.0),  # prefers the stereotype; both above the unrelated
        (-4.0, -2.0, -3.0),  # prefers the other; one above the unrelated
        (-2.0, -1.0, -1.5),  # prefers the other; one above the unrelated
    ]
    measured = stereoset_scores(terms, scores)
    lms = ((2 + 1) / 4 + 1 / 2) / 2  # of nurse and of chef
    ss = (1 / 2 + 0) / 2
    assert measured.lms.value == pytest.approx(lms)
    assert measured.ss.value == pytest.approx(ss)
    assert measured.icat.value == pytest.approx(lms * ss / 0.5)


def test_stereoset_of_an_ideal_a_stereotyping_and_a_random_model() -> None:
    """The three reference models of the paper: ICAT 100, 0 and 50."""
    fair = [(2.0, 1.0, 0.0), (1.0, 2.0, 0.0)]
    ideal = stereoset_scores(["a", "a"], fair)
    assert (ideal.lms.value, ideal.ss.value, ideal.icat.value) == (1, 0.5, 1)
    assert ideal.icat.interval is None  # of one term nothing can be resampled
    stereotyping = stereoset_scores(["a", "b"], [fair[0]] * 2)
    assert (stereotyping.lms.value, stereotyping.ss.value, stereotyping.icat.value) == (1, 1, 0)
    random = stereoset_scores(["a"] * 4, [(2, 1, 1.5), (1, 2, 1.5), (2, 1, 1.5), (1, 2, 1.5)])
    assert (random.lms.value, random.ss.value, random.icat.value) == (0.5, 0.5, 0.5)


def test_equal_stereotype_and_anti_stereotype_count_as_the_latter() -> None:
    assert stereoset_scores(["a"], [(1.0, 1.0, 0.0)]).ss.value == 0


def test_published_icat_follows_from_its_parts() -> None:
    """GPT-2 on gender, dev, of the published predictions: the formula gives the third figure of the first two."""
    lms, ss = 0.932779, 0.626678
    assert lms * min(ss, 1 - ss) / 0.5 == pytest.approx(0.696454, abs=1e-5)
