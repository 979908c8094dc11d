"""A server and its clients over several sessions: participants, messages, and what must never happen."""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any

from secagg import Adversary, LocalProtocolError, Parameters, decode_client_message, decode_server_message, encode
from secagg.messages import UnmaskingShares
from tests.adversarial.lies.figures import Figures, Lie
from tests.adversarial.lies.fronts import Front, HostLine, LibraryLine, Terms
from tests.adversarial.lies.ledger import Ledger, ModelError, Refused, Run


def kind_of(mode: Adversary, graph: str) -> str:
    """Return a kind of session, for the figures."""
    return f"{mode.value}, {graph}"


@dataclass
class World:
    """One server, its clients behind one front, and their sessions.

    Attributes:
        kind: kind of its sessions, for the figures.
        turn: index of the lie to be told more often than others.
        clients: possible participants; the `Ledger` knows which of them are corrupt.
    """

    name: str
    front: Front
    params: Parameters
    clients: tuple[int, ...]
    rng: Random
    figures: Figures
    ledger: Ledger = field(default_factory=Ledger)
    number: int = 0
    turn: int = 0
    terms: list[Terms] = field(default_factory=list)
    left_open: list[Callable[[], None]] = field(default_factory=list)
    _runs: defaultdict[bytes, list[Run]] = field(default_factory=lambda: defaultdict(list))

    @property
    def kind(self) -> str:
        return kind_of(self.params.adversary, "complete" if self.params.is_complete else "sparse")

    @property
    def is_lied_to(self) -> bool:
        """Return whether anything is claimed against a server that lies."""
        return self.params.adversary is not Adversary.HONEST_BUT_CURIOUS

    def new_terms(self) -> Terms:
        """Return the terms of a proper session: a new nonce and the next number."""
        self.number += 1
        terms = Terms(self.params, self.rng.randbytes(8), self.rng.randbytes(8), self.number)
        self.terms.append(terms)
        return terms

    def runs_of(self, session: bytes) -> list[Run]:
        """Return all runs under a session id."""
        return self._runs[session]

    # --- Talking to clients -------------------------------------------------------------------------------------------

    def open(self, client_id: int, terms: Terms, owner: int | None = None) -> Run | None:
        """Ask a client to take part; return None if it does not. Corrupt clients live in the library.

        ``owner`` is the client that it asks to be this one, if that is not given.
        """
        entropy = None
        line: Any
        if owner is None or client_id in self.ledger.corrupt:
            owner = client_id
        try:
            if client_id in self.ledger.corrupt:
                corrupt = LibraryLine(client_id, terms, self.front.context(terms), f"corrupt/{self.rng.random()}")
                line, first, entropy = corrupt, corrupt.start(), corrupt.entropy
            else:
                line, first = self.front.open(client_id, owner, terms)
        except Refused as refused:
            self.figures.refused[str(refused)] += 1
            return None
        message = decode_client_message(first, terms.params)
        run = Run(client_id, owner, terms.params, message.session_id, line, entropy)
        run.input_name = self.front.same_input(owner, terms) or run
        run.round = (owner, terms.number)
        self.ledger.hear(run, message)
        self._runs[run.session_id].append(run)
        return run

    def tell(self, run: Run, message: Any, *, again: bool = False) -> Any:
        """Send any message to a run of a client; return its answer, or None."""
        if run.refused is not None:
            return None
        try:
            data = message if isinstance(message, bytes) else encode(message, run.params)
        except LocalProtocolError:
            # This message cannot be encoded.
            return None
        try:
            answer = run.line.tell(data, again=again)
        except Refused as refused:
            run.refused = str(refused)
            self.figures.refused[run.refused] += 1
            return None
        if answer is None:
            return None
        taken = decode_server_message(data, run.params)
        run.told[type(taken)] = taken
        return self._hear(run, answer)

    def _hear(self, run: Run, answer: bytes) -> Any:
        said = decode_client_message(answer, run.params)
        self.ledger.hear(run, said)
        if isinstance(said, UnmaskingShares):
            self.figures.events["answers"] += 1
        return said

    def tell_both(self, run: Run, first: Any, second: Any) -> None:
        """Send two requests at once, if the line can: at most one may be answered."""
        if run.refused is not None:
            return
        self.figures.lies[Lie.AT_ONCE] += 1
        line: Any = run.line
        requests = [encode(message, run.params) for message in (first, second)]
        answers = dict(zip(requests, line.tell_both(*requests), strict=True))
        answered = {request: answer for request, answer in answers.items() if answer is not None}
        if len(set(answered.values())) > 1:
            self.figures.second_answers.append(f"{self.name}: client {run.client_id} to two requests at once")
        for request, answer in answered.items():
            taken = decode_server_message(request, run.params)
            run.told[type(taken)] = taken
            self._hear(run, answer)

    def offer_another(self, run: Run) -> None:
        """Offer another session in the middle of this one, on a front with offers."""
        changes = {"number": self.number + 1} if self.rng.random() < 0.5 else {"nonce": self.rng.randbytes(8)}
        if run.refused is None and isinstance(run.line, HostLine):
            self.figures.lies[Lie.OTHER_OFFER] += 1
            try:
                run.line.offer_another(**changes)
            except Refused as refused:
                run.refused = str(refused)
                self.figures.refused[run.refused] += 1

    def crash(self, run: Run) -> None:
        """Restart the client's process, or its connection."""
        if run.refused is not None:
            return
        self.figures.events["crashes"] += 1
        try:
            answer = run.line.crash()
        except Refused as refused:
            run.refused = str(refused)
            return
        if answer is None:
            return
        said = decode_client_message(answer, run.params)
        if isinstance(said, UnmaskingShares):
            self.ledger.hear(run, said)
        elif encode(run.heard[type(said)], run.params) != answer:
            self.figures.second_answers.append(f"{self.name}: client {run.client_id} said something else")

    # --- Promises -----------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Count what must never happen, after all sessions."""
        figures, ledger = self.figures, self.ledger
        figures.double_reveals += [f"{self.name}: client {run.client_id}" for run in ledger.second_secrets()]
        answered: defaultdict[Any, set[Run]] = defaultdict(set)
        for run in ledger.honest:
            if len(run.answers) > 1:
                figures.second_answers.append(f"{self.name}: client {run.client_id} in one run")
            if run.answers and self.front.answers_once:
                answered[run.round].add(run)
                # In semi-malicious mode a client's identity is drawn for the run: a second run is another client's.
                if run.params.has_identities:
                    answered[run.owner, run.session_id].add(run)
        figures.second_answers += [
            f"{self.name}: {what} in {len(runs)} runs" for what, runs in answered.items() if len(runs) > 1
        ]
        if ledger.second_secrets():
            # Both secrets of a client are out: the conclusions from it would be counted once more.
            return
        try:
            for learnt in ledger.sums():
                figures.note_sum(self.kind, learnt.clients, learnt.least)
                if len({run.line.basis for run in learnt.runs}) > 1:
                    figures.mixed_sums.append(f"{self.name}: of {learnt.clients}")
            figures.small_sums += [f"{self.name}: {one.clients} of {one.least}" for one in ledger.small_sums()]
        except ModelError as error:
            figures.wrong_sums.append(f"{self.name}: {error}")
