"""The private rounds of a job: its arguments, checked, and its ledger."""

from typing import Any

from fl.errors import FLError
from fl.integrations.nvflare._nvflare import logger
from fl.integrations.nvflare.errors import NVFlareJobError
from fl.integrations.private_rounds import PrivateRounds, require_budget
from fl.privacy.budget import Budget
from secagg import SessionPolicy

_LOG = logger(__name__)


def private_rounds(job: Any, policy: SessionPolicy) -> PrivateRounds | None:
    """Return the plans of a controller's private rounds; None without epsilon.

    Args:
        job: the `SecAggController`, whose arguments are its attributes.
        policy: the policy of its sites.

    Raises:
        NVFlareJobError: arguments do not fit each other, or the ledger cannot be used.
    """
    if job.epsilon is None:
        if (job.delta, job.l2_clip, job.ledger) != (None, None, None):
            raise NVFlareJobError("delta, l2_clip and ledger belong to a job with epsilon")
        return None
    if job.delta is None or job.l2_clip is None:
        raise NVFlareJobError("epsilon needs delta and l2_clip")
    fixed = [name for name in ("clip", "max_steps", "value_bits") if getattr(job, name) is not None]
    if fixed:
        raise NVFlareJobError(f"private rounds plan {', '.join(fixed)} themselves: leave them out")
    if job.graph == "sparse":
        raise NVFlareJobError("private rounds need the complete graph, and graph is 'sparse'")
    if job.metrics:
        _LOG.warning("metrics do not travel in private rounds: %s", ", ".join(job.metrics))
    model = {
        "dropout": job.dropout,
        "corrupt": job.corrupt,
        "adversary": policy.adversary,
        "threshold": job.threshold,
        "min_inputs": policy.min_inputs,
    }
    budget = Budget(epsilon=job.epsilon, delta=job.delta, rounds=job.num_rounds, clip=job.l2_clip)
    try:
        require_budget(budget)
        return PrivateRounds.of(budget, job.ledger, model)
    except FLError as error:
        raise NVFlareJobError(str(error)) from None
