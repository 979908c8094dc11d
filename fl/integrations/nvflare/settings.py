"""The session policy that follows from a job's arguments, the same on the server and the sites."""

from fl.aggregation.planning import name_problems
from fl.aggregation.session_policy import SessionPolicy, usual_policy
from fl.integrations.nvflare.errors import NVFlareJobError
from secagg import Adversary, GraphKind
from transport.driver import Deadlines

DEFAULT_MAX_ROUNDS = 1000
DEFAULT_TRAINING = "default"


def session_policy(
    adversary: str | None, min_inputs: int | None, graph: str | None, corrupt: float, identity_id: str | None
) -> SessionPolicy:
    """Return the policy that sites have for a session, and that the server plans for.

    Args:
        adversary: the weakest adversary; by default malicious if sites have identities, else honest-but-curious.
        min_inputs: the fewest sites in a sum; by default 3 if sites have identities, else 2.
        graph: ``complete``, or ``sparse`` to accept sparse graphs too; None or ``auto`` for `SessionPolicy`'s default.
        corrupt: the fraction of sites that may share what they know with the server.
        identity_id: the id of the component with the sites' identities.

    Raises:
        NVFlareJobError: the adversary or the graph is unknown.
    """
    if problems := name_problems(graph, adversary):
        raise NVFlareJobError("; ".join(problems))
    try:
        return usual_policy(
            has_identity=identity_id is not None,
            adversary=None if adversary is None else Adversary(adversary),
            min_inputs=min_inputs,
            # A site's usual policy takes what ``auto`` stands for.
            graph=None if graph in (None, "auto") else GraphKind(graph),
            corrupt=corrupt,
        )
    except ValueError as error:
        raise NVFlareJobError(str(error)) from None


def deadlines(round_timeout: float, train_timeout: float) -> Deadlines:
    """Return the seconds that the protocol's rounds wait; ValueError or TypeError for impossible ones."""
    return Deadlines(
        advertise_keys=round_timeout,
        share_keys=round_timeout,
        masked_input_collection=train_timeout,
        consistency_check=round_timeout,
        unmasking=round_timeout,
    )
