"""Which strategies can do with an average: those that use the replies only to take their weighted mean.

Secure aggregation hands a strategy one reply, the average.  A strategy that takes a median or picks replies would take
it of that one, without complaint, and be another algorithm than it says; so it is refused before anybody trains.
"""

import logging
import sys
from typing import Any

from fl.integrations.flower._flwr import Strategy, strategies
from fl.integrations.flower.errors import StrategyRefusedError

_LOG = logging.getLogger("flwr.secagg")

_AVERAGING = frozenset({"FedAvg", "FedAvgM", "FedAdam", "FedAdagrad", "FedYogi", "FedProx", "FedOpt"})

_WRAPPERS = frozenset({"DifferentialPrivacyClientSideFixedClipping"})

_WHY_NOT = {
    "FedMedian": "it takes the median of the clients' models",
    "FedTrimmedAvg": "it sorts the clients' models, and leaves out the ends",
    "Krum": "it picks one client's model",
    "MultiKrum": "it picks some clients' models",
    "Bulyan": "it picks some clients' models, and trims them",
    "QFedAvg": "it weighs each client's model by that client's loss",
    "FedXgbBagging": "it collects the clients' trees, which have no average",
    "FedXgbCyclic": "it hands one client's trees to the next",
    "DifferentialPrivacyServerSideFixedClipping": "it clips each client's model on the server: clip on the clients, "
    "with fixedclipping_mod and DifferentialPrivacyClientSideFixedClipping",
    "DifferentialPrivacyServerSideAdaptiveClipping": "it clips each client's model on the server",
    "DifferentialPrivacyClientSideAdaptiveClipping": "it counts the clients that clipped, one reply each",
}


def calling_strategy() -> Any | None:
    """The strategy whose `start` this is called from, or None. A grid is not told who uses it: the stack is asked."""
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Strategy):
            return caller
        frame = frame.f_back  # type: ignore[assignment]
    return None


def check_strategy(strategy: Any) -> None:
    """StrategyRefusedError unless ``strategy`` uses replies to average them, and nothing else.

    Of Flower's own strategies that is known.  A class of your own is judged by what it inherits; where it aggregates by
    code of its own, nobody but you can know: say so by an attribute ``secagg_averages = True``.
    """
    if getattr(type(strategy), "secagg_averages", False) is True:
        return
    owner = next((cls for cls in type(strategy).__mro__ if "aggregate_train" in vars(cls)), None)
    name = owner.__name__ if owner is not None else type(strategy).__name__
    if owner is None or not _is_flowers(owner):
        raise StrategyRefusedError(
            f"{type(strategy).__name__} aggregates by code of its own ({name}.aggregate_train), and secure aggregation "
            "gives it one reply, the average of all. If it uses replies only to take their weighted mean, say so by "
            f"`secagg_averages = True` in the class; if not, it cannot work here"
        )
    if name in _WHY_NOT:
        raise StrategyRefusedError(
            f"{name} cannot be used with secure aggregation: {_WHY_NOT[name]}, and the server sees only their average"
        )
    if name in _WRAPPERS:
        if getattr(strategy, "accountant", None) is not None:
            raise StrategyRefusedError(
                f"{name} with an accountant counts the replies, and secure aggregation gives it one: do the accounting "
                "apart, or without `accountant`"
            )
        check_strategy(strategy.strategy)
    elif name not in _AVERAGING:
        raise StrategyRefusedError(
            f"{name} is new to this adapter: if it uses replies only to take their weighted mean, derive a class from "
            "it with `secagg_averages = True`"
        )
    elif getattr(strategy, "train_metrics_aggr_fn", None) is not _default_metrics():
        _LOG.warning(
            "secagg: %s has a train_metrics_aggr_fn of its own, which sees one reply: the clients' average",
            type(strategy).__name__,
        )


def weight_of(strategy: Any) -> str:
    """The metric by which a strategy weighs replies."""
    inner = strategy
    while inner is not None and not hasattr(inner, "weighted_by_key"):
        inner = getattr(inner, "strategy", None)
    key = getattr(inner, "weighted_by_key", "num-examples")
    return key if isinstance(key, str) else "num-examples"


def _is_flowers(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "flwr"


def _default_metrics() -> Any:
    return getattr(strategies.strategy_utils, "aggregate_metricrecords", None)
