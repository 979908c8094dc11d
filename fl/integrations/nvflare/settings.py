"""What a job's arguments ask of the protocol, on the server and on its sites alike."""

from fl.aggregation.session_policy import SessionPolicy, usual_policy
from fl.integrations.nvflare.errors import NVFlareJobError
from secagg import Adversary, GraphKind

DEFAULT_MAX_ROUNDS = 1000
DEFAULT_TRAINING = "default"


def session_policy(
    adversary: str | None, min_inputs: int | None, graph: str | None, corrupt: float, identity_id: str | None
) -> SessionPolicy:
    """What sites ask of a session, and the server therefore plans.

    Args:
        adversary: the weakest adversary; by default malicious where sites have identities, else honest-but-curious.
        min_inputs: the fewest sites in a sum; by default 3 where sites have identities, else 2.
        graph: ``complete``, or ``sparse`` where sparse graphs will do too; None for `SessionPolicy`'s own default.
        corrupt: the fraction of sites that may share what they know with the server.
        identity_id: the id of the component with the sites' identities.

    Raises:
        NVFlareJobError: no such adversary or graph.
    """
    try:
        return usual_policy(
            has_identity=identity_id is not None,
            adversary=None if adversary is None else Adversary(adversary),
            min_inputs=min_inputs,
            graph=None if graph is None else GraphKind(graph),
            corrupt=corrupt,
        )
    except ValueError as error:
        raise NVFlareJobError(str(error)) from None
