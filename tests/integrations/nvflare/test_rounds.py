"""The protocol's rounds as tasks around any trainer, without the simulator: real executors, NVFlare's encoding."""

import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("nvflare", reason="needs NVFlare, which has its own environment: make test-nvflare")

import numpy as np
from nvflare.apis.dxo import DXO, MetaKey, from_shareable
from nvflare.apis.dxo_filter import DXOFilter
from nvflare.apis.fl_constant import ReturnCode
from nvflare.apis.fl_context import FLContext
from nvflare.apis.shareable import Shareable
from nvflare.app_common.abstract.fl_model import FLModel, ParamsType
from nvflare.fuel.utils import fobs

from fl.integrations.nvflare import messages
from fl.integrations.nvflare.model_encoding import as_model
from secagg import Aborted, Adversary, Completed, Round
from tests.integrations.nvflare.loopback import LoopbackCourier, Site, announce, encoding, initial_model

SITES = ("a", "b", "c")
STEPS = {"a": 10, "b": 30, "c": 64}
CHANGE = {"a": 0.25, "b": -0.5, "c": 1.0}


def trained(model: FLModel, site: str) -> FLModel:
    for name in ("weight", "bias"):
        # In place: the received model must not be the one that the result is compared with.
        model.params[name] += CHANGE[site]
    return FLModel(
        params=model.params, metrics={"accuracy": CHANGE[site]}, meta={MetaKey.NUM_STEPS_CURRENT_ROUND: STEPS[site]}
    )


def make_sites(folder: Path, changes: dict[str, Callable[[FLModel], Any]] | None = None, **arguments: Any) -> Any:
    trainers = {name: (lambda model, name=name: trained(model, name)) for name in SITES} | (changes or {})
    return {name: Site(name, train, folder, **arguments) for name, train in trainers.items()}


def weighted(values: dict[str, float], names: tuple[str, ...]) -> float:
    return sum(values[name] * STEPS[name] for name in names) / sum(STEPS[name] for name in names)


def assert_mean_of(names: tuple[str, ...], report: Any, courier: LoopbackCourier) -> None:
    assert isinstance(report.outcome, Completed)
    assert tuple(courier.announcement.sites[number] for number in report.outcome.included) == names
    mean = courier.announcement.encoding.decode(report.outcome.sum, len(names), as_model(courier.model.params))
    for name in ("weight", "bias"):
        assert mean.differences[name].dtype == courier.model.params[name].dtype
        # Half a step of 24 bits each way, relative to the largest weight.
        np.testing.assert_allclose(mean.differences[name], weighted(CHANGE, names), atol=1e-5)
    assert "counter" not in mean.differences
    assert mean.metrics == pytest.approx({"accuracy": weighted(CHANGE, names)}, abs=1e-5)
    assert mean.total_steps == sum(STEPS[name] for name in names)


def test_the_mean_is_that_of_the_updates(tmp_path: Path) -> None:
    sites, model = make_sites(tmp_path), initial_model()
    courier = LoopbackCourier(announce(model, sites), model, sites)
    assert_mean_of(SITES, courier.run(), courier)


@pytest.mark.parametrize("how", ["fails", "silent", "gone"])
@pytest.mark.parametrize("adversary", [Adversary.HONEST_BUT_CURIOUS, Adversary.SEMI_MALICIOUS])
@pytest.mark.parametrize("round_", Round)
def test_a_site_leaves_in_any_round(tmp_path: Path, round_: Round, adversary: Adversary, how: str) -> None:
    if round_ is Round.CONSISTENCY_CHECK and adversary is Adversary.HONEST_BUT_CURIOUS:
        pytest.skip("this mode has no such round")
    sites, model = make_sites(tmp_path), initial_model()
    courier = LoopbackCourier(announce(model, sites, adversary), model, sites, leaving={"b": (round_, how)})
    report = courier.run()
    is_in = round_ in (Round.CONSISTENCY_CHECK, Round.UNMASKING)
    assert_mean_of(SITES if is_in else ("a", "c"), report, courier)
    assert report.dropped["b"].round is round_


def test_too_few_sites_end_the_round_without_a_sum(tmp_path: Path) -> None:
    sites, model = make_sites(tmp_path), initial_model()
    leaving = dict.fromkeys(("a", "b"), (Round.MASKED_INPUT_COLLECTION, "fails"))
    report = LoopbackCourier(announce(model, sites), model, sites, leaving=leaving).run()
    assert isinstance(report.outcome, Aborted)


def test_differences_are_accepted_as_updates(tmp_path: Path) -> None:
    def difference(model: FLModel, site: str) -> FLModel:
        params = {name: np.full_like(model.params[name], CHANGE[site]) for name in ("weight", "bias")}
        meta = {MetaKey.NUM_STEPS_CURRENT_ROUND: float(STEPS[site])}
        return FLModel(params=params, params_type=ParamsType.DIFF, metrics={"accuracy": CHANGE[site]}, meta=meta)

    sites = make_sites(tmp_path, {name: (lambda model, name=name: difference(model, name)) for name in SITES})
    model = initial_model()
    courier = LoopbackCourier(announce(model, sites), model, sites)
    assert_mean_of(SITES, courier.run(), courier)


def test_a_metric_that_a_site_does_not_report_counts_without_it(tmp_path: Path) -> None:
    def silent(model: FLModel) -> FLModel:
        result = trained(model, "b")
        result.metrics = {"accuracy": float("nan"), "other": 1.0}
        return result

    sites, model = make_sites(tmp_path, {"b": silent}), initial_model()
    courier = LoopbackCourier(announce(model, sites), model, sites)
    report = courier.run()
    mean = courier.announcement.encoding.decode(report.outcome.sum, 3, as_model(model.params))
    assert mean.metrics == pytest.approx({"accuracy": weighted(CHANGE, ("a", "c"))}, abs=1e-5)


def test_a_site_may_reply_in_any_order(tmp_path: Path) -> None:
    """Sites get models of one order, which some trainers rely on; their replies are added up by name."""

    def backwards(model: FLModel) -> FLModel:
        result = trained(model, "b")
        result.params = dict(reversed(result.params.items()))
        result.metrics = {"other": 1.0} | result.metrics
        return result

    sites, model = make_sites(tmp_path, {"b": backwards}), initial_model()
    courier = LoopbackCourier(announce(model, sites), model, sites)
    assert_mean_of(SITES, courier.run(), courier)


def test_a_site_without_steps_does_not_cost_the_others(tmp_path: Path) -> None:
    def idle(model: FLModel) -> FLModel:
        result = trained(model, "b")
        result.meta[MetaKey.NUM_STEPS_CURRENT_ROUND] = np.int64(0)
        return result

    sites, model = make_sites(tmp_path, {"b": idle}), initial_model()
    courier = LoopbackCourier(announce(model, sites), model, sites)
    report = courier.run()
    assert isinstance(report.outcome, Completed)
    assert len(report.outcome.included) == 3
    mean = courier.announcement.encoding.decode(report.outcome.sum, 3, as_model(model.params))
    np.testing.assert_allclose(mean.differences["bias"], weighted(CHANGE, ("a", "c")), atol=1e-5)
    assert mean.total_steps == STEPS["a"] + STEPS["c"]


def test_a_metric_that_stays_with_a_site_is_named_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def diverging(model: FLModel) -> FLModel:
        result = trained(model, "b")
        result.metrics = {"accuracy": 123.5}
        return result

    sites, model = make_sites(tmp_path, {"b": diverging}), initial_model()
    courier = LoopbackCourier(announce(model, sites), model, sites)
    report = courier.run()
    mean = courier.announcement.encoding.decode(report.outcome.sum, 3, as_model(model.params))
    assert mean.metrics == pytest.approx({"accuracy": weighted(CHANGE, ("a", "c"))}, abs=1e-5)
    assert "metric_bound are not sent: ['accuracy']" in caplog.text
    assert "123.5" not in caplog.text


def other_shape(model: FLModel) -> FLModel:
    result = trained(model, "b")
    result.params["bias"] = np.zeros(4)
    return result


def lacks_an_entry(model: FLModel) -> FLModel:
    result = trained(model, "b")
    del result.params["bias"]
    return result


def has_an_entry_more(model: FLModel) -> FLModel:
    result = trained(model, "b")
    result.params["secret"] = np.zeros(3)
    return result


def has_text(model: FLModel) -> FLModel:
    result = trained(model, "b")
    result.params["bias"] = np.array(["a", "b", "c"])
    return result


def has_complex_numbers(model: FLModel) -> FLModel:
    result = trained(model, "b")
    result.params["bias"] = result.params["bias"] + 1j
    return result


def gives_nothing(model: FLModel) -> Shareable:
    return Shareable()


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (other_shape, r"'bias' has shape \(4,\)"),
        (has_text, r"'bias' must be an array of numbers, but has type <U"),
        (has_complex_numbers, r"'bias' must be an array of numbers, but has type complex128"),
        (lacks_an_entry, "lacks 'bias'"),
        (has_an_entry_more, "'secret'"),
        (gives_nothing, "holds no model"),
    ],
)
def test_an_update_that_cannot_be_averaged_is_not_sent(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: Any, reason: str
) -> None:
    sites, model = make_sites(tmp_path, {"b": broken}), initial_model()
    courier = LoopbackCourier(announce(model, sites), model, sites)
    with caplog.at_level(logging.ERROR):
        report = courier.run()
    assert_mean_of(("a", "c"), report, courier)
    (record,) = caplog.records
    assert record.name.endswith("fl.integrations.nvflare.executor")
    assert re.search(reason, record.getMessage())
    assert record.exc_info is None
    # The server learns of names, types, shapes and settings, and nothing of values.
    answer = fobs.loads(sites["b"].results[-1])
    assert answer.get_return_code() == ReturnCode.EXECUTION_EXCEPTION
    assert messages.take_message(answer) is None
    assert re.search(reason, report.reasons["b"])
    assert report.reasons["b"].isprintable()


@pytest.mark.parametrize("what", ["other numbers", "another order"])
def test_a_site_that_was_sent_another_model_does_not_train(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, what: str
) -> None:
    sites, model = make_sites(tmp_path), initial_model()
    other = initial_model()
    if what == "other numbers":
        other.params["bias"][0] += 1e-12
    else:
        other.params = dict(reversed(other.params.items()))
    courier = LoopbackCourier(announce(model, sites), model, sites, other_models={"b": other})
    assert_mean_of(("a", "c"), courier.run(), courier)
    assert sites["b"].trainer.calls == 0
    assert "not the one that was announced to all" in caplog.text


def test_sites_that_were_announced_different_models_share_no_masks(tmp_path: Path) -> None:
    """A server that gives one site another model loses that site, whatever it claims."""
    sites, model = make_sites(tmp_path), initial_model()
    courier = LoopbackCourier(announce(model, sites), model, sites)
    lie = announce(model, sites, model_digest=bytes(32))
    honest = messages.announcing(courier.announcement.to_bytes())

    def announce_to(site: str) -> None:
        courier._add(site, Round.ADVERTISE_KEYS, messages.announcing(lie.to_bytes()) if site == "b" else honest)

    courier.announce = announce_to  # type: ignore[method-assign]
    report = courier.run()
    assert_mean_of(("a", "c"), report, courier)
    assert report.dropped["b"].round is Round.ADVERTISE_KEYS


@pytest.mark.parametrize("task", ["train", "validate", "submit_model", "secagg_other"])
def test_other_tasks_are_refused(tmp_path: Path, task: str) -> None:
    site = make_sites(tmp_path)["a"]
    result = site.do(task, fobs.dumps(Shareable()))
    assert result.get_return_code() == ReturnCode.TASK_UNKNOWN
    assert site.trainer.calls == 0


def test_listed_tasks_are_answered_in_the_clear(tmp_path: Path) -> None:
    site = make_sites(tmp_path, plain_tasks=["validate"])["a"]
    from nvflare.app_common.utils.fl_model_utils import FLModelUtils

    result = site.do("validate", fobs.dumps(FLModelUtils.to_shareable(initial_model())))
    assert FLModelUtils.from_shareable(result).metrics == {"accuracy": 0.25}


def test_training_without_a_session_is_refused(tmp_path: Path) -> None:
    from nvflare.app_common.utils.fl_model_utils import FLModelUtils

    site = make_sites(tmp_path)["a"]
    result = site.do("secagg_masked_input", fobs.dumps(FLModelUtils.to_shareable(initial_model())))
    assert result == messages.refusal()
    assert site.trainer.calls == 0


def test_a_task_that_comes_again_gets_the_same_bytes(tmp_path: Path) -> None:
    sites, model = make_sites(tmp_path), initial_model()
    courier = LoopbackCourier(announce(model, sites), model, sites)
    deliver = courier.next_result

    def twice(timeout: float) -> Any:
        due = list(courier._due)[:1]
        result = deliver(timeout)
        for name, round_ in due:
            again = sites[name].do(messages.TASKS[round_], courier.sent[name, round_])
            assert messages.take_message(again) == result.message
        return result

    courier.next_result = twice  # type: ignore[method-assign]
    assert_mean_of(SITES, courier.run(), courier)
    assert [site.trainer.calls for site in sites.values()] == [1, 1, 1]


def test_a_second_survivor_list_gets_no_answer(tmp_path: Path) -> None:
    """The one thing that must never happen: both shares of one client."""
    results = []
    for leaving in ({}, {"c": (Round.MASKED_INPUT_COLLECTION, "fails")}):
        sites, model = make_sites(tmp_path), initial_model()
        courier = LoopbackCourier(announce(model, sites), model, sites, leaving=leaving)
        courier.run()
        results.append((sites, courier))
    (sites, courier), (_, other) = results
    again = sites["a"].do("secagg_unmasking", other.sent["a", Round.UNMASKING])
    assert again == messages.refusal()
    # It is dead now, also for its earlier answer.
    assert sites["a"].do("secagg_unmasking", courier.sent["a", Round.UNMASKING]) == messages.refusal()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [({"job_id": "another"}, "another job"), ({"sites": ("b", "c", "d")}, "announced to other sites")],
)
def test_announcements_for_others_are_declined(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, changes: Any, reason: str
) -> None:
    sites, model = make_sites(tmp_path), initial_model()
    data = messages.announcing(announce(model, sites, **changes).to_bytes())
    assert sites["a"].do("secagg_advertise_keys", fobs.dumps(data)) == messages.refusal()
    assert reason in caplog.text


def test_a_site_declines_less_than_it_asks_for(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sites, model = make_sites(tmp_path, adversary="malicious", min_inputs=3), initial_model()
    report = LoopbackCourier(announce(model, sites), model, sites).run()
    assert isinstance(report.outcome, Aborted)
    assert "the sum could contain only 2 inputs" in caplog.text
    assert "asks for malicious" in caplog.text


class Halve(DXOFilter):
    """A filter that changes an update, in place of clipping and noise."""

    def __init__(self) -> None:
        super().__init__(supported_data_kinds=None, data_kinds_to_filter=None)

    def process_dxo(self, dxo: DXO, shareable: Shareable, fl_ctx: FLContext) -> DXO:
        dxo.data["bias"] = dxo.data["bias"] / 2
        return dxo


@pytest.mark.parametrize("kind", ["result_filters", "site_filters"])
def test_filters_work_on_the_update_before_it_is_masked(tmp_path: Path, kind: str) -> None:
    """The job's own filters, and those of the site's privacy policy."""
    sites = make_sites(tmp_path, **{kind: [Halve()]})
    model = initial_model()
    before = as_model(model.params)["bias"]
    courier = LoopbackCourier(announce(model, sites), model, sites)
    report = courier.run()
    mean = courier.announcement.encoding.decode(report.outcome.sum, 3, as_model(model.params))
    expected = (before + weighted(CHANGE, SITES)) / 2 - before
    np.testing.assert_allclose(mean.differences["bias"], expected, atol=1e-5)


def test_a_filter_for_outgoing_results_does_not_see_the_update(tmp_path: Path) -> None:
    """Where the job's own chain comes after the masking, NVFlare's filters find no model in it."""
    sites, model = make_sites(tmp_path), initial_model()
    LoopbackCourier(announce(model, sites), model, sites).run()
    with pytest.raises(ValueError, match="DXO"):
        from_shareable(fobs.loads(sites["a"].results[2]))


def test_excluded_entries_stay_with_the_site(tmp_path: Path) -> None:
    sites, model = make_sites(tmp_path), initial_model()
    announcement = announce(model, sites, encoding=encoding(excluded=("bias",), num_entries=1))
    report = LoopbackCourier(announcement, model, sites).run()
    mean = announcement.encoding.decode(report.outcome.sum, 3, as_model(model.params))
    assert list(mean.differences) == ["weight"]
