"""The server's training: rounds over the network, with a run's folder as `secagg train` keeps it.

The folder also holds ``network.json``, the settings of all rounds.  During a round it holds ``round.journal``, the
journal of its session, and ``round.ranges.journal`` if a session before it measured the updates.  After a crash at any
moment, a new process continues the same round from these files, or from a database (`fl.network.failover`).
"""

import logging
import shlex
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.markup import escape

from fl.aggregation.planning import SessionPlans
from fl.aggregation.private_session import PrivateFigures, PrivatePlans
from fl.config.run_config import RunConfig
from fl.config.served import MIN_INPUTS, NetworkSettings, ServeOptions, check_resumed, settle
from fl.errors import ConfigError, FLError
from fl.files import is_full
from fl.learning.own_code import make_dataset
from fl.network import failover
from fl.network.addresses import show_address
from fl.network.aggregator import NetworkAggregator
from fl.network.errors import RoundFailedError
from fl.network.invitations import Invitations, ServingRules
from fl.network.listening import binding, network_errors, server_of
from fl.network.modes import check_certificates, chosen_adversary
from fl.network.private_run import PrivateRun
from fl.network.served_run import ServedRun
from fl.network.session_thread import SessionThread
from fl.privacy.ledger import LEDGER, EpsilonSpentError, Ledger
from fl.report import save_plot
from fl.runs.checkpoint import RunFolder
from fl.runs.display import TrainingDisplay, summary_table
from fl.runs.records import RoundRecord, raise_if_all_aborted
from fl.runs.summary import summarize
from fl.watch import Events, RoundFigures
from secagg import Adversary, KeyDirectory
from transport import TransportError
from transport.certificates.exclusion import Exclusions
from transport.certificates.reading import CertifiedKeys, Credentials
from transport.durable.storage import JournalStore
from transport.errors import MAX_ERROR_TEXT, printable
from transport.tcp import Retry

logger = logging.getLogger(__name__)

T = TypeVar("T")

# The pauses before a full disk is tried again.
_FULL = Retry(first=1.0, longest=30.0)


@dataclass(frozen=True, slots=True)
class FinishedServing:
    """The run's figures, and whether the user interrupted the server."""

    summary: dict[str, Any]
    interrupted: bool


def start_serving(
    config: RunConfig,
    out: Path,
    data_dir: Path | None,
    options: ServeOptions,
    console: Console,
    *,
    min_clients: int | None = None,
    max_examples: int | None = None,
    min_inputs: int = MIN_INPUTS,
    over_select: float | None = None,
) -> FinishedServing:
    """Serve a new run; without an adversary in the config, the strongest that the connections allow.

    FLError or PlanError for impossible settings; NetworkError for failures while serving.
    """
    adversary = chosen_adversary(config.protocol.adversary, has_certificates=isinstance(options.tls, Credentials))
    config = replace(config, protocol=replace(config.protocol, adversary=adversary.value))
    dataset = make_dataset(config.data.dataset, data_dir)
    settings = settle(
        config,
        min_clients=min_clients,
        max_examples=max_examples,
        min_inputs=min_inputs,
        over_select=over_select,
    )
    run = ServedRun(settings.of_run(config), dataset, max_examples=settings.max_examples)
    with failover.opened(options, out, _sayer(console)) as store, ExitStack() as new_run:
        failover.check_new(store, out)
        return _Serving(settings, options, run, RunFolder(out), console, store).serve([], new_run)


def resume_serving(
    path: Path, rounds: int | None, data_dir: Path | None, options: ServeOptions, console: Console
) -> FinishedServing:
    """Continue a stored run, also in the middle of a round."""
    folder = RunFolder(path)
    if options.journal is None:
        NetworkSettings.load(path)  # before anything is made in a folder without a run
    with failover.opened(options, path, _sayer(console)) as store, folder.held():
        failover.fetch(store, path)
        settings = NetworkSettings.load(path)
        config, rounds_done = folder.load_config()
        if config.privacy.epsilon is not None:
            check_resumed(config, rounds, options)
        config = replace(settings.of_run(config), rounds=config.rounds if rounds is None else rounds)
        if rounds_done > config.rounds:
            raise ConfigError(
                f"the run in {path} has done {rounds_done} rounds already: give a larger --rounds than {config.rounds}"
            )
        dataset = make_dataset(config.data.dataset, data_dir)
        run = ServedRun(config, dataset, max_examples=settings.max_examples)
        records = folder.restore([run], rounds_done)
        folder.save(config, [run], records)
        failover.keep(store, path)
        console.print(
            escape(f"going on after round {rounds_done} of {config.rounds} in {path}"), highlight=False, soft_wrap=True
        )
        return _Serving(settings, options, run, folder, console, store).serve(records)


class _Serving:
    """The part of a run that one process serves."""

    def __init__(
        self,
        settings: NetworkSettings,
        options: ServeOptions,
        run: ServedRun,
        folder: RunFolder,
        console: Console,
        store: JournalStore,
    ) -> None:
        self._folder = folder
        self._store = store
        self._config = run.config
        self._settings = settings
        self._options = options
        self._run = run
        self._rounds_before = run.rounds_done
        self._console = console
        self._plans: SessionPlans | PrivatePlans
        if run.config.privacy.epsilon is not None:
            self._figures = PrivateFigures.of_task(
                run.task.figures, run.config.privacy.ranges(), run.dataset.num_classes
            )
            self._plans = settings.private_plans(run.config, run.layout.size, self._figures)
        else:
            self._plans = settings.plans(run.config, run.layout.sizes, run.task.figures)
        self._plan = self._plans.plan(settings.invited(run.config))
        if settings.over_select is not None and isinstance(self._plans, SessionPlans):
            # Rounds may begin with this few clients, so there must be a plan for them.
            self._plans.plan(settings.min_clients)

    def serve(self, records: list[RoundRecord], new_run: ExitStack | None = None) -> FinishedServing:
        """Serve to the end; for a new run, the lock on its folder is released by the given stack."""
        interrupted, spent = False, None
        with network_errors(), ExitStack() as stack:
            exclusions = self._exclusions()
            with binding(self._options.address, "--listen"):
                server = server_of(self._options, self._config.data.clients, self._folder.path, exclusions, stack)
                sessions = stack.enter_context(SessionThread(*server))
            directory = self._directory()
            # Create the run only after all checks, since a folder with a run cannot be used for a new one.
            if new_run is not None:
                new_run.enter_context(self._folder.held())
                self._folder.create()
                self._settings.save(self._folder.path)
                opened = self._opened(is_new=True)
                self._folder.save(self._config, [self._run], records)
                failover.keep(self._store, self._folder.path)
            else:
                opened = self._opened(is_new=False)
            self._say(f"listening on {', '.join(map(show_address, sessions.addresses))}")
            try:
                with self._watched(sessions, records) as watch:
                    watch.run_started(self._config.data.clients, self._run.rounds_done)
                    try:
                        aggregator = self._aggregator(opened, sessions, directory, exclusions, watch)
                        self._rounds(aggregator, records, watch)
                    except EpsilonSpentError as error:
                        # The run has its model, but fewer rounds than planned: attempts cost too.
                        aggregator.say_goodbye(self._run.scored())
                        watch.run_ended(self._run.rounds_done, printable(str(error), MAX_ERROR_TEXT))
                        spent = error
                    except BaseException as error:
                        why = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) or repr(error)
                        watch.run_ended(self._run.rounds_done, printable(why, MAX_ERROR_TEXT))
                        raise
                    else:
                        watch.run_ended(self._run.rounds_done)
            except KeyboardInterrupt:
                interrupted = True
        finished = self._finish(interrupted)
        if spent is not None:
            raise spent
        return finished

    def _opened(self, *, is_new: bool) -> SessionPlans | PrivateRun:
        """Return the plans, of a private run with its ledger; ConfigError if that is lost or damaged."""
        plans, privacy, path = self._plans, self._config.privacy, self._folder.path / LEDGER
        if isinstance(plans, SessionPlans):
            return plans
        of = privacy.budget(self._config.rounds, 1.0)
        return PrivateRun(
            plans=plans,
            ledger=Ledger.create(path, epsilon=of.epsilon, delta=of.delta) if is_new else Ledger.load(path),
            clipping=self._run.clipping,
            figures=self._figures if privacy.figures_cost else None,
            keep_ledger=lambda: failover.keep_ledger(self._store, self._folder.path),
        )

    @contextmanager
    def _watched(self, sessions: SessionThread, records: list[RoundRecord]) -> Iterator[Events]:
        """Log the events, and with --watch show them on the status page, with the rounds of earlier processes."""
        name = f"{self._config.data.dataset}, {self._config.model}"
        if self._options.watch is None:
            yield Events(name, self._config.rounds)
            return
        try:
            from fl.watch import Watch, serve_watch
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"--watch needs {error.name}: pip install '.[serve]' in the repository's folder"
            ) from None
        privacy = self._config.privacy
        watch = Watch(name, self._config.rounds, self._folder.path, epsilon=privacy.epsilon, delta=privacy.delta)
        watch.listener(sessions.server, sessions.loop)
        for record in records:
            watch.restore(
                RoundFigures(
                    number=record.round,
                    included=len(record.included),
                    seconds=record.seconds,
                    invited=record.sampled,
                    dropped=record.dropped,
                    accuracy=record.accuracy,
                    loss=record.loss,
                    bytes_up=record.bytes_up,
                    bytes_down=record.bytes_down,
                    aborted=record.aborted,
                    noise=record.noise,
                    epsilon=record.epsilon,
                )
            )
        with ExitStack() as stack:
            with binding(self._options.watch, "--watch"):
                page = stack.enter_context(serve_watch(watch, self._options.watch, self._options.watch_hosts))
            self._say(f"watch it at {page.url}")
            yield watch

    def _directory(self) -> KeyDirectory | None:
        if self._settings.adversary is not Adversary.MALICIOUS:
            return None
        path = self._options.directory
        if path is None:
            raise ConfigError("malicious mode needs the certificates of all clients: give --directory")
        check_certificates(path, self._config.data.clients)
        return CertifiedKeys(path, path / "ca.pem")

    def _exclusions(self) -> Exclusions | None:
        listed, revoked, tls = self._options.exclude, self._options.crl, self._options.tls
        if listed is None and revoked is None:
            return None
        authority = tls.authority if isinstance(tls, Credentials) else None
        return Exclusions(listed=listed, revoked=revoked, authority=authority)

    def _aggregator(
        self,
        plans: SessionPlans | PrivateRun,
        sessions: SessionThread,
        directory: KeyDirectory | None,
        exclusions: Exclusions | None,
        watch: Events,
    ) -> NetworkAggregator:
        run, config, settings, options = self._run, self._config, self._settings, self._options
        is_sampled, is_private = settings.over_select is not None, isinstance(plans, PrivateRun)
        rules = ServingRules(
            min_clients=settings.min_clients,
            invited=settings.invited(config) if is_sampled else None,
            sampling_rate=config.sample / config.data.clients if is_sampled and is_private else None,
            goal=config.sample if is_sampled and not is_private else None,
            give_up=options.give_up,
            retries=options.retries,
            deadlines=options.deadlines,
        )
        enrolled = tuple(range(config.data.clients))
        return NetworkAggregator(
            plans,
            invitations=Invitations(self._plans, sessions, enrolled, rules, self._say, exclusions, watch),
            tracker=run.tracker,
            sessions=sessions,
            announce=run.announcement,
            rules=rules,
            store=self._store,
            say=self._say,
            directory=directory,
            watch=watch,
            skip_to=run.rounds_done + 1 + options.skip,
        )

    def _rounds(self, aggregator: NetworkAggregator, records: list[RoundRecord], watch: Events) -> None:
        run, config, failed = self._run, self._config, 0
        aggregator.forget_older(run.rounds_done)
        with TrainingDisplay(self._console, config) as display:
            display.introduce(run.layout.size, self._plan)
            while run.rounds_done < config.rounds:
                display.round_started(run.rounds_done)
                watch.round_started(run.rounds_done + 1, self._plan.parameters)
                record = self._once_there_is_room(lambda: run.run_round(aggregator, display.on_progress))
                watch.round_ended(
                    record.round,
                    None,
                    record.seconds,
                    record.accuracy,
                    record.loss,
                    aborted=record.aborted,
                    noise=record.noise,
                    epsilon=record.epsilon,
                )
                records.append(record)
                self._once_there_is_room(lambda: self._save(records))
                aggregator.forget_round()
                display.round_done([record])
                failed = failed + 1 if record.aborted else 0
                if failed == self._options.max_failed_rounds:
                    raise RoundFailedError(
                        f"{failed} failed round{'s' * (failed > 1)} in a row, the last one since {record.aborted} "
                        "(--max-failed-rounds)"
                    )
            aggregator.say_goodbye(run.scored())

    def _save(self, records: list[RoundRecord]) -> None:
        self._folder.save(self._config, [self._run], records)
        failover.keep(self._store, self._folder.path)

    def _once_there_is_room(self, work: Callable[[], T]) -> T:
        """Do the work; while the disk is full, wait and try again. Nothing is lost, and clients wait too."""
        failures = 0
        while True:
            try:
                return work()
            except (FLError, TransportError, OSError) as error:
                if not is_full(error):
                    raise
                failures += 1
                if failures == 1:
                    self._say(f"{error}; this server continues as soon as there is room")
                    logger.warning("the disk is full: %s", error, extra={"event": "disk_full"})
            time.sleep(_FULL.delay(failures))

    def _finish(self, interrupted: bool) -> FinishedServing:
        # An interrupted round may have changed the model already; the checkpoint has the last complete round.
        _, rounds_done = self._folder.load_config()
        records = self._folder.restore([self._run], rounds_done)
        if interrupted:
            self._console.print(
                f"\n[yellow]interrupted after round {rounds_done} of {self._config.rounds}[/yellow]; go on with: "
                f"secagg serve {escape(shlex.join(self._resuming()))}",
                highlight=False,
                soft_wrap=True,
            )
        else:
            raise_if_all_aborted(self._config, records, self._rounds_before)
        summary = summarize(self._config, records, self._plan)
        if records:
            self._console.print(summary_table(summary))
            self._folder.save_model(self._run)
            save_plot(self._folder.plot_path, self._config, records)
            self._say(f"figure {self._folder.plot_path}, model {self._folder.model_path}")
        return FinishedServing(summary, interrupted)

    def _resuming(self) -> list[str]:
        """Return the options with which the run goes on."""
        options, place = self._options, []
        if options.journal is not None:
            place = ["--journal", options.journal]
            if options.journal_run is not None:
                place += ["--journal-run", options.journal_run]
        return ["--resume", str(self._folder.path), *place]

    def _say(self, text: str) -> None:
        _sayer(self._console)(text)


def _sayer(console: Console) -> Callable[[str], None]:
    """Return a function that prints a line."""
    return lambda text: console.print(escape(printable(text, MAX_ERROR_TEXT)), highlight=False, soft_wrap=True)
