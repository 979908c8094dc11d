"""A node's limits of privacy in a framework: its ledger on disk, checked before training and charged before it."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from fl.errors import ConfigError
from fl.files import held
from fl.privacy.policy import PrivacyAccount, PrivacyPolicy
from fl.privacy.terms import PrivateTerms
from secagg import Parameters, SessionPolicy
from transport import JournalError
from transport.durable.participation import private_folder

_LOCK = "privacy.lock"


@dataclass(frozen=True, slots=True)
class OwnPrivacy:
    """What a node gives away at most, and where it keeps what it has given away.

    Attributes:
        limits: the limits; None: the node takes sessions with noise and without.
        policy: its conditions for sessions.
        folder: the folder of the ledger, of this node alone, on a local disk; it must outlive all trainings.
    """

    limits: PrivacyPolicy | None
    policy: SessionPolicy
    folder: str | os.PathLike[str] | None

    def check(self, terms: PrivateTerms | None, params: Parameters) -> None:
        """Check a session before anything of this node takes part in it.

        Raises:
            PolicyError: the session's parameters or terms are not within this node's conditions and limits.
            ConfigError: the ledger cannot be used.
        """
        replace(self.policy, may_wrap=terms is not None).check(params)
        with self._account() as account:
            if account is not None:
                account.check(terms, params)

    def charge(self, terms: PrivateTerms, params: Parameters) -> None:
        """Charge a session, on disk, before its input is made: each input is new noise, and is charged anew.

        Raises:
            PolicyError: the session is above a limit, which others may have used up since `check`.
            ConfigError: the ledger cannot be used; nothing may leave.
        """
        with self._account() as account:
            if account is not None:
                account.check(terms, params)
                account.charge(terms, params, len(account.ledger.charges) + 1, session=os.urandom(32))

    @contextmanager
    def _account(self) -> Iterator[PrivacyAccount | None]:
        if self.limits is None:
            yield None
            return
        if self.folder is None:
            raise ConfigError("limits of privacy need a folder for this node's ledger")
        try:
            folder = private_folder(self.folder)
        except JournalError as error:
            raise ConfigError(str(error)) from None
        with held(Path(folder), _LOCK):
            yield PrivacyAccount(self.limits, self.policy, Path(folder))
