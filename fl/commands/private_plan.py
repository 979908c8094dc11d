"""`secagg plan --epsilon`: the numbers of a private run, for people and as JSON."""

from typing import Any

from rich.console import Console
from rich.table import Table

from fl.privacy.budget import Budget
from fl.privacy.mechanism import Noise
from fl.privacy.planner import PrivacyPlan, plan_private
from fl.runs.plan_json import plan_to_json
from secagg import Adversary, GraphKind, PlanError


def make_private_plan(
    budget: dict[str, Any], *, adversary: str, graph: str, num_clients: int, length: int, **model: Any
) -> PrivacyPlan:
    """Return the plan from the command line's values; PlanError with all reasons, unknown names among them.

    Args:
        budget: the fields of `Budget`, None where an option was not given.
        adversary, graph: their names.
        num_clients, length, model: as for `plan_private`.
    """
    filled: dict[str, Any] = {"delta": 1e-5, "rounds": 1, "clip": 1.0, "noise": Noise.SKELLAM.value}
    filled |= {name: value for name, value in budget.items() if value is not None}
    reasons = [f"a plan with --epsilon needs --{name}" for name in ("delta", "rounds") if budget[name] is None]
    choices: dict[str, Any] = {}
    names: dict[str, dict[str, Any]] = {
        "adversary": {member.value: member for member in Adversary},
        "graph": {"auto": GraphKind.COMPLETE, **{member.value: member for member in GraphKind}},
        "noise": {member.value: member for member in Noise},
    }
    given = {"adversary": adversary, "graph": graph, "noise": filled["noise"]}
    for name, known in names.items():
        value = given[name]
        if value not in known:
            reasons.append(f"unknown {name} {value!r}; known are {', '.join(known)}")
        choices[name] = known.get(value, next(iter(known.values())))
    try:
        chosen = plan_private(
            Budget(**{**filled, "noise": choices.pop("noise")}),
            num_clients=num_clients,
            length=length,
            **choices,
            **model,
        )
    except PlanError as error:
        raise PlanError((*reasons, *error.reasons)) from None
    if reasons:
        raise PlanError(tuple(reasons))
    return chosen


def private_plan_to_json(plan: PrivacyPlan) -> dict[str, Any]:
    """Return the plan as plain values."""
    mechanism, release, clients = plan.mechanism, plan.release, plan.session.parameters.num_clients
    return {
        **plan_to_json(plan.session),
        "privacy": {
            "epsilon": plan.epsilon,
            "known_epsilon": plan.known_epsilon,
            "known_rounds": plan.known_rounds,
            "noise": mechanism.noise.value,
            "noise_stddev": mechanism.variance**0.5,
            "honest_clients": release.honest,
            "noise_components": plan.session.parameters.noise_components,
            "clip": mechanism.clip,
            "granularity": mechanism.granularity,
            "length": mechanism.length,
            "figures": mechanism.figures,
            "figure_stddev": mechanism.figure_stddev(clients) if mechanism.figures else None,
            "scores": 0 if plan.scores is None else plan.scores.mechanism.length,
            "score_stddev": None if plan.scores is None else plan.scores.mechanism.stddev(clients) / clients,
            "sampling_rate": release.sampling_rate,
        },
        "reasons": list(plan.reasons),
    }


def print_private_plan(plan: PrivacyPlan, console: Console) -> None:
    """Print the numbers and the reasons."""
    params, mechanism = plan.session.parameters, plan.mechanism
    table = Table(title=f"private plan for {params.num_clients} clients", show_header=False)
    for name, value in (
        ("epsilon", f"{plan.epsilon:.4g}"),
        ("noise", f"{mechanism.noise.value}, {mechanism.variance**0.5:.4g} steps a client"),
        ("granularity", f"{mechanism.granularity:.4g}"),
        ("ring bits", f"{params.ring_bits}"),
        ("vector length", f"{params.vector_length:,}"),
        ("threshold", f"{params.threshold:,}"),
        ("degree", f"{params.degree:,}"),
    ):
        table.add_row(name, value)
    console.print(table)
    for reason in plan.reasons:
        console.print(f"- {reason}", highlight=False, soft_wrap=True)
