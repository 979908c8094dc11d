"""A whole training, round by round: what `secagg train` and `fl.federated` run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from rich.console import Console
from torch import nn

import secagg
from fl.config.privacy import Privacy
from fl.config.run_config import DataSettings, Protocol, RunConfig
from fl.data import Dataset
from fl.data.client_data import ClientData, ClientSources, DealtOut
from fl.data.partition import Indices
from fl.data.partition import partition as split
from fl.engines import Resources
from fl.errors import ConfigError
from fl.learning.own_code import ModelSource, reference_to
from fl.learning.settings import IN_PROGRAM, Local, Personal, ServerOptimization
from fl.learning.task import LOSSES, METRICS, Metric, Task
from fl.personalization.scores import Personalizer
from fl.privacy.ledger import LEDGER
from fl.report import save_plot
from fl.runs.checkpoint import RunFolder
from fl.runs.display import TrainingDisplay, open_display
from fl.runs.history import History
from fl.runs.personal_scores import PersonalScores, save_scores
from fl.runs.records import RoundRecord, raise_if_all_aborted
from fl.runs.rounds import ProgressObserver, start_runs

# A run's results do not depend on these, or a run may go on with others.
_MAY_CHANGE = ("rounds", "engine")


class FederatedTraining:
    """One training of a model by simulated clients, in the clear beside it with ``compare``; `fl.federated` makes it.

    It can be trained to its end (`train`) or be iterated over, which trains one round for each record. Both go on after
    the last finished round. An error or Ctrl-C in a round leaves everything as it was before that round.

    Args:
        config: the settings.
        data: the clients' examples.
        resources: the resources of the engine.
        model, task: see `fl.runs.run.Run`.

    Attributes:
        config: the settings.
        records: the records of the finished rounds, of both runs with ``compare``.
        runs: the run, and with ``compare`` the plain one.
        folder: the run's folder, if there is one.
        personal: the scores of the clients' own models, at the end of a training with ``config.personal``.
    """

    def __init__(
        self,
        config: RunConfig,
        data: Dataset | ClientData,
        resources: Resources | None = None,
        *,
        model: ModelSource | None = None,
        task: Task | None = None,
    ) -> None:
        self.config = config
        self.records: list[RoundRecord] = []
        self.runs = start_runs(config, data, resources, model=model, task=task)
        self.folder: RunFolder | None = None
        self.personal: PersonalScores | None = None
        self._personalizer = None if config.personal.method is None else Personalizer(self.runs[0])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[RoundRecord]:
        return self.rounds()

    def __repr__(self) -> str:
        return f"<FederatedTraining: {self.rounds_done} of {self.config.rounds} rounds>"

    @property
    def model(self) -> nn.Module:
        """The model after the last finished round."""
        return self.runs[0].model

    @property
    def plan(self) -> secagg.Plan | None:
        """The plan of the protocol; None for the plain aggregator."""
        return self.runs[0].plan

    @property
    def rounds_done(self) -> int:
        """The number of finished rounds."""
        return self.runs[0].rounds_done

    @property
    def history(self) -> History:
        """The records of the finished rounds."""
        return History(self.records, self.config.protocol.aggregator)

    def close(self) -> None:
        """Stop the engine's processes; a later round starts them again."""
        for run in self.runs:
            run.close()

    def keep_in(self, path: Path) -> None:
        """Store each round in a new folder; ConfigError if it holds a run, or cannot be written."""
        folder = RunFolder(path)
        folder.create()
        for run in self.runs:
            run.keep_ledger(path / LEDGER)
        folder.save(self.config, self.runs, self.records)
        self.folder = folder

    def resume_in(self, path: Path) -> None:
        """Go on after the last round that a folder holds, and store the next ones there.

        Raises:
            ConfigError: the folder holds no run, one with other settings, or one with more rounds than the settings.
        """
        folder = RunFolder(path)
        stored, rounds_done = folder.load_config()
        if rounds_done > self.config.rounds:
            raise ConfigError(
                f"the run in {path} has done {rounds_done} rounds already: give a larger --rounds than "
                f"{self.config.rounds}"
            )
        before, now = stored.to_json(), self.config.to_json()
        if changed := [name for name in now if before[name] != now[name] and name not in _MAY_CHANGE]:
            raise ConfigError(
                f"the run in {path} has another {', '.join(changed)}: give what it started with, or another folder"
            )
        for run in self.runs:
            run.load_ledger(path / LEDGER, stored.rounds)
        self.records = folder.restore(self.runs, rounds_done)
        if rounds_done < self.config.rounds:
            # The old model must not be taken for the checkpoint's if this start is interrupted.
            folder.remove_model()
        # The number of rounds may have changed, and the other files may be older than the checkpoint.
        folder.save(self.config, self.runs, self.records)
        self.folder = folder

    def train(self, rounds: int | None = None, *, progress: bool = True) -> History:
        """Train the rounds that are left, and return the history of all.

        Ctrl-C ends the training after the last finished round; train again to go on.

        Args:
            rounds: train up to this round, instead of the number that the run was made with.
            progress: show bars and a line for each round, on stderr; in a notebook, below the cell.

        Raises:
            AbortedError: no round had a result; `history` says why.
            FLError: training failed in a round.
        """
        if rounds is not None:
            if rounds < self.rounds_done:
                raise ConfigError(f"{self.rounds_done} rounds are done already: rounds must not be {rounds}")
            self.config = replace(self.config, rounds=rounds)
        console = open_display(quiet=not progress)
        if self.run_rounds(console):
            console.print(
                f"[yellow]interrupted after round {self.rounds_done} of {self.config.rounds}[/yellow]; train() goes on",
                highlight=False,
                soft_wrap=True,
            )
        self.save_results(console)
        return self.history

    def rounds(self) -> Iterator[RoundRecord]:
        """Train one round for each step, and yield its record; leave the loop at any time."""
        try:
            while self.rounds_done < self.config.rounds:
                yield self._run_round(None)[0]
            self.save_results()
        finally:
            self.close()

    def run_rounds(self, console: Console, on_round: Callable[[list[RoundRecord]], None] | None = None) -> bool:
        """Train the rounds that are left, with a display; return whether the user interrupted them.

        Args:
            console: where the rounds are shown.
            on_round: called with each round's records.

        Raises:
            AbortedError: no round had a result.
        """
        before = self.rounds_done
        with TrainingDisplay(console, self.config) as display, ExitStack() as engines:
            engines.callback(self.close)
            display.introduce(self.runs[0].layout.size, self.plan, self.runs[0].worker)
            try:
                while self.rounds_done < self.config.rounds:
                    display.round_started(self.rounds_done)
                    done = self._run_round(display.on_progress)
                    if on_round is not None:
                        on_round(done)
                    display.round_done(done)
            except KeyboardInterrupt:
                if self.folder is not None:
                    # The checkpoint may already be that of the interrupted round.
                    self.folder.save(self.config, self.runs, self.records)
                return True
        raise_if_all_aborted(self.config, self.records, before)
        return False

    def _run_round(self, observe: ProgressObserver | None) -> list[RoundRecord]:
        undo, before = [run.snapshot() for run in self.runs], list(self.records)
        try:
            done = [run.run_round(observe) for run in self.runs]
            self.records += done
            if self.folder is not None:
                self.folder.save(self.config, self.runs, self.records)
        except BaseException:
            self.records = before
            for restore in undo:
                restore()
            raise
        return done

    def save_results(self, console: Console | None = None) -> None:
        """Write the model and the figure into the folder, if there is one; after the last round score personal models.

        Raises:
            AbortedError: the scores' session had no result.
        """
        if self.folder is not None and self.records:
            self.folder.save_model(self.runs[0])
            save_plot(self.folder.plot_path, self.config, self.records)
        if self._personalizer is not None and self.rounds_done == self.config.rounds:
            self.personal = self._personalizer.score()
            if console is not None:
                console.print(str(self.personal), highlight=False, soft_wrap=True)
            if self.folder is not None:
                save_scores(self.folder.path, self.personal)


def federated(
    model: ModelSource,
    clients: Sequence[Any] | Dataset,
    test: Any = None,
    *,
    loss: Any = "cross-entropy",
    metrics: Any = None,
    rounds: int = 10,
    sample: int | None = None,
    local: Local | None = None,
    server: ServerOptimization | None = None,
    protocol: Protocol | None = None,
    personal: Personal | None = None,
    privacy: Privacy | None = None,
    compare: bool = False,
    partition: str | Sequence[Indices] = "iid",
    num_clients: int | None = None,
    holdout: float = 0.0,
    seed: int = 0,
    engine: str = "serial",
    threads: int | None = None,
    workers: int | None = None,
    device: str = "cpu",
    out: str | Path | None = None,
    resume: bool = False,
) -> FederatedTraining:
    """Return a training of a model on clients' data with secure aggregation, ready to begin.

        run = fl.federated(Net, [dataset_a, dataset_b, dataset_c], test, rounds=10)
        history = run.train()
        history.to_frame()
        run.model

    Nothing of yours is pickled with the engines serial and batched. The others send model and data to processes, which
    also works for what a script or notebook defines itself.

    Args:
        model: a class, a factory, an `nn.Module`, which is copied, or a name; see `fl.make_model`.
        clients: the examples of each client, each a pair (inputs, targets) of tensors or NumPy arrays, a torch
            `Dataset` or a `DataLoader`, whose data set is taken, and not its batch size. Or a `fl.Dataset`, which has
            the test examples too, with ``partition``.
        test: test examples in one of these forms.
        loss: ``loss(output, target)``, the mean over a batch: a function, module or class, or a name of `fl.Task`.
        metrics: functions or names by name, or a list of these; see `fl.Task`. None: accuracy with cross entropy.
        rounds: the number of rounds.
        sample: the number of clients in each round. None: all, or that of ``protocol``.
        local: the clients' training.
        server: the server's optimizer. None: FedAvg.
        protocol: the secure aggregation, with dropouts. None: no dropouts.
        personal: the clients' own models, whose scores are then ``run.personal``. None: there are none.
        privacy: the differential privacy of the clients. None: no noise.
        compare: whether to train in the clear beside it, and to check that the sums are equal.
        partition: how a `fl.Dataset` is split: a scheme of `fl.partition`, or what that function returns.
        num_clients: the number of clients among which a scheme splits it.
        holdout: the fraction of each client's examples on which the model is measured, and not trained.
        seed: the seed of all randomness but keys and masks.
        engine: where clients train: serial, processes, batched or ray.
        threads: PyTorch threads for each client.
        workers: clients trained at once, with the engines processes and ray.
        device: where clients train: cpu, cuda, mps or auto, with the engines serial and processes.
        out: a folder for the checkpoint of each round, the records, the model and a figure; `secagg report` reads it.
        resume: go on with the run in ``out``, if there is one; give the same model, clients and settings again.
            `secagg train --resume` cannot go on with it, since the clients' examples are this program's.

    Raises:
        ConfigError: a setting, the model or the folder is not as it should be.
        DataError: the data do not fit each other.
        PlanError: the protocol cannot work with these numbers.
    """
    task = Task(loss, metrics)
    data = _client_data(clients, test, partition, num_clients, seed)
    config = RunConfig(
        data=DataSettings(
            dataset=f"{IN_PROGRAM}:{data.dataset.name}",
            model=reference_to(model),
            loss=_loss_reference(loss, task),
            metrics=tuple(_metric_reference(name, metric) for name, metric in task.metrics.items()),
            clients=data.num_clients,
            # Each client has what is its own, unless a scheme deals a data set out.
            partition=partition if isinstance(clients, Dataset) and isinstance(partition, str) else "by-owner",
            holdout=holdout,
        ),
        local=Local() if local is None else local,
        server=ServerOptimization() if server is None else server,
        protocol=_protocol(Protocol() if protocol is None else protocol, sample, compare),
        personal=Personal() if personal is None else personal,
        privacy=Privacy() if privacy is None else privacy,
        rounds=rounds,
        seed=seed,
        engine=engine,
        threads=threads,
    )
    training = FederatedTraining(config, data, Resources(workers, device=device), model=model, task=task)
    if out is not None:
        if resume and RunFolder(Path(out)).has_run:
            training.resume_in(Path(out))
        else:
            training.keep_in(Path(out))
    elif resume:
        raise ConfigError("resume goes on with the run in a folder: give out")
    return training


def personalize(training: FederatedTraining, method: str | None = None, **settings: Any) -> PersonalScores:
    """Make a model of its own for each client of a trained run; return the scores, which only secure sums show.

    Args:
        training: the training, after its rounds. Its clients must hold out examples (``holdout``).
        method: ``head``, ``full`` or ``proximal``; ``ditto`` needs `fl.federated` with ``personal``. None: the
            training's own.
        settings: ``epochs``, ``learning_rate`` and ``strength`` of `fl.Personal`.

    Raises:
        ConfigError: a setting is out of range, or no examples are held out.
        PlanError: the protocol cannot work with these numbers.
        AbortedError: the session had no result.
    """
    personal = None if method is None else Personal(method=method, **settings)  # type: ignore[arg-type]
    return Personalizer(training.runs[0], personal).score()


def _protocol(given: Any, sample: int | None, compare: bool) -> Any:
    if not isinstance(given, Protocol):  # `RunConfig` refuses it
        return given
    return replace(given, sample=given.sample if sample is None else sample, compare=given.compare or compare)


def _client_data(
    clients: Sequence[Any] | Dataset, test: Any, scheme: str | Sequence[Indices], num_clients: int | None, seed: int
) -> ClientData:
    if not isinstance(clients, Dataset):
        if num_clients is not None or scheme != "iid":
            raise ConfigError("num_clients and partition split a fl.Dataset: a list of clients is split already")
        return ClientSources(clients, test)
    if test is not None:
        raise ConfigError("a fl.Dataset has its own test examples: leave out test")
    if isinstance(scheme, str):
        if num_clients is None:
            raise ConfigError(f"give num_clients, among which partition {scheme!r} splits {clients.name}")
        scheme = split(clients, scheme, num_clients, seed=seed)
    return DealtOut(clients, scheme)


def _loss_reference(given: Any, task: Task) -> str:
    """Return the name by which a stored run's loss is found again, if it has one."""
    return next((name for name in LOSSES if Task(name).loss is task.loss), reference_to(given))


def _metric_reference(name: str, metric: Metric) -> str:
    if name in METRICS and Task(metrics=[name]).metrics[name] is metric:
        return name
    reference = reference_to(metric)
    return reference if reference.endswith(f":{name}") else f"{IN_PROGRAM}:{name}"
