"""Three thousand users, a hundred in a round, with differential privacy: central, distributed and local noise.

Each client takes part in a round with probability 1/30.  All arms of an epsilon spend it at delta = 1 over the number
of users, in the same number of rounds, by the same accounting; what differs is who must be trusted with what.  The
learning rate, the clip and the number of rounds were chosen on other seeds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from fl.config.run_config import RunConfig
from fl.config.seeds import SAMPLING_SEED, derived_seed
from fl.data import Dataset
from fl.engines import Resources
from fl.experiments.beside import Beside, curve
from fl.experiments.experiment import ArmResult, ArmWork, Experiment
from fl.experiments.federated import FederatedArm
from fl.experiments.private_sums import DistributedMethod, GaussianMethod, Method, NoisySums, gaussian_multiplier
from fl.experiments.results import Document, arms_by_name
from fl.learning.parameter_layout import ParameterLayout
from fl.privacy.budget import Budget
from fl.privacy.planner import plan_private
from fl.runs.records import RoundRecord
from fl.runs.rounds import FederatedRun
from secagg import ClientId, PlanError
from secagg.algebra import packing

USERS, SAMPLE = 3000, 100
DATASETS = ("mnist", "fashion-mnist")
EPSILONS = (1, 3, 10)
SEEDS = 3
RING_BITS = (12, 14, 16)

Kind = Literal["central", "distributed", "local"]
METHODS: tuple[tuple[str, Kind, int | None], ...] = (
    ("central", "central", None),
    *((f"skellam-{bits}", "distributed", bits) for bits in reversed(RING_BITS)),
    ("local", "local", None),
)
"""For each method: its part of an arm's name, its kind, and the ring's bits if the mechanism has a ring."""

_TITLES = {"central": "central Gaussian noise", "distributed": "Skellam noise by the clients", "local": "local noise"}

_TRAINING: dict[str, Any] = {
    "model": "logistic",
    "epochs": 1,
    "batch_size": 10,
    "learning_rate": 0.03,
    "server_optimizer": "fedavgm",
    "server_momentum": 0.9,
}
_ROUNDS, _CLIP = 60, 0.1


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmPrivacy:
    """How an arm keeps a budget.

    Attributes:
        kind: who adds the noise: somebody who sees the plain sum, the clients together, or each client for itself.
        epsilon, delta, clip: as in `fl.privacy.planner.Budget`.
        ring_bits: bits of the ring, if the clients add noise together.
    """

    kind: Kind
    epsilon: float
    delta: float
    clip: float
    ring_bits: int | None = None

    def method(self, rounds: int, rate: float, sample: int, length: int) -> tuple[Method, dict[str, Any]]:
        """Return the method for updates of this length, and its figures; PlanError if the budget cannot be kept."""
        budget = Budget(
            epsilon=self.epsilon,
            delta=self.delta,
            rounds=rounds,
            clip=self.clip,
            sampling_rate=rate,
            ring_bits=self.ring_bits,
        )
        if self.kind == "distributed":
            plan = plan_private(budget, num_clients=sample, length=length)
            mechanism = plan.mechanism
            deviation = (plan.release.honest * mechanism.variance) ** 0.5 * mechanism.granularity
            return DistributedMethod(plan), {
                "noise_multiplier": deviation / self.clip,
                "granularity": mechanism.granularity,
                "dimension": mechanism.dimension,
            }
        multiplier = gaussian_multiplier(budget)
        method = GaussianMethod(
            length=length, clip=self.clip, deviation=multiplier * self.clip, is_local=self.kind == "local"
        )
        return method, {"noise_multiplier": multiplier * (sample**0.5 if self.kind == "local" else 1)}


class SampledRun(FederatedRun):
    """A run whose clients take part in a round independently of each other, by the run's seed, so that it repeats."""

    def _sample(self, number: int) -> tuple[ClientId, ...]:
        data = self.config.data
        drawn = np.random.default_rng(derived_seed(self.config.seed, SAMPLING_SEED, number)).random(data.clients)
        return tuple(np.flatnonzero(drawn < self.config.sample / data.clients).tolist())


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivateArm(FederatedArm):
    """A run with noise, or without if `privacy` is None. That no plan keeps the budget is a result like another."""

    privacy: ArmPrivacy | None

    def settings(self) -> dict[str, Any]:
        """Return all values that decide the result."""
        return {**FederatedArm.settings(self), "privacy": None if self.privacy is None else asdict(self.privacy)}

    def run(self, work: ArmWork) -> ArmResult:
        """Train, or resume training."""
        try:
            return FederatedArm.run(self, work)
        except PlanError as error:
            return {"headline": f"refused: {error}", "seconds": 0.0, "refused": list(error.reasons)}

    def _start(self, dataset: Dataset, resources: Resources) -> FederatedRun:
        run = SampledRun(self.config, dataset, "plain", resources)
        if self.privacy is not None:
            run.aggregator = NoisySums(self._method(run)[0])
        return run

    def _method(self, run: FederatedRun) -> tuple[Method, dict[str, Any]]:
        config, length = self.config, ParameterLayout.of(run.model).size
        if self.privacy is None:
            raise ValueError("an arm without privacy has no method")
        return self.privacy.method(config.rounds, config.sample / config.data.clients, config.sample, length)

    def _result(self, run: FederatedRun, dataset: Dataset, records: list[RoundRecord]) -> ArmResult:
        result = FederatedArm._result(self, run, dataset, records)
        result["by_round"] = {name: result["by_round"][name] for name in ("accuracy", "loss")}
        if self.privacy is None:
            # The ordinary encoding of the same updates, which this arm does not use: it changes a sum's last digits.
            params = run.plans.plan(self.config.sample).parameters
            return {**result, "client_bytes": packing.packed_size(params.vector_length, params.ring_bits)}
        method, figures = self._method(run)
        return {**result, **figures, "client_bytes": method.client_bytes}


def build(*, quick: bool, seed: int) -> Experiment:
    """Return the experiment; see `fl.experiments.catalog.ExperimentModule`."""
    users, sample, rounds, seeds = (100, 20, 2, 1) if quick else (USERS, SAMPLE, _ROUNDS, SEEDS)
    arms = []
    for number in range(seed, seed + seeds):
        for dataset in ("digits",) if quick else DATASETS:
            config = RunConfig.of(
                **_TRAINING,
                dataset=dataset,
                clients=users,
                sample=sample,
                rounds=rounds,
                seed=number,
                partition="iid",
                engine="batched",
                aggregator="plain",
            )
            title = f"{dataset}, seed {number}"
            name = arm_name(dataset, "none", None, number)
            arms.append(PrivateArm(name=name, title=f"{title}: no noise, no clip", config=config, privacy=None))
            for epsilon in EPSILONS:
                for method, kind, bits in METHODS:
                    ring = "" if bits is None else f", {bits} bits"
                    arms.append(
                        PrivateArm(
                            name=arm_name(dataset, method, epsilon, number),
                            title=f"{title}: {_TITLES[kind]}{ring}, epsilon {epsilon}",
                            config=config,
                            privacy=ArmPrivacy(kind=kind, epsilon=epsilon, delta=1 / users, clip=_CLIP, ring_bits=bits),
                        )
                    )
    return Experiment(name="private-users", title="Three thousand users with differential privacy", arms=tuple(arms))


def arm_name(dataset: str, method: str, epsilon: int | None, seed: int) -> str:
    """Return the name of an arm."""
    return f"{dataset}-{method}{'' if epsilon is None else f'-epsilon-{epsilon}'}-seed-{seed}"


def beside(document: Document) -> dict[str, Beside]:
    """Return the extra data for reports; see `fl.experiments.catalog.ExperimentModule`."""
    arms = arms_by_name(document)
    found: dict[str, Beside] = {}
    for seed in range(document["seed"], document["seed"] + SEEDS):
        for dataset in DATASETS:
            plain = arms.get(arm_name(dataset, "none", None, seed))
            names = [arm_name(dataset, method, epsilon, seed) for epsilon in EPSILONS for method, _, _ in METHODS]
            found |= {name: Beside((curve("no noise", [plain]),)) for name in names if plain and name in arms}
    return found
