"""Only trained parameters travel: frozen ones stay at each party, and their digests are compared."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

import secagg
from fl.aggregation.encoding import UpdateEncoding
from fl.aggregation.scales import Scales
from fl.aggregation.session_policy import PolicyError
from fl.engines.local_worker import local_update
from fl.errors import ConfigError, FLError
from fl.learning.own_code import make_model
from fl.learning.parameter_layout import NOTHING_FROZEN, ParameterLayout, context_digest, frozen_digest
from fl.learning.serialization import check_size, load_round_message, model_to_bytes, round_message
from fl.learning.settings import Local
from fl.network.announcement import RoundAnnouncement, decode_announcement, encode_announcement
from fl.network.local_data import LocalData
from fl.network.policy import Policy, TrainingPolicyError
from fl.runs.checkpoint import RunFolder
from fl.runs.rounds import FederatedRun
from tests.fl.runs import invoke, own_module, state_bytes, tiny_config, tiny_dataset, use_tiny_data

pytestmark = pytest.mark.slow

OWN = """
    import os
    import torch
    from torch import nn

    class Lora(nn.Module):
        '''An adapted layer, with the parts and names of Hugging Face PEFT.'''

        def __init__(self, base, rank=1):
            super().__init__()
            self.base_layer = base.requires_grad_(False)
            self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
            self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})
            nn.init.zeros_(self.lora_B["default"].weight)

        def forward(self, x):
            return self.base_layer(x) + 2 * self.lora_B["default"](self.lora_A["default"](x))

    class Net(nn.Module):
        def __init__(self, inputs, classes):
            super().__init__()
            self.q_proj = Lora(nn.Linear(inputs, 40))
            self.score = nn.Linear(40, classes)

        def forward(self, x):
            return self.score(torch.relu(self.q_proj(x.flatten(1))))

    class Wrapped(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.base_model = nn.Module()
            self.base_model.model = model

        def forward(self, x):
            return self.base_model.model(x)

    def peft(shape, classes):
        return Wrapped(Net(16, classes))

    def by_hand(shape, classes):
        model = nn.Sequential(nn.Flatten(), nn.Linear(16, 40), nn.ReLU(), nn.Linear(40, classes))
        model[1].requires_grad_(False)
        return model

    def pretrained(shape, classes):
        '''Weights from a file, which the seed does not change.'''
        model = by_hand(shape, classes)
        model[1].load_state_dict(torch.load(os.environ["PRETRAINED"]))
        return model

    made = []

    def another_each_time(shape, classes):
        model = by_hand(shape, classes)
        made.append(model)
        nn.init.constant_(model[1].bias, float(len(made)))
        return model

    class Moving(nn.Module):
        '''A momentum encoder: frozen, and changed by its own code.'''

        def __init__(self, classes):
            super().__init__()
            self.trained = nn.Linear(16, classes)
            self.mean = nn.Linear(16, classes).requires_grad_(False)

        def forward(self, x):
            if self.training:
                with torch.no_grad():
                    self.mean.weight.lerp_(self.trained.weight, 0.5)
            return self.trained(x.flatten(1)) + self.mean(x.flatten(1))

    def moving(shape, classes):
        return Moving(classes)

    def normalizing(shape, classes):
        model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, classes))
        model[1].requires_grad_(False)
        return model
"""
SHAPE = (1, 4, 4)
TRAINED = {
    "peft": (
        "base_model.model.q_proj.lora_A.default.weight",
        "base_model.model.q_proj.lora_B.default.weight",
        "base_model.model.score.weight",
        "base_model.model.score.bias",
    ),
    "by_hand": ("3.weight", "3.bias"),
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    torch.manual_seed(1)
    torch.save(nn.Linear(16, 40).state_dict(), tmp_path / "base.pt")
    monkeypatch.setenv("PRETRAINED", str(tmp_path / "base.pt"))
    return own_module(tmp_path, OWN, monkeypatch)


def make(name: str, seed: int = 11) -> nn.Module:
    return make_model(name, image_shape=SHAPE, num_classes=3, seed=seed)


def run_of(own: str, model: str, **changes: Any) -> FederatedRun:
    return FederatedRun(tiny_config(model=f"{own}:{model}", **changes), tiny_dataset(), "secure")


def rounds(run: FederatedRun) -> list[Any]:
    with run:
        return [run.run_round() for _ in range(run.config.rounds)]


@pytest.mark.parametrize("name", TRAINED)
def test_only_trained_parameters_travel(own: str, name: str) -> None:
    run = run_of(own, name, dropout=0.2)
    assert run.layout.names == TRAINED[name]
    before, message = copy.deepcopy(run.model), round_message(run.model)
    assert tuple(sorted(safetensors.torch.load(message))) == tuple(sorted(TRAINED[name]))
    records = rounds(run)
    assert records[-1].accuracy > records[0].accuracy
    trained = {entry for entry, value in state_bytes(before).items() if value != state_bytes(run.model)[entry]}
    assert trained == set(TRAINED[name])
    assert records[0].model_bytes == 6 * len(message)


def test_frozen_parameters_cost_no_bytes(own: str) -> None:
    """An update of 123 values instead of 803, in both directions."""
    run = run_of(own, "by_hand", clip=1.0, rounds=1)
    assert run.layout.size == 123
    assert ParameterLayout.of(copy.deepcopy(run.model).requires_grad_(True)).size == 803
    assert len(round_message(run.model)) < len(model_to_bytes(run.model)) - 4 * 680
    (record,) = rounds(run)
    # In addition to the update, a client sends keys, shares and counters; 803 values alone would have 3,212 bytes.
    assert record.bytes_up < 6 * (4 * 123 + 2000)


@pytest.mark.parametrize("name", TRAINED)
def test_the_secure_model_is_the_plain_one(own: str, name: str) -> None:
    config = tiny_config(model=f"{own}:{name}")
    models = []
    for aggregator in ("secure", "plain"):
        run = FederatedRun(config, tiny_dataset(), aggregator)  # type: ignore[arg-type]
        rounds(run)
        models.append(run.model)
    for one, other in zip(models[0].state_dict().values(), models[1].state_dict().values(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", ["batched", pytest.param("processes", marks=pytest.mark.slow)])
def test_engines_train_around_the_frozen_part(own: str, engine: str) -> None:
    serial = run_of(own, "peft")
    rounds(serial)
    other = run_of(own, "peft", engine=engine)
    rounds(other)
    for one, two in zip(serial.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


def test_the_frozen_part_is_in_the_context(own: str) -> None:
    model = make(f"{own}:peft")
    digest = context_digest(model)
    assert frozen_digest(model) != NOTHING_FROZEN
    with torch.no_grad():
        model.base_model.model.q_proj.base_layer.bias[0] += 2**-10
    assert context_digest(model) != digest
    assert frozen_digest(model) != frozen_digest(make(f"{own}:peft"))


def test_a_frozen_part_that_differs_each_time_is_refused(own: str) -> None:
    with pytest.raises(ConfigError, match=r"another_each_time: its frozen parameters .* differ each time"):
        run_of(own, "another_each_time")


def test_a_frozen_part_that_its_own_code_changes_is_refused(own: str) -> None:
    with run_of(own, "moving") as run, pytest.raises(FLError, match="changes frozen parameters"):
        run.run_round()


def test_buffers_of_a_frozen_layer_travel_since_training_changes_them(own: str) -> None:
    run = run_of(own, "normalizing")
    assert run.layout.names == ("1.running_mean", "1.running_var", "2.weight", "2.bias")
    before = state_bytes(run.model)
    rounds(run)
    after = state_bytes(run.model)
    assert {name for name, value in after.items() if value != before[name]} == set(run.layout.names)


def test_tied_parameters_are_sent_once() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(50, 4)
            self.head = nn.Linear(4, 50, bias=False)
            self.head.weight = self.embedding.weight
            self.base = nn.Linear(4, 4, bias=False).requires_grad_(False)
            self.again = nn.Linear(4, 4, bias=False)
            self.again.weight = self.base.weight

    one, other = Tied(), Tied()
    other.base.weight.data.copy_(one.base.weight)
    message = round_message(one)
    assert list(safetensors.torch.load(message)) == ["embedding.weight"]
    check_size(other, message)
    load_round_message(other, message)
    assert torch.equal(other.head.weight, one.embedding.weight)
    assert context_digest(other) == context_digest(one)


def test_a_message_with_more_or_fewer_tensors_is_refused(own: str) -> None:
    model = make(f"{own}:by_hand")
    with pytest.raises(ValueError, match="on one side only"):
        load_round_message(model, model_to_bytes(model))
    with pytest.raises(ValueError, match=r"3\.bias"):
        load_round_message(model, safetensors.torch.save({"3.weight": torch.zeros(3, 40)}))


def test_a_run_continues_only_with_the_same_weights(own: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_tiny_data(monkeypatch)
    train = ("train", "--model", f"{own}:pretrained", "--clients", 6, "--epochs", 1, "--json")
    assert invoke(*train, "--rounds", 1, "--out", tmp_path / "run").exit_code == 0
    stored = safetensors.torch.load_file(tmp_path / "run" / "checkpoint.safetensors")
    assert [name for name in stored if "/1." in name] == []
    whole = safetensors.torch.load_file(tmp_path / "run" / "model.safetensors")
    base = torch.load(tmp_path / "base.pt")
    assert torch.equal(whole["1.weight"], base["weight"])
    again = ("train", "--resume", tmp_path / "run", "--rounds", 2, "--json")
    assert invoke(*again).exit_code == 0
    torch.save(nn.Linear(16, 40).state_dict(), tmp_path / "base.pt")
    refused = invoke("train", "--resume", tmp_path / "run", "--rounds", 3, "--json")
    assert refused.exit_code == 1
    assert f"the frozen parameters (requires_grad=False) of {own}:pretrained are not those of the run" in refused.stderr
    assert RunFolder(tmp_path / "run").load_config()[1] == 2


def announced(own: str, model: nn.Module) -> tuple[RoundAnnouncement, secagg.Parameters]:
    sizes = ParameterLayout.of(model).sizes
    scales = Scales((1.0,) * len(sizes), 40)
    encoding = UpdateEncoding(sizes=sizes, num_clients=3, value_bits=16, scales=scales)
    offered = RoundAnnouncement(
        round=1, rounds=1, model=f"{own}:by_hand", image_shape=SHAPE, num_classes=3, value_bits=16, scales=scales,
        training=Local(epochs=1, batch_size=4, learning_rate=0.1), seed=5, frozen_sha256=frozen_digest(model),
        model_bytes=round_message(model),
    )  # fmt: skip
    params = secagg.plan(num_clients=3, vector_length=encoding.vector_length, value_bits=16).parameters
    return offered, params


def test_a_client_elsewhere_makes_the_frozen_part_under_the_servers_seed(own: str) -> None:
    server = make(f"{own}:by_hand", seed=5)
    with torch.no_grad():
        server[3].bias.add_(1)  # trained since
    offered, params = announced(own, server)
    data = LocalData(torch.randn(8, *SHAPE), torch.arange(8) % 3)
    taken, _ = Policy(own_model=offered.model).check_training(
        decode_announcement(encode_announcement(offered)),
        params,
        data,  # type: ignore[arg-type]
    )
    assert state_bytes(taken) == state_bytes(server)
    update = local_update(
        taken, data.images, data.labels, offered.training, seed=1, threads=1, frozen=offered.frozen_sha256
    )
    assert update.delta.shape == (123,)


@pytest.mark.parametrize(("seed", "frozen"), [(6, None), (5, bytes(32)), (5, NOTHING_FROZEN)])
def test_a_client_with_another_frozen_part_reports_it_to_user_and_server(
    own: str, seed: int, frozen: bytes | None
) -> None:
    offered, params = announced(own, make(f"{own}:by_hand", seed=5))
    offered = dataclasses.replace(offered, seed=seed, frozen_sha256=frozen or offered.frozen_sha256)
    data = LocalData(torch.zeros(4, *SHAPE), torch.arange(4) % 3)
    with pytest.raises(PolicyError, match=r"frozen parameters of own_\w+:by_hand differ \(SHA-256") as refused:
        Policy(own_model=offered.model).check_training(offered, params, data)
    assert isinstance(refused.value, TrainingPolicyError)
    assert refused.value.public == str(refused.value)


def test_a_server_that_trains_what_the_client_freezes_is_declined(own: str) -> None:
    offered, params = announced(own, make(f"{own}:by_hand").requires_grad_(True))
    data = LocalData(torch.zeros(4, *SHAPE), torch.arange(4) % 3)
    with pytest.raises(PolicyError, match="is not a own_"):
        Policy(own_model=offered.model).check_training(offered, params, data)
