"""Check that a strategy can work with an average: it must use replies only to take their weighted mean.

Secure aggregation gives a strategy one reply, the average.  A strategy that takes a median or picks replies would do so
with this one reply, without an error, and would no longer be the algorithm that it claims to be.  So it is refused
before anybody trains.
"""

import inspect
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


def calling_strategy() -> tuple[Any | None, int | None]:
    """Return the strategy whose method calls this, and the ``num_rounds`` that the method was given; or None.

    Flower does not tell a grid its user, so this inspects the call stack.
    """
    frame = sys._getframe(1)
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, Strategy):
            num_rounds = frame.f_locals.get("num_rounds")
            return caller, num_rounds if type(num_rounds) is int else None
        frame = frame.f_back  # type: ignore[assignment]
    return None, None


def is_vouched_for(strategy: Any) -> bool:
    """Return whether its author declares that it uses replies only to average them."""
    return getattr(type(strategy), "secagg_averages", False) is True


def check_strategy(strategy: Any) -> None:
    """Raise StrategyRefusedError unless ``strategy`` uses replies only to average them.

    Flower's own strategies are listed.  A class of your own is judged by its base class.  If it overrides
    `aggregate_train`, for example to log or save, that must call the inherited one; `averaging.watch` checks that the
    average gets there.  Only you can judge code that aggregates by itself: vouch for it with an attribute
    ``secagg_averages = True``.
    """
    if is_vouched_for(strategy):
        return
    kind = type(strategy)
    owners = [cls for cls in kind.__mro__ if "aggregate_train" in vars(cls)]
    base = next((cls for cls in owners if _is_flowers(cls) and cls is not Strategy), None)
    own = owners if base is None else owners[: owners.index(base)]
    by_itself = next((cls for cls in own if not _calls_inherited(cls)), None)
    if base is None or by_itself is not None:
        where = by_itself or next(iter(own), kind)
        raise StrategyRefusedError(
            f"{kind.__name__} aggregates by its own code ({where.__name__}.aggregate_train), and secure aggregation "
            "gives it one reply, the average of all. If it uses replies only to take their weighted mean, say so by "
            f"`secagg_averages = True` in the class; if not, it cannot work here"
        )
    # Use the class that people know; it may have inherited the method: Krum is a MultiKrum.
    known = next(cls.__name__ for cls in kind.__mro__ if _is_flowers(cls))
    name = known if known in _WHY_NOT else base.__name__
    if name in _WHY_NOT:
        raise StrategyRefusedError(
            f"{name} cannot be used with secure aggregation: {_WHY_NOT[name]}, but the server sees only their average"
        )
    if name in _WRAPPERS:
        if getattr(strategy, "accountant", None) is not None:
            raise StrategyRefusedError(
                f"{name} with an accountant counts the replies, and secure aggregation gives it one: do the accounting "
                "separately, without `accountant`"
            )
        check_strategy(strategy.strategy)
    elif name not in _AVERAGING:
        raise StrategyRefusedError(
            f"{name} is new to this adapter: if it uses replies only to take their weighted mean, derive a class from "
            "it with `secagg_averages = True`"
        )
    elif getattr(strategy, "train_metrics_aggr_fn", None) is not _default_metrics():
        _LOG.warning(
            "secagg: %s has its own train_metrics_aggr_fn, which sees one reply, the clients' average",
            kind.__name__,
        )
    if own:
        _LOG.warning(
            "secagg: %s.aggregate_train sees one reply, the clients' average: it cannot count or pick replies",
            own[0].__name__,
        )


def weight_of(strategy: Any) -> str:
    """Return the metric by which a strategy weighs replies."""
    inner = strategy
    while inner is not None and not hasattr(inner, "weighted_by_key"):
        inner = getattr(inner, "strategy", None)
    key = getattr(inner, "weighted_by_key", "num-examples")
    return key if isinstance(key, str) else "num-examples"


def _calls_inherited(cls: type) -> bool:
    """Return whether the code of its `aggregate_train` names another `aggregate_train`."""
    code = getattr(inspect.unwrap(vars(cls)["aggregate_train"]), "__code__", None)
    return code is not None and "aggregate_train" in code.co_names


def _is_flowers(cls: type) -> bool:
    return cls.__module__.split(".")[0] == "flwr"


def _default_metrics() -> Any:
    return getattr(strategies.strategy_utils, "aggregate_metricrecords", None)
