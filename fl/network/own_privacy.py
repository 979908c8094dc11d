"""A client's account of privacy: its ledger in the state folder, and what its user is told."""

from collections.abc import Iterator
from contextlib import contextmanager

from fl.errors import ConfigError
from fl.files import held
from fl.network.offers import JoinOptions
from fl.privacy.policy import PrivacyAccount
from fl.privacy.terms import PrivateTerms
from secagg import Parameters
from transport import JournalError
from transport.durable.participation import private_folder

_LOCK = "join.lock"


@contextmanager
def own_account(options: JoinOptions) -> Iterator[PrivacyAccount | None]:
    """Open a client's account, for this process alone; None if the client has no limits of privacy.

    Raises:
        ConfigError: there is no state folder, it is in use or others can write to it; or the ledger cannot be read.
    """
    limits = options.policy.privacy
    if limits is None:
        yield None
        return
    if options.state is None:
        raise ConfigError(
            "max-epsilon needs --state, a folder for the ledger: without it, a client that is started again would not "
            "know what it has given away"
        )
    try:
        # The inner folder has the ledger: whoever can write there can make the client forget what it has spent.
        folder = private_folder(private_folder(options.state) / f"client-{options.client_id}.privacy")
    except JournalError as error:
        raise ConfigError(str(error)) from None
    with held(folder, _LOCK):
        account = PrivacyAccount(limits, options.policy, folder)
        try:
            yield account
        finally:
            # A thread may still train for a session that was cancelled; it must not write when the folder is free.
            account.close()


def spent_in_words(account: PrivacyAccount | None) -> str:
    """Return what a client has spent, to stand after a sentence about a round; empty without an account."""
    if account is None:
        return ""
    return f"; this client's epsilon so far is {account.spent:.4g} of {account.limits.max_epsilon:g}"


def remark(terms: PrivateTerms, params: Parameters, account: PrivacyAccount | None) -> str:
    """Return what a user should know of a private session beside its epsilon; empty if there is nothing."""
    if account is None:
        return "updates get noise for the server's epsilon; to bound your own, give --max-epsilon and --delta"
    if not params.is_signed:
        return (
            "this client trusts the server to follow the protocol: a server that lies can get its update with its own "
            f"noise alone, of epsilon {account.alone(terms, params):.3g} a round"
        )
    return ""
