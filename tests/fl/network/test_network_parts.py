"""Announcements, policies and local data, each separately."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch

import secagg
from fl.aggregation.encoding import UpdateEncoding
from fl.aggregation.scales import Scales
from fl.aggregation.session_policy import PolicyError
from fl.errors import ConfigError, DataError
from fl.learning.models import build_model
from fl.learning.serialization import model_to_bytes
from fl.learning.settings import Local
from fl.learning.task import Task
from fl.network.announcement import (
    RoundAnnouncement,
    TrainingOver,
    decode_announcement,
    encode_announcement,
    round_context,
)
from fl.network.errors import AnnouncementError, AnnouncementVersionError, OlderAnnouncementError
from fl.network.local_data import LocalData, load_arrays, load_shard, parse_shard
from fl.network.policy import Policy
from fl.strict_msgpack import unpack_first
from secagg import Adversary, GraphKind, Parameters
from tests.fl.privacy.test_terms import TERMS
from tests.fl.runs import assert_refused, invoke, own_module

SHAPE = (1, 4, 4)
SCALES = Scales((1.0, 0.5), 10)
ENCODING = UpdateEncoding(sizes=(48, 3), num_clients=4, value_bits=16, scales=SCALES)
PARAMS = secagg.plan(
    num_clients=4, vector_length=ENCODING.vector_length, value_bits=16, adversary=Adversary.MALICIOUS
).parameters
DATA = LocalData(torch.zeros(5, *SHAPE), torch.tensor([0, 1, 2, 1, 0]))


def announcement(**changes: Any) -> RoundAnnouncement:
    values: dict[str, Any] = {
        "round": 2,
        "rounds": 5,
        "model": "logistic",
        "image_shape": SHAPE,
        "num_classes": 3,
        "value_bits": 16,
        "scales": SCALES,
        "training": Local(epochs=1, batch_size=10, learning_rate=0.1, momentum=0.5),
        "model_bytes": model_to_bytes(build_model("logistic", image_shape=SHAPE, num_classes=3, seed=1)),
    }
    return RoundAnnouncement(**{**values, **changes})


def test_announcements_come_back_as_they_were() -> None:
    for given in (
        announcement(),
        announcement(scales=None),
        announcement(scales=Scales((0.0, 0.1), 1)),
        TrainingOver(),
    ):
        assert decode_announcement(encode_announcement(given)) == given
    assert encode_announcement(announcement()) == encode_announcement(announcement())


def test_the_whole_announcement_is_in_the_context() -> None:
    extra = encode_announcement(announcement())
    other = encode_announcement(announcement(scales=None))
    assert len({round_context(2, extra), round_context(3, extra), round_context(2, other)}) == 3


def tampered(**fields: Any) -> bytes:
    (version, since, values), model = unpack_first(encode_announcement(announcement()), max_items=100)
    for name, value in fields.items():
        outer, _, inner = name.partition("__")
        if inner:
            values[outer][inner] = value
        else:
            values[outer] = value
    return msgpack.packb([version, since, values]) + bytes(model)


def test_a_newer_announcement_is_read_where_it_says_so() -> None:
    """Unknown names are ignored at each level; all clients are still bound to the same bytes."""
    content, model = unpack_first(encode_announcement(announcement()), max_items=100)
    version, since, values = content
    values["training"]["novelty"] = 1.5
    values["scales"]["novelty"] = b"x"
    values["novelty"] = {"a": [1, 2]}
    newer = msgpack.packb([version + 7, since, values]) + bytes(model)
    assert decode_announcement(newer) == decode_announcement(encode_announcement(announcement()))
    with pytest.raises(AnnouncementError, match="other fields"):
        decode_announcement(msgpack.packb([version, since, values]) + bytes(model))
    with pytest.raises(AnnouncementVersionError, match=f"to {version + 1} at least"):
        decode_announcement(msgpack.packb([version + 7, version + 1, values]) + bytes(model))
    del values["rounds"]
    with pytest.raises(AnnouncementError, match="other fields"):
        decode_announcement(msgpack.packb([version + 7, since, values]) + bytes(model))
    assert decode_announcement(msgpack.packb([version + 7, since, {}])) == TrainingOver()
    with pytest.raises(OlderAnnouncementError):
        decode_announcement(msgpack.packb([since - 1, values]) + bytes(model))


def test_an_announcement_of_before_private_rounds_is_read_and_has_no_terms() -> None:
    (version, since, values), model = unpack_first(encode_announcement(announcement()), max_items=100)
    assert (version, since) == (7, 6)
    with pytest.raises(AnnouncementError, match="other fields"):
        decode_announcement(msgpack.packb([6, 6, values]) + bytes(model))
    del values["privacy"]
    assert decode_announcement(msgpack.packb([6, 6, values]) + bytes(model)) == announcement()
    with pytest.raises(AnnouncementError, match="other names"):
        decode_announcement(msgpack.packb([version, since, values]) + bytes(model))


def test_a_private_announcement_is_not_for_clients_that_know_no_noise() -> None:
    private = announcement(scales=None, privacy=TERMS)
    assert decode_announcement(encode_announcement(private)) == private
    (_, since, values), model = unpack_first(encode_announcement(private), max_items=100)
    assert since == 7
    # A newer server's name for a kind of noise that is not known here is not ignored.
    values["privacy"]["novelty"] = 1
    with pytest.raises(AnnouncementError, match="other names"):
        decode_announcement(msgpack.packb([9, since, values]) + bytes(model))
    with pytest.raises(AnnouncementError, match="bounds and terms of privacy"):
        decode_announcement(encode_announcement(announcement(privacy=TERMS)))


def test_as_many_metrics_and_ranges_as_there_may_be_are_read() -> None:
    metrics = tuple(f"own.module:metric_{number}" for number in range(16))
    ranges = tuple((f"figure {number}", 0.0, 1.0) for number in range(32))
    full = announcement(scales=None, metrics=metrics, privacy=dataclasses.replace(TERMS, figure_ranges=ranges))
    assert decode_announcement(encode_announcement(full)) == full


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        (b"", "cannot be read"),
        (b"\xc1", "cannot be read"),
        (b"\x93\x01", "cannot be read"),
        (encode_announcement(announcement())[:100], "cannot be read"),
        (encode_announcement(announcement())[:-1], "does not have the announced SHA-256"),
        (encode_announcement(announcement()) + b"x", "does not have the announced SHA-256"),
        (b"\x91" * 5000 + b"\x90", "cannot be read"),
        (msgpack.packb({"a": 1}), "no training"),
        (msgpack.packb(["5", {}]), "no training"),
        (msgpack.packb([5, {}]), "in version 5, and this client knows 6 and later"),
        (msgpack.packb([9, 8, {}]), "in version 9, and this client knows 7: upgrade it, to 8 at least"),
        (msgpack.packb([6]), "other fields"),
        (msgpack.packb([6, {}, {}]), "other fields"),
        (msgpack.packb([6, 6]), "other fields"),
        (msgpack.packb([6, 6, {}, {}]), "other fields"),
        (msgpack.packb([6, 6, {}]) + b"x", "other fields"),
        (msgpack.packb([6, 6, {"round": 1}]), "other fields"),
        (msgpack.packb([7, 6, {"round": 1}]), "other fields"),
        (tampered(more=1), "other fields"),
        (tampered(round=True), "of type bool"),
        (tampered(round=0), "is not possible"),
        (tampered(round=6), "is not possible"),
        (tampered(seed=-1), "is negative"),
        (tampered(holdout=1.0), "fraction to hold out"),
        (tampered(holdout=float("nan")), "fraction to hold out"),
        (tampered(purpose="all"), "or purpose, is not possible"),
        (tampered(frozen_sha256=""), "of type str"),
        (tampered(num_classes=0), "is not possible"),
        (tampered(metrics=["accuracy"] * 17), "metrics"),
        (tampered(metrics=[1]), "metrics"),
        (tampered(input_type="object"), "unknown type object"),
        (tampered(image_shape=[]), "shape of examples"),
        (tampered(image_shape=[1] * 9), "shape of examples"),
        (tampered(image_shape=[0, 4]), "shape of examples"),
        (tampered(image_shape=[1, 4, "4"]), "shape of examples"),
        (tampered(model_sha256=b""), "SHA-256"),
        (tampered(scales__bounds=np.array([1.0, np.nan]).tobytes()), "clipping"),
        (tampered(scales__bounds=np.array([1.0, -1.0]).tobytes()), "clipping"),
        (tampered(scales__bounds=bytes(15)), "not a whole number of bounds"),
        (tampered(scales__bounds=[1.0, 1.0]), "of type list"),
        (tampered(scales__max_weight=0), "bound on weights"),
        (tampered(scales__max_weight=1 << 40), "bound on weights"),
        (tampered(scales__more=1), "other fields"),
        (tampered(scales=[]), "other fields"),
        (tampered(value_bits=16.0), "of type float"),
        (tampered(training__epochs=0), "epochs"),
        (tampered(training__batch_size=1 << 63), "batch_size is above"),
        (tampered(training__learning_rate=float("inf")), "learning_rate"),
        (tampered(training__bfloat16="maybe"), "bfloat16"),
    ],
)  # fmt: skip
def test_invalid_announcements_are_refused(extra: bytes, said: str) -> None:
    with pytest.raises(AnnouncementError, match=said):
        decode_announcement(extra)


@pytest.mark.parametrize(
    ("policy", "params", "said"),
    [
        (Policy(), {}, None),
        (Policy(), {"adversary": Adversary.HONEST_BUT_CURIOUS}, "asks for malicious"),
        (Policy(), {"adversary": Adversary.SEMI_MALICIOUS}, "asks for malicious"),
        (Policy(), {"num_clients": 3, "degree": 2, "threshold": 2}, "asks for 3"),
        (Policy(adversary=Adversary.SEMI_MALICIOUS), {}, None),
        (
            Policy(adversary=Adversary.HONEST_BUT_CURIOUS),
            {"threshold": 2, "adversary": Adversary.HONEST_BUT_CURIOUS},
            "more than half",
        ),
        (Policy(min_inputs=4), {}, "asks for 4"),
        (Policy(), {"modular": True}, "wrap"),
    ],
)
def test_the_protocols_parameters_are_within_the_policy(
    policy: Policy, params: dict[str, Any], said: str | None
) -> None:
    offered: Parameters = dataclasses.replace(PARAMS, **params)
    if said is None:
        policy.check(offered)
        return
    with pytest.raises(PolicyError, match=said):
        policy.check(offered)


def test_sparse_graphs_are_accepted_only_on_request() -> None:
    params = secagg.plan(
        num_clients=2000, vector_length=4, value_bits=4, dropout=0.05, corrupt=0.05, graph=GraphKind.SPARSE,
        adversary=Adversary.MALICIOUS,
    ).parameters  # fmt: skip
    assert not params.is_complete
    with pytest.raises(PolicyError, match="takes the complete graph only"):
        Policy().check(params)
    Policy(graph=GraphKind.SPARSE).check(params)


@pytest.mark.parametrize(
    ("changes", "params", "said"),
    [
        ({"image_shape": (1, 1 << 40, 1 << 40)}, {}, "the model is for examples"),
        ({"num_classes": 2}, {}, "there is a label 2"),
        ({"num_classes": 1001}, {}, "1001 classes, but this client takes at most 1000"),
        ({"training": Local(epochs=101, batch_size=1, learning_rate=0.1)}, {}, "at most 100"),
        ({}, {"vector_length": 100}, "updates have"),
        ({}, {"value_bits": 15}, f"{ENCODING.vector_length} of 15"),
        ({"value_bits": 40}, {}, "value bits"),
        ({"scales": None}, {}, "updates have"),
        ({"scales": Scales((1.0,), 10)}, {}, "1 clipping bounds for 2 tensors"),
        ({"scales": Scales((1.0,) * 3, 10)}, {}, "3 clipping bounds for 2 tensors"),
        ({"model": "transformer"}, {}, "unknown model"),
        ({"model": "2nn"}, {}, "is not a 2nn of this size"),
        ({"num_classes": 4}, {}, "is not a logistic of this size"),
        ({"model_bytes": b"\x80\x04."}, {}, "is not a logistic of this size"),
        ({"loss": "mse"}, {}, "the targets .* differ in shape"),
        ({"loss": "nothing"}, {}, "unknown loss 'nothing'"),
        ({"metrics": ("nothing",)}, {}, "unknown metric 'nothing'"),
        ({"loss": "os:system"}, {}, "the loss is os:system: if that is your own code on this machine, give it with"),
        ({"metrics": ("os:system",)}, {}, "the metric is os:system: if that is your own code on this machine"),
        ({"input_type": "uint8"}, {}, "logistic takes float inputs, not torch.uint8"),
        ({}, {"num_clients": 400, "degree": 399, "threshold": 300, "ring_bits": 26}, "updates have"),
    ],
)  # fmt: skip
def test_a_training_that_does_not_fit_is_declined(changes: dict[str, Any], params: dict[str, Any], said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        Policy().check_training(announcement(**changes), dataclasses.replace(PARAMS, **params), DATA)


@pytest.mark.parametrize("labels", [torch.zeros(3, 2), torch.zeros(3)])
def test_a_classification_on_other_targets_is_declined_without_revealing_them(labels: torch.Tensor) -> None:
    with pytest.raises(PolicyError, match="cross-entropy") as raised:
        Policy().check_training(announcement(), PARAMS, LocalData(DATA.images[:3], labels))
    assert not getattr(raised.value, "public", "")


def test_another_task_is_accepted_and_code_only_if_the_user_named_it() -> None:
    data = LocalData(DATA.images, torch.zeros(len(DATA.labels), 3))
    changes: Any = {"loss": "mse", "metrics": ("tests.fl.own_tasks:recall",)}
    figures = Task(changes["loss"], changes["metrics"]).figures
    length = dataclasses.replace(ENCODING, figures=figures).vector_length
    params = dataclasses.replace(PARAMS, vector_length=length)
    policy = Policy(own_metrics=("tests.fl.own_tasks:recall",))
    _, encoding = policy.check_training(announcement(**changes), params, data)
    assert encoding.figures == figures
    with pytest.raises(PolicyError, match="own_tasks:recall: if that is your own code"):
        Policy(own_loss="tests.fl.own_tasks:recall").check_training(announcement(**changes), params, data)


def test_whole_numbers_become_the_models_input_type() -> None:
    tokens = LocalData(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.zeros(2))
    assert tokens.shaped_for((2,), "int64").images.dtype == torch.int64
    halves = LocalData(torch.tensor([[0.5]]), torch.zeros(1))
    assert halves.shaped_for((1,), "int64").images.dtype == torch.float32


def test_a_training_that_fits_gives_the_model_that_was_sent() -> None:
    model, encoding = Policy().check_training(announcement(), PARAMS, DATA)
    assert model_to_bytes(model) == announcement().model_bytes
    assert encoding == ENCODING


def test_own_arrays_from_a_folder_an_archive_or_a_file(tmp_path: Path) -> None:
    x, y = np.arange(48, dtype=np.float64).reshape(3, 4, 4), np.array([2, 0, 1], dtype=np.uint8)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder" / "x.npy", x)
    np.save(tmp_path / "folder" / "y.npy", y)
    (tmp_path / "archive").mkdir()
    np.savez(tmp_path / "archive" / "mine.npz", x=x[:, None], y=y)
    for path in (tmp_path / "folder", tmp_path / "archive", tmp_path / "archive" / "mine.npz"):
        data = load_arrays(path).shaped_for(SHAPE)
        assert data.image_shape == SHAPE
        assert data.max_label == 2
        assert torch.equal(data.images[:, 0], torch.tensor(x, dtype=torch.float32))
        assert data.labels.tolist() == [2, 0, 1]


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.zeros(3), np.zeros(3, int)),
        (np.zeros((0, 4, 4)), np.zeros(0, int)),
        (np.zeros((3, 4, 4)), np.zeros(2, int)),
        (np.zeros((3, 4, 4)), np.zeros(3, complex)),
        (np.zeros((3, 4, 4)), np.full(3, np.inf)),
        (np.zeros((3, 4, 4)), np.full(3, -1)),
        (np.full((3, 4, 4), np.nan), np.zeros(3, int)),
        (np.zeros((3, 4, 4), complex), np.zeros(3, int)),
        (np.full((3, 4, 4), None), np.zeros(3, int)),
    ],
)
def test_arrays_that_do_not_fit_are_refused(tmp_path: Path, x: Any, y: Any) -> None:
    np.savez(tmp_path / "a.npz", x=x, y=y)
    with pytest.raises(DataError):
        load_arrays(tmp_path)


@pytest.mark.parametrize("content", [None, b"", b"PK\x03\x04rubbish", b"rubbish"])
def test_files_without_arrays_are_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.npz").write_bytes(content)
    for path in (tmp_path, tmp_path / "a.npz"):
        with pytest.raises(DataError, match="no arrays x and y"):
            load_arrays(path)


def test_shards_equal_a_simulations() -> None:
    parts = [load_shard("digits", None, (i, 3), scheme="iid", seed=4, alpha=0.5, per_client=2) for i in range(3)]
    assert sum(len(part.labels) for part in parts) == 1442
    assert parse_shard("2/3") == (2, 3)
    for text in ("", "3/3", "1", "-1/3", "a/b", "1/3/5"):
        with pytest.raises(ConfigError):
            parse_shard(text)


@pytest.mark.parametrize("partition", [None, "by-owner"])
def test_own_examples_of_one_class_are_refused_unless_allowed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, partition: str | None
) -> None:
    if partition is None:
        np.savez(tmp_path / "own.npz", x=np.zeros((5, 8, 8)), y=np.full(5, 3))
        data: tuple[object, ...] = ("--arrays", tmp_path / "own.npz")
    else:
        loader = own_module(tmp_path, ONE_CLASS_EACH, monkeypatch)
        data = ("--dataset", f"{loader}:load", "--partition", partition, "--shard", "0/2")
    join = ("join", "127.0.0.1:1", "--id", 0, "--plaintext", "--give-up", 0.1, *data)
    assert_refused(invoke(*join), "examples are of class", "give --allow-one-class")
    allowed = invoke(*join, "--allow-one-class")
    assert "all of them are of class" in allowed.stdout
    assert "no word from 127.0.0.1:1" in allowed.stderr


def test_a_dealt_part_of_one_class_is_accepted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loader = own_module(tmp_path, ONE_CLASS_EACH, monkeypatch)
    dealt = ("--dataset", f"{loader}:load", "--partition", "shards", "--shards-per-client", 1, "--shard", "0/2")
    result = invoke("join", "127.0.0.1:1", "--id", 0, "--plaintext", "--give-up", 0.1, *dealt)
    assert "all of them are of class" in result.stdout
    assert "no word from 127.0.0.1:1" in result.stderr


ONE_CLASS_EACH = """
    import numpy as np
    import torch
    from fl.data import Dataset

    def load(data_dir):
        labels = torch.arange(20) // 10
        return Dataset("halves", torch.rand(20, 4), labels, torch.rand(20, 4), labels, 2, np.arange(20) // 10)
"""
