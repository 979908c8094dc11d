"""A server that lies: it cannot give one site alone other values, or ask for the same twice."""

import inspect
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

from nvflare.apis.dxo import DXO, MetaKey
from nvflare.apis.event_type import EventType
from nvflare.apis.fl_constant import FLContextKey, ReservedKey
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import ReservedHeaderKey, Shareable
from nvflare.app_common.abstract.fl_model import FLModel
from nvflare.app_common.app_constant import AppConstants
from nvflare.app_common.utils.fl_model_utils import FLModelUtils
from nvflare.fuel.utils import fobs

from fl.integrations.nvflare import messages
from secagg import Aborted, Adversary, Completed, Round
from tests.integrations.nvflare.cohort import SITES, VICTIM, Cohort, assert_ends_well, courier_of, model_with
from tests.integrations.nvflare.loopback import JOB, Site, announce
from transport import ClientRecord, JournalError


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path)


# Inputs of trainers


def test_a_learning_rate_for_one_site_alone_reaches_nobody(cohort: Cohort) -> None:
    """The others' updates would be zero, and the sum the victim's (Pasquini et al. 2022)."""
    sites, model = cohort.sites(), model_with(0.25)
    still = {name: model_with(0.0) for name in SITES if name != VICTIM}
    assert_ends_well(cohort, courier_of(sites, model, other_models=still))


def test_sites_that_were_announced_other_meta_share_no_masks(cohort: Cohort) -> None:
    sites, model = cohort.sites(), model_with(0.25)
    courier = courier_of(sites, model)
    to_others = announce(model_with(0.0), sites, params=courier.announcement.params)
    honest = courier._add

    def lie(site: str, round_: Round, data: Shareable) -> None:
        if round_ is Round.ADVERTISE_KEYS and site != VICTIM:
            data = messages.announcing(to_others.to_bytes())
        honest(site, round_, data)

    courier._add = lie  # type: ignore[method-assign]
    report = courier.run(directory=cohort.directory())
    assert isinstance(report.outcome, Aborted)
    assert sites[VICTIM].trainer.calls == 0
    assert_ends_well(cohort, courier_of(sites, model, announced={"nonce": b"another"}))


# The source of each part of a trainer's task.  A part that a later NVFlare adds fails the test: it does not reach the
# trainer, and somebody has to decide whether it should.
ANNOUNCED, MADE_HERE, LEFT_OUT = "announced to all", "made on the site", "left out"

MODEL_FIELDS = {
    "params": ANNOUNCED, "params_type": MADE_HERE, "start_round": ANNOUNCED, "current_round": ANNOUNCED,
    "total_rounds": ANNOUNCED, "meta": ANNOUNCED, "metrics": LEFT_OUT, "optimizer_params": LEFT_OUT,
}  # fmt: skip

HEADERS = {
    "HEADERS": MADE_HERE, "CONTENT_TYPE": MADE_HERE, "TASK_NAME": MADE_HERE, "TASK_ID": MADE_HERE,
    "TOPIC": LEFT_OUT, "RC": LEFT_OUT, "COOKIE_JAR": LEFT_OUT, "PEER_PROPS": LEFT_OUT, "REPLY_IS_LATE": LEFT_OUT,
    "WORKFLOW": LEFT_OUT, "AUDIT_EVENT_ID": LEFT_OUT, "TASK_OPERATOR": LEFT_OUT, "ERROR": LEFT_OUT,
    "PEER_CTX": LEFT_OUT, "MSG_ROOT_ID": LEFT_OUT, "MSG_ROOT_TTL": LEFT_OUT, "PASS_THROUGH": LEFT_OUT,
}  # fmt: skip

FLAG = "the server says"
"""A mark in all that the server adds."""


def test_every_part_of_a_task_is_decided_on() -> None:
    assert set(inspect.signature(FLModel).parameters) == MODEL_FIELDS.keys()
    assert {name for name in vars(ReservedHeaderKey) if name.isupper()} <= HEADERS.keys()
    assert set(inspect.signature(DXO).parameters) == {"data_kind", "data", "meta"}


def test_a_trainer_gets_only_announced_values_from_the_server(cohort: Cohort) -> None:
    """This holds for any headers, cookies, meta and peer's context in one site's task."""
    sites, model = cohort.sites(), model_with(0.25)
    courier = courier_of(sites, model)
    seen: list[tuple[Shareable, FLContext]] = []
    site = sites[VICTIM]
    honest_send, honest_context, execute = courier.send, site.context, site.trainer.execute

    def send(name: str, round_: Round, message: bytes) -> None:
        if name != VICTIM or round_ is not Round.MASKED_INPUT_COLLECTION:
            return honest_send(name, round_, message)
        data = FLModelUtils.to_shareable(model)
        constants = [*vars(ReservedHeaderKey).values(), *vars(AppConstants).values(), *vars(MetaKey).values(), "other"]
        for key in {key for key in constants if isinstance(key, str)}:
            data["DXO"]["meta"][key] = FLAG
            # These parts make it a model.
            if key not in (ReservedHeaderKey.HEADERS, ReservedHeaderKey.CONTENT_TYPE, AppConstants.SUBMIT_MODEL_NAME):
                data.set_header(key, 9 if key.endswith(("_round", "_rounds")) else FLAG)
        data["DXO"]["meta"] |= {"lr": 9.0, MetaKey.INITIAL_METRICS: {FLAG: 9.0}}
        data["DXO"][FLAG] = data[FLAG] = FLAG
        data.set_header(ReservedHeaderKey.COOKIE_JAR, {FLAG: FLAG})
        data.set_header(ReservedHeaderKey.PEER_PROPS, {FLAG: FLAG})
        return courier._add(name, round_, messages.put_message(data, message))

    def context() -> FLContext:
        """Return a context as NVFlare's runner fills it in."""
        fl_ctx, server = honest_context(), FLContext()
        server.set_public_props({ReservedKey.RUN_NUM: JOB, "lr": FLAG})
        fl_ctx.set_peer_context(server)
        for key in (FLContextKey.TASK_DATA, FLContextKey.TASK_ID, "_cc_info", "other"):
            fl_ctx.set_prop(key, FLAG, private=True, sticky=False)
        return fl_ctx

    def looked_at(task: str, shareable: Shareable, fl_ctx: FLContext, abort_signal: Any) -> Shareable:
        seen.append((shareable, fl_ctx))
        return execute(task, shareable, fl_ctx, abort_signal)

    courier.send, site.context, site.trainer.execute = send, context, looked_at  # type: ignore[assignment]
    assert_ends_well(cohort, courier)

    ((task, fl_ctx),) = seen
    assert FLAG not in repr(task)
    assert task.keys() == {ReservedHeaderKey.HEADERS, "DXO"}
    headers = dict(task[ReservedHeaderKey.HEADERS])
    assert len(headers.pop(ReservedHeaderKey.TASK_ID)) == 32
    assert headers == {
        ReservedHeaderKey.CONTENT_TYPE: "DXO",
        ReservedHeaderKey.TASK_NAME: "train",
        AppConstants.START_ROUND: 0,
        AppConstants.CURRENT_ROUND: 3,
        AppConstants.NUM_ROUNDS: 5,
    }
    assert task["DXO"]["meta"] == {"lr": 0.25}
    # Of the context, only NVFlare's initial entries, and those made here.
    made = {ReservedKey.PEER_CTX, FLContextKey.TASK_DATA, FLContextKey.TASK_ID, FLContextKey.TASK_NAME}
    filtered = {FLContextKey.FILTER_DIRECTION}
    assert set(fl_ctx.get_prop_keys()) == made | filtered | set(honest_context().get_prop_keys())
    assert FLAG not in repr([fl_ctx.get_prop(key) for key in fl_ctx.get_prop_keys()])
    assert fl_ctx.get_peer_context().get_all_public_props() == {}
    assert fl_ctx.get_prop(FLContextKey.TASK_DATA) is task


# Repeated requests


def unmasked(site: Site) -> bool:
    """Return whether the last of the site's results released shares."""
    return messages.take_message(fobs.loads(site.results[-1])) is not None


@pytest.mark.parametrize("adversary", [Adversary.MALICIOUS, Adversary.SEMI_MALICIOUS])
@pytest.mark.parametrize("how", ["a task out of turn", "the end of the run", "another process"])
def test_a_session_that_a_site_has_left_is_not_entered_again(
    cohort: Cohort, adversary: Adversary, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With other keys, a site's signature in the second could count in the first, and isolate it on a sparse graph."""
    arguments = {"adversary": adversary.value, "min_inputs": 2}
    sites, model = cohort.sites(**arguments), model_with(0.25)
    courier, site = courier_of(sites, model, adversary=adversary), sites[VICTIM]
    data = fobs.dumps(messages.announcing(courier.announcement.to_bytes()))
    task = messages.TASKS[Round.ADVERTISE_KEYS]
    assert messages.take_message(site.do(task, data)) is not None
    if how == "a task out of turn":
        site.do(messages.TASKS[Round.UNMASKING], fobs.dumps(messages.put_message(Shareable(), b"?")))
    elif how == "the end of the run":
        site.executor.handle_event(EventType.END_RUN, site.context())
    else:
        sites = cohort.sites(**arguments)
        site = sites[VICTIM]
    assert site.do(task, data) == messages.refusal()
    assert "has taken part in this session before" in caplog.text
    # No shares were sent, so the round may be opened again: with another nonce.
    assert_ends_well(cohort, courier_of(sites, model, adversary=adversary, announced={"nonce": b"another"}))


@pytest.mark.parametrize("adversary", [Adversary.MALICIOUS, Adversary.SEMI_MALICIOUS])
@pytest.mark.parametrize("again", [3, 2, 0])
def test_a_round_is_answered_once(cohort: Cohort, adversary: Adversary, again: int) -> None:
    """The difference of two sums, one without the victim, would be the victim's update."""
    arguments = {"adversary": adversary.value, "min_inputs": 3}
    sites = cohort.sites(**arguments)
    assert_ends_well(cohort, courier_of(sites, model_with(0.25, 3), adversary=adversary))
    # Also after a crash: the record is on the disk.
    sites = cohort.sites(**arguments)
    fewer = {name: site for name, site in sites.items() if name != VICTIM}
    second = courier_of(fewer, model_with(0.25, again), adversary=adversary, announced={"nonce": b"another"})
    report = second.run(directory=cohort.directory(tuple(fewer)) if adversary is Adversary.MALICIOUS else None)
    assert isinstance(report.outcome, Aborted)
    assert [site.trainer.calls for site in sites.values()] == [0] * len(SITES)
    assert_ends_well(cohort, courier_of(sites, model_with(0.25, 4), adversary=adversary))


def test_a_budget_bounds_the_rounds_of_all_jobs_together(cohort: Cohort, caplog: pytest.LogCaptureFixture) -> None:
    """A server can run a job again: the rounds of the new one have their own numbers."""
    for job in ("first", "second"):
        sites = cohort.sites(max_rounds=2, job=job)
        assert_ends_well(cohort, courier_of(sites, model_with(0.25, 1), announced={"job_id": job}))
    sites = cohort.sites(max_rounds=2, job="third")
    report = courier_of(sites, model_with(0.25, 1), announced={"job_id": "third"}).run(directory=cohort.directory())
    assert isinstance(report.outcome, Aborted)
    assert "its budget is 2" in caplog.text
    assert [site.trainer.calls for site in sites.values()] == [0] * len(SITES)
    sites = cohort.sites(max_rounds=2, job="third", training="of something else")
    assert_ends_well(cohort, courier_of(sites, model_with(0.25, 1), announced={"job_id": "third"}))


def test_no_share_leaves_before_the_record_is_on_the_disk(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    sites, model = cohort.sites(), model_with(0.25)

    def full(*_: object) -> None:
        raise JournalError("the disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(ClientRecord, "answer", full)
        report = courier_of(sites, model).run(directory=cohort.directory())
        assert isinstance(report.outcome, Aborted)
        assert not any(unmasked(site) for site in sites.values())
    assert_ends_well(cohort, courier_of(sites, model, announced={"nonce": b"another"}))


def test_shares_that_are_asked_for_again_are_the_same_bytes(cohort: Cohort) -> None:
    """NVFlare gives a site a task again when it has not seen the result."""
    sites = cohort.sites()
    courier = courier_of(sites, model_with(0.25))
    assert_ends_well(cohort, courier)
    for name, site in sites.items():
        before = site.results[-1]
        site.do(messages.TASKS[Round.UNMASKING], courier.sent[name, Round.UNMASKING])
        assert site.results[-1] == before


def test_the_record_is_kept_beside_the_identity_of_each_site(cohort: Cohort) -> None:
    """In the simulator many sites are one user; and a site's own folder outlives its containers."""
    assert_ends_well(cohort, courier_of(cohort.sites(), model_with(0.25)))
    for name in SITES:
        assert (cohort.folder / name / "secagg_record").stat().st_mode & 0o777 == 0o700
    sites = cohort.sites(record=str(cohort.folder / "elsewhere"))
    assert_ends_well(cohort, courier_of(sites, model_with(0.25), announced={"nonce": b"another"}))


def test_a_record_that_cannot_be_kept_keeps_a_site_out(cohort: Cohort, caplog: pytest.LogCaptureFixture) -> None:
    (cohort.folder / VICTIM / "secagg_record").write_text("no folder")
    sites = cohort.sites()
    report = courier_of(sites, model_with(0.25)).run(directory=cohort.directory())
    assert isinstance(report.outcome, Completed)
    assert SITES.index(VICTIM) not in report.outcome.included
    assert "cannot keep the record" in caplog.text
