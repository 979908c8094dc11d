"""Scores of the model on examples that clients hold out, and the models that participants keep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from fl.aggregation.session_policy import PolicyError
from fl.errors import ConfigError
from fl.learning.own_code import make_model
from fl.learning.serialization import load_model
from fl.learning.settings import Personal
from fl.learning.training import evaluate
from fl.network import client as joining
from fl.network.errors import NetworkError
from fl.network.local_data import LocalData
from fl.network.offers import JoinOptions
from fl.network.own_examples import OwnExamples
from fl.network.own_models import OwnModels
from fl.network.policy import Policy
from fl.network.server import FinishedServing, resume_serving
from fl.network.session_files import SessionFiles
from fl.runs.checkpoint import RunFolder
from fl.runs.records import RoundRecord
from tests.fl.network import test_network_parts as parts
from tests.fl.network.harness import CLIENTS, Client, Deployment
from transport import ClientRecord, Deadlines, Participation
from transport.tcp import PLAINTEXT, Retry

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.live]

DEADLINES = Deadlines(advertise_keys=2, share_keys=5, unmasking=4)


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    monkeypatch.setattr(joining, "_PATIENCE", Retry(first=0.1, longest=0.3))
    made = Deployment(tmp_path, monkeypatch)
    monkeypatch.setattr("fl.network.aggregator.GOODBYE_SECONDS", 3.0)
    return made


class Training:
    """A training with scores, and its clients."""

    def __init__(self, deployment: Deployment, **changes: Any) -> None:
        self.deployment = deployment
        self.config = deployment.config(**{"rounds": 2, "holdout": 0.25, **changes})
        self.folder = deployment.directory / "run"
        self.clients: list[Client] = []

    def serve(self, *options: dict[str, Any]) -> FinishedServing:
        def begin() -> None:
            for client_id in range(CLIENTS):
                own = options[client_id] if client_id < len(options) else {}
                state = self.deployment.directory / f"state-{client_id}"
                self.clients.append(self.deployment.client(client_id, self.config, **{"state": state, **own}))
                self.clients[-1].start()

        serving = self.deployment.options(deadlines=DEADLINES)
        return self.deployment.run_beside(self.config, begin, options=serving)

    def resume(self) -> None:
        serving = self.deployment.options(deadlines=DEADLINES)
        resume_serving(self.folder, None, None, serving, self.deployment.console())

    def finish(self) -> None:
        for client in self.clients:
            client.finish()

    def records(self) -> list[RoundRecord]:
        folder = RunFolder(self.folder)
        return folder.restore([], folder.load_config()[1])

    def model(self, path: Path | None = None) -> torch.nn.Module:
        model = make_model("logistic", image_shape=(1, 4, 4), num_classes=3, seed=0)
        load_model(model, (path or self.folder / "model.safetensors").read_bytes())
        return model

    def held_out(self, client_id: int) -> LocalData:
        return self.clients[client_id].participant._examples.held_out

    def assert_scored(self, record: RoundRecord, clients: range | list[int]) -> None:
        """Assert that the last scores are those of the final model on the examples held out by these clients."""
        parts = [self.held_out(client) for client in clients]
        images, labels = torch.cat([part.images for part in parts]), torch.cat([part.labels for part in parts])
        expected = evaluate(self.model(), images, labels)
        assert record.held_out_examples == len(labels)
        assert record.held_out_accuracy == pytest.approx(expected.accuracy, abs=1e-9)
        assert record.held_out_loss == pytest.approx(expected.loss, abs=1e-3)


def test_after_each_round_the_new_model_is_measured_on_held_out_examples(deployment: Deployment) -> None:
    """Client 2 holds out more examples than requested, and client 3 none."""
    training = Training(deployment)
    training.serve({}, {}, {"holdout": 0.5}, {"holdout": 0.0})
    training.finish()
    first, last = training.records()
    assert [len(training.held_out(client).labels) for client in range(CLIENTS)] == [15, 15, 30, 0]
    assert first.held_out_examples == 60
    assert first.held_out_accuracy != last.held_out_accuracy or first.held_out_loss != last.held_out_loss
    training.assert_scored(last, range(CLIENTS))
    assert last.num_examples == 240 - 60
    assert [client.participant.rounds for client in training.clients] == [2] * CLIENTS
    assert not list(training.folder.glob("round.*"))


def test_without_it_nothing_is_measured(deployment: Deployment) -> None:
    training = Training(deployment, holdout=0.0, rounds=1)
    training.serve()
    training.finish()
    (record,) = training.records()
    assert (record.held_out_accuracy, record.held_out_examples, record.num_examples) == (None, 0, 240)


def test_a_server_that_dies_before_the_scores_continues_with_them(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The round's update is in its journal: no client trains again, and the scores belong to the same model."""
    training = Training(deployment)
    begin_session = SessionFiles.begin

    def begin(self: SessionFiles, number: int) -> None:
        if self.name == "round.scores":
            raise KeyboardInterrupt
        begin_session(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(SessionFiles, "begin", begin)
        assert training.serve().interrupted
    assert (training.folder / "round.journal").exists()
    training.resume()
    training.finish()
    first, last = training.records()
    assert first.included == last.included == tuple(range(CLIENTS))
    assert first.held_out_examples == last.held_out_examples == 60
    training.assert_scored(last, range(CLIENTS))
    for client in training.clients:
        assert sum(line.startswith("round 1/2: training") for line in client.said) == 1


def test_a_server_that_dies_after_the_scores_does_not_ask_for_them_again(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    training = Training(deployment)
    save, calls = RunFolder.save, []

    def dies(self: RunFolder, *arguments: Any) -> None:
        calls.append(self)
        if len(calls) == 2:
            raise KeyboardInterrupt
        save(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "save", dies)
        assert training.serve().interrupted
    assert (training.folder / "round.scores.journal").exists()
    training.resume()
    training.finish()
    first, last = training.records()
    assert first.held_out_examples == 60
    training.assert_scored(last, range(CLIENTS))


@pytest.mark.parametrize("method", ["full", "ditto"])
def test_a_participant_keeps_the_final_model_and_its_own(deployment: Deployment, method: str, tmp_path: Path) -> None:
    training = Training(deployment, holdout=0.25 if method == "full" else 0.0)
    out = tmp_path / "mine"
    personal = Personal(method=method, epochs=2)  # type: ignore[arg-type]
    training.serve({"out": out, "personal": personal, "holdout": 0.25}, {"out": tmp_path / "other"})
    training.finish()
    final = (training.folder / "model.safetensors").read_bytes()
    assert (out / "model.safetensors").read_bytes() == final
    assert (tmp_path / "other" / "model.safetensors").read_bytes() == final
    assert not (tmp_path / "other" / "personal.safetensors").exists()
    own = (out / "personal.safetensors").read_bytes()
    assert own != final
    training.model(out / "personal.safetensors")
    *_, scores, told = training.clients[0].said
    assert scores.startswith("on 15 examples held out: accuracy ")
    assert told.startswith(f"the final model: {out / 'model.safetensors'}, the personal model: {out / 'personal'}")
    assert training.clients[2].said[-1] == "the training is over"


def test_a_client_that_stops_early_keeps_the_model_that_it_received(deployment: Deployment, tmp_path: Path) -> None:
    training = Training(deployment, holdout=0.0)
    training.serve({"out": tmp_path / "mine", "once": True})
    training.finish()
    assert "the model of round 1: " in training.clients[0].said[-1]
    start = make_model("logistic", image_shape=(1, 4, 4), num_classes=3, seed=training.config.seed)
    kept = safetensors.torch.load_file(tmp_path / "mine" / "model.safetensors")
    assert all(torch.equal(value, kept[name]) for name, value in start.state_dict().items())


def test_a_server_that_asks_for_most_examples_to_be_held_out_is_declined(deployment: Deployment) -> None:
    training = Training(deployment, holdout=0.75, rounds=1)
    training.serve({}, {"holdout": 0.0}, {"holdout": 0.1}, {"holdout": 0.0})
    for client in training.clients[1:]:
        client.finish()
    with pytest.raises(NetworkError, match=r"0\.75 of the examples to be held out, but this client holds out at most"):
        training.clients[0].finish()
    (record,) = training.records()
    assert record.included == (1, 2, 3)
    assert record.held_out_examples == 6


DATA = LocalData(torch.arange(80.0).reshape(20, 4), torch.arange(20) % 2)


def test_the_same_examples_are_held_out_each_time() -> None:
    parts = [OwnExamples(DATA, 3, 0.25) for _ in range(2)]
    asked = OwnExamples(DATA, 3, None)
    assert len(asked.training.labels) == 20
    asked.follow(0.25)
    for part in (*parts, asked):
        assert torch.equal(part.held_out.images, parts[0].held_out.images)
        assert len(part.held_out.labels) == 5
        rows = np.concatenate([part.training.images.numpy(), part.held_out.images.numpy()])
        assert sorted(rows[:, 0].tolist()) == DATA.images[:, 0].tolist()
    assert not torch.equal(OwnExamples(DATA, 4, 0.25).held_out.images, parts[0].held_out.images)


def test_a_restarted_client_holds_out_what_it_did_before(tmp_path: Path) -> None:
    """Or examples that were held out would be trained on; another training, and another client, are free."""

    def after_restart(training: str = "one", client: bytes = b"a") -> OwnExamples:
        record = ClientRecord(Participation.in_folder(tmp_path / "state"), client, training=training)
        return OwnExamples(DATA, 3, None, record)

    after_restart().follow(0.25)
    again = after_restart()
    for fraction in (0.0, 0.2, 0.5):
        with pytest.raises(PolicyError, match="in this training it was another fraction"):
            again.follow(fraction)
    assert len(again.held_out.labels) == len(DATA.labels)  # nothing was split: nothing was followed
    again.follow(0.25)
    assert torch.equal(again.held_out.images, OwnExamples(DATA, 3, 0.25).held_out.images)
    after_restart(training="two").follow(0.5)
    after_restart(client=b"b").follow(0.5)


def test_a_server_cannot_change_the_held_out_examples() -> None:
    asked = OwnExamples(DATA, 3, None)
    asked.follow(0.25)
    asked.follow(0.25)
    for fraction in (0.0, 0.3):
        with pytest.raises(PolicyError, match=r"but before it was 0\.25"):
            asked.follow(fraction)
    own = OwnExamples(DATA, 3, 0.1)
    own.follow(0.9)
    assert len(own.held_out.labels) == 2


def test_a_folder_that_cannot_take_the_models_is_refused_at_the_start(tmp_path: Path) -> None:
    examples = OwnExamples(DATA, 0, None)
    (tmp_path / "checkpoint.safetensors").touch()
    with pytest.raises(ConfigError, match="holds a run"):
        OwnModels(tmp_path, Personal(), examples, print)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot write"):
        OwnModels(tmp_path / "file" / "in it", Personal(), examples, print)
    with pytest.raises(ConfigError, match="give --out"):
        OwnModels(None, Personal(method="full"), examples, print)


def test_a_personal_model_that_fails_costs_no_update(tmp_path: Path) -> None:
    said: list[str] = []
    data = LocalData(torch.linspace(-9, 9, 160).reshape(10, 1, 4, 4), torch.arange(10) % 3)
    examples = OwnExamples(data, 0, 0.4)
    models = OwnModels(tmp_path / "mine", Personal(method="ditto", epochs=5, learning_rate=1e30), examples, said.append)
    announced = parts.announcement()
    model = make_model("logistic", image_shape=(1, 4, 4), num_classes=3, seed=0)
    models.receive(announced, model)
    assert said[0].startswith("round 2/5: this client's own model stays as it was: ")
    assert (tmp_path / "mine" / "model.safetensors").exists()
    assert not (tmp_path / "mine" / "personal.safetensors").exists()


def test_a_final_model_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    said: list[str] = []
    options = JoinOptions(
        client_id=0, address=("127.0.0.1", 1), tls=PLAINTEXT, policy=Policy(), max_model_bytes=1 << 20, give_up=1.0,
        out=tmp_path / "mine",
    )  # fmt: skip
    participant = joining.Participant(options, parts.DATA, said.append)
    participant._take_final(parts.announcement(num_classes=2))
    assert said == ["the final model is not taken: the model knows 2 classes, but there is a label 2"]
    participant._take_final(parts.announcement())
    assert (tmp_path / "mine" / "model.safetensors").exists()


def test_a_client_that_meets_the_end_alone_holds_out_what_it_did_before(tmp_path: Path) -> None:
    """A process that was started after the last round: its own model must not be measured on what it is trained on."""
    said: list[str] = []
    options = JoinOptions(
        client_id=0, address=("127.0.0.1", 1), tls=PLAINTEXT, policy=Policy(), max_model_bytes=1 << 20, give_up=1.0,
        out=tmp_path / "mine", personal=Personal(method="full", epochs=1, learning_rate=0.1), state=tmp_path,
    )  # fmt: skip
    participant = joining.Participant(options, parts.DATA, said.append)
    participant._take_final(parts.announcement(holdout=0.4))
    assert said[0].startswith("on 2 examples held out: accuracy ")
    assert len(participant._examples.training.labels) == 3
    participant._take_final(parts.announcement(holdout=0.2))
    assert said[1:] == ["the final model is not taken: 0.2 of the examples to be held out, but before it was 0.4"]
