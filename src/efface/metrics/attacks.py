"""Metrics of `evaluation=attacks`."""

from efface.metrics.metric import Metric

_NO_ATTACKS = "there are no attackers (evaluation=attacks has some)"
_ATTACKERS = {
    "linear": ("linear attack", "a linear classifier"),
    "mlp_32": ("MLP 32 attack", "a network of one hidden layer of width 32"),
    "mlp_128": ("MLP 128 attack", "a network of one hidden layer of width 128"),
    "mlp_512": ("MLP 512 attack", "a network of one hidden layer of width 512"),
    "trees": ("trees attack", "gradient-boosted trees"),
    "neighbours": ("neighbours attack", "k nearest neighbours"),
    "rbf": ("kernel attack", "a linear classifier on features of a radial kernel"),
}
"""Heading and description of each, by its name in `efface.evaluation.attackers`."""

ATTACKS: tuple[Metric, ...] = (
    *(
        Metric(
            f"attack_{name}_information",
            f"{heading}, bits",
            f"information of {kind}, trained and chosen on one half and scored on the other",
            "Xu et al., 2020 (V-information)",
            "lower",
            undefined=_NO_ATTACKS,
        )
        for name, (heading, kind) in _ATTACKERS.items()
    ),
    Metric(
        "strongest_attack_information",
        "strongest attack, bits",
        "largest information of all attackers; its interval allows for its being the largest of several",
        "",
        "lower",
        undefined=_NO_ATTACKS,
    ),
)
