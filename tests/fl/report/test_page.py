"""The page: self-contained, true to the run, and without code of others."""

from __future__ import annotations

import dataclasses
import json
import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch

from fl.config.served import NetworkSettings
from fl.data import load_dataset
from fl.formatting import format_bytes, percent
from fl.report.extras import (
    Origin,
    Personalization,
    PersonalizedClient,
    PersonalizedMethod,
    Point,
    Series,
    save_origin,
    save_personalization,
    save_series,
)
from fl.report.page import MARK, render_page
from fl.report.source import load_run, run_beside
from fl.report.verdict import FinalModel, judge_final_model
from secagg import Adversary
from tests.fl.report.pages import Element, parse, pixels_of, rewrite_checkpoint, table
from tests.fl.runs import invoke

pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.slow]

HOSTILE = """</title><script>alert(1)</script><img src=x onerror='alert("2")'> & {{ 7 * 7 }} {% raw %}"""


@pytest.fixture(scope="session")
def page(trained: Path) -> Element:
    """Return the trained run's page."""
    run = load_run(trained)
    return parse(render_page(run, judge_final_model(run, None)))


def records_of(folder: Path, aggregator: str = "secure") -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["aggregator"] == aggregator]


def section(page: Element, heading: str) -> Element:
    return page.one("section", **{"aria-labelledby": heading})


def test_the_page_loads_nothing_and_runs_nothing(trained: Path, page: Element) -> None:
    policy = page.one("meta", **{"http-equiv": "Content-Security-Policy"}).attributes["content"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    for name in ("script", "link", "iframe", "object", "form", "base"):
        assert page.all(name) == []
    for element in everything(page):
        assert not [name for name in element.attributes if name.startswith("on")]
        assert not element.attributes.keys() & {"href", "srcset", "action", "data", "xlink:href"}
        assert element.attributes.get("src", "data:").startswith("data:")
    style = page.one("style").text
    assert "url(" not in style
    assert "@import" not in style
    assert "prefers-color-scheme: dark" in style
    assert "@media print" in style
    assert MARK in render_page(load_run(trained), FinalModel(missing="not asked for"))[:2048]


def everything(element: Element) -> list[Element]:
    inner = [child for child in element.children if isinstance(child, Element)]
    return [*inner, *(grandchild for child in inner for grandchild in everything(child))]


def test_charts_have_descriptions_for_readers_who_cannot_see_them(page: Element) -> None:
    assert page.one("html").attributes["lang"] == "en"
    for image in page.all("img"):
        assert image.attributes["alt"]
    figures = page.all("figure")
    assert len(figures) == 6
    for figure in figures:
        (title,) = figure.all("h3")
        (picture,) = figure.all("svg", role="img")
        assert picture.attributes["aria-label"].startswith(title.text + ". ")
        assert figure.one("ul", of_class="legend").all("li")
    for swatch in page.all("svg", of_class="swatch"):
        assert swatch.attributes["aria-hidden"] == "true"
    for heading in page.all("section"):
        assert heading.attributes.keys() & {"aria-label", "aria-labelledby"}
    for head in page.all("th"):
        assert head.attributes["scope"] in ("row", "col")


def test_the_pictures_are_xml(trained: Path) -> None:
    run = load_run(trained)
    text = render_page(run, FinalModel(missing="")).decode()
    pictures = [part[: part.index("</svg>") + 6] for part in text.split("<svg ")[1:]]
    assert len(pictures) > 6
    for picture in pictures:
        ElementTree.fromstring("<svg " + picture)  # noqa: S314 - made here


def test_the_headline_is_the_last_round(trained: Path, page: Element) -> None:
    own, plain = records_of(trained), records_of(trained, "plain")
    tiles = {tile.one("dt").text: tile.one("dd").text for tile in page.one("dl").all("div")}
    assert tiles["test accuracy"].startswith(percent(float(str(own[-1]["accuracy"]))))
    assert tiles["plain averaging beside it"].startswith(percent(float(str(plain[-1]["accuracy"]))))
    assert tiles["on held-out examples"].startswith(percent(float(str(own[-1]["held_out_accuracy"]))))
    assert tiles["secure sum less plain sum"] == "0 largest of 3 rounds"
    assert tiles["threshold"] == "5 of 8 honest-but-curious server, complete graph"
    assert tiles["communication rounds"] == "3 of 3 planned"
    assert page.one("h1").text == "logistic on digits"
    assert page.one("span", of_class="pill").text == "finished"


def test_the_rounds_are_in_a_table_too(trained: Path, page: Element) -> None:
    rows = table(page, "All rounds")
    own = records_of(trained)
    assert len(rows) == 1 + len(own)
    for row, record in zip(rows[1:], own, strict=True):
        values = dict(zip(rows[0], row, strict=True))
        assert values["Round"] == str(record["round"])
        assert values["Accuracy"] == percent(float(str(record["accuracy"])))
        assert values["Loss"] == f"{record['loss']:.4f}"
        assert values["In the sum"] == f"{len(list(record['included']))} of 8"  # type: ignore[call-overload]
        dropped = record["dropped"]
        assert isinstance(dropped, dict)
        assert {name: int(values[name] or 0) for name in values if name in dropped} == dropped


def test_the_costs_are_an_average_rounds(trained: Path, page: Element) -> None:
    rows = table(page, "An average round, phase by phase")
    own = records_of(trained)
    by_phase = {row[0]: row for row in rows[1:]}
    assert list(by_phase)[1:] == ["AdvertiseKeys", "ShareKeys", "MaskedInputCollection", "Unmasking"]
    downloaded = sum(int(str(record["model_bytes"])) for record in own) / 3
    assert by_phase["model's download"][4] == format_bytes(downloaded)
    for name in list(by_phase)[1:]:
        up = sum(record["phases"][name]["bytes_up"] for record in own) / 3  # type: ignore[index]
        assert by_phase[name][3] == format_bytes(up)


def test_the_confusion_matrix_follows_from_the_stored_model(trained: Path, page: Element) -> None:
    """Computed by a logistic regression by hand, on the weights that the run left."""
    dataset = load_dataset("digits")
    weights = safetensors.torch.load_file(trained / "model.safetensors")
    (matrix,) = [value.numpy() for value in weights.values() if value.ndim == 2]
    (bias,) = [value.numpy() for value in weights.values() if value.ndim == 1]
    answers = (dataset.test_images.flatten(1).numpy() @ matrix.T + bias).argmax(axis=1)
    expected = np.zeros((10, 10), dtype=int)
    np.add.at(expected, (dataset.test_labels.numpy(), answers), 1)

    rows = table(page, "Confusion matrix")[1:]
    shown = np.array([[int(cell or 0) for cell in row[1:11]] for row in rows])
    assert shown.tolist() == expected.tolist()
    for index, row in enumerate(rows):
        assert row[11] == percent(expected[index, index] / expected[index].sum())
        assert row[12] == percent(expected[index, index] / expected[:, index].sum())
    assert "differ from the run's" not in section(page, "model").text


def test_the_samples_are_test_images_and_their_answers(page: Element) -> None:
    dataset = load_dataset("digits")
    low, high = dataset.test_images.min(), dataset.test_images.max()
    images = section(page, "model").all("li")
    assert len(images) == 24
    for item in images:
        image = item.one("img")
        place, truth = image.attributes["alt"].removeprefix("Test image ").split(",")[0].split(": ")
        assert int(truth) == dataset.test_labels[int(place)]
        expected = (dataset.test_images[int(place), 0] - low) / (high - low)
        assert pixels_of(image)[..., 0] == pytest.approx(expected.numpy(), abs=1 / 255)
        answer = image.attributes["alt"].rsplit(" ", 1)[1]
        assert (answer != truth) == bool(item.all("span", of_class="bad"))


def test_equal_runs_give_equal_pages(trained: Path) -> None:
    now = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    run = load_run(trained)
    first, second = (render_page(run, judge_final_model(run, None), written=now) for _ in range(2))
    assert first == second
    assert b"Written 2026-01-02 03:04 UTC" in first


def test_the_parameters_and_the_planners_reasons_are_there(trained: Path, page: Element) -> None:
    shown = section(page, "parameters")
    values = {row.one("th").text: row.one("td") for row in shown.all("tr")}
    config = load_run(trained).config
    stored = {name.replace("_", " ") for name in config.to_json()}
    # Settings of another partition do not appear here.
    assert stored - values.keys() == {"alpha", "shards per client"}
    assert values["model"].text == "logistic"
    assert values["model"].all("b")
    assert not values["momentum"].all("b")
    assert "threshold 5: floor(n/2) + 1, the server alone" in [item.text for item in shown.all("li")]


def test_without_the_data_the_page_says_what_is_missing(folder: Path, user_cache: Path) -> None:
    rewrite_checkpoint(folder, lambda stored: stored["config"].update(dataset="mnist"))
    run = load_run(folder)
    page = parse(render_page(run, judge_final_model(run, None)))
    said = section(page, "model").text
    assert "could not be tested" in said
    assert "train-labels-idx1-ubyte was not found" in said
    assert "SECAGG_DATA" in said
    assert page.all("table", of_class="matrix") == []
    assert "not here" in section(page, "parameters").text
    assert page.one("h1").text == "logistic on mnist"
    # Looking at a run must not download anything.
    assert not user_cache.exists()


def test_other_data_than_the_runs_do_not_pass_unseen(folder: Path) -> None:
    def better(stored: dict[str, list[dict[str, Any]]]) -> None:
        for record in stored["records"]:
            record["accuracy"] = 0.999

    rewrite_checkpoint(folder, better)
    run = load_run(folder)
    page = parse(render_page(run, judge_final_model(run, None)))
    said = section(page, "model").text
    assert "The run recorded 99.90%, but on the data found here" in said
    assert "differ from the run's" in said


def test_the_users_text_stays_text(trained: Path) -> None:
    run = load_run(trained)
    record = dataclasses.replace(run.own[-1], refused={"1": HOSTILE}, aborted=HOSTILE)
    clients = (PersonalizedClient(0, 5, 0.4, 0.8), PersonalizedClient(1, 5, 0.4, 0.2))
    hostile = dataclasses.replace(
        run,
        path=Path("/runs") / HOSTILE.replace("/", ""),
        config=dataclasses.replace(
            run.config,
            data=dataclasses.replace(run.config.data, dataset=f"my.data:{HOSTILE}", model=f"my.models:{HOSTILE}"),
        ),
        records=(*run.records[:-2], record, run.records[-1]),
        series=(Series(HOSTILE, (Point(1, 0.5, 1.0), Point(3, 0.6, 0.9)), HOSTILE),),
        personalization=Personalization((PersonalizedMethod(HOSTILE, clients, HOSTILE),), what=HOSTILE),
    )
    verdict = judge_final_model(run, None).verdict
    assert verdict is not None
    named = dataclasses.replace(verdict, names=(HOSTILE,) * 10)
    for final in (FinalModel(missing=HOSTILE), FinalModel(verdict=named)):
        rendered = render_page(hostile, final)
        page = parse(rendered)
        assert page.all("script") == []
        assert {image.attributes["src"][:22] for image in page.all("img")} <= {"data:image/png;base64,"}
        assert not [element for element in everything(page) if "onerror" in element.attributes]
        assert page.one("head").one("title").text.count("<script>alert(1)</script>") == 2
        assert "{{ 7 * 7 }}" in section(page, "learning").text
        assert page.one("pre").text.startswith("secagg train ")


def test_further_curves_are_beside_the_runs_own(folder: Path) -> None:
    save_series(
        folder,
        [
            Series(
                "central", tuple(Point(number, 0.9 + number / 100, 0.2) for number in (1, 2, 3)), "an epoch a round"
            ),
            Series("local", (Point(3, 0.71),), "the mean of all"),
        ],
    )
    run = load_run(folder)
    run = run_beside(run, f"again={folder}")
    page = parse(render_page(run, FinalModel(missing="")))
    accuracy, loss = section(page, "learning").all("figure")
    names = [item.text for item in accuracy.all("li")]
    assert [name.split()[0] for name in names] == ["secure", "plain", "central", "local", "again"]
    assert names[2] == "central 93.00% (an epoch a round)"
    # A figure alone is a level; local has no loss, so that figure leaves it out.
    assert len(accuracy.all("path", of_class="curve")) == 5 + 5
    (level,) = accuracy.one("svg", role="img").all("path", of_class="s3")
    assert level.text == "local: 71.00%"
    assert [item.text.split()[0] for item in loss.all("li")] == ["secure", "plain", "central", "again"]


def test_gains_are_shown_with_their_percentiles(folder: Path) -> None:
    rng = np.random.default_rng(0)
    clients = tuple(
        PersonalizedClient(number, 10, float(before), float(after))
        for number, (before, after) in enumerate(rng.uniform(0, 1, (50, 2)))
    )
    save_personalization(folder, Personalization((PersonalizedMethod("Ditto", clients, "lambda 1"),), "writer"))
    run = load_run(folder)
    page = parse(render_page(run, FinalModel(missing="")))
    shown = section(page, "personal")
    assert shown.one("h2").text == "A model for each writer"
    (row,) = table(page, "Gains by method")[1:]
    gains = np.sort([100 * (client.personal_accuracy - client.global_accuracy) for client in clients])
    assert row[:3] == ["Ditto", "50", "500"]
    assert row[5:8] == [f"{value:+.1f}" for value in np.quantile(gains, [0.1, 0.5, 0.9])]
    assert row[8:] == [percent(float((gains > 0).mean())), percent(float((gains < 0).mean()))]


def test_a_run_between_machines_is_shown_with_its_own_plan(folder: Path) -> None:
    NetworkSettings(min_clients=7, adversary=Adversary.MALICIOUS, max_examples=200).save(folder)
    run = load_run(folder)
    page = parse(render_page(run, judge_final_model(run, None)))
    assert "at least 7 of 8, malicious server" in section(page, "again").text
    assert page.all("pre") == []
    reasons = section(page, "parameters").text
    assert "malicious server" in reasons
    # One of 8 clients may be absent, and a fifth of the others may drop out.
    assert "2 are expected to vanish" in reasons


def test_a_plain_runs_page_has_no_protocol(tmp_path: Path) -> None:
    folder = tmp_path / "plain"
    trained = invoke(
        "train", "--model", "logistic", "--clients", 4, "--rounds", 1, "--epochs", 1, "--aggregator", "plain",
        "--out", folder,
    )  # fmt: skip
    assert trained.exit_code == 0, trained.output
    run = load_run(folder)
    page = parse(render_page(run, judge_final_model(run, None)))
    rows = table(page, "An average round, phase by phase")
    assert [row[0] for row in rows[1:]] == ["model's download", "updates"]
    assert "planned" not in section(page, "parameters").text
    said = section(page, "at-clients").text
    assert "in the clear" in said
    assert "secure" not in said
    assert "--holdout 0.1" in said
    # One round is a dot: a level line would show rounds that did not exist.
    (accuracy, _) = section(page, "learning").all("figure")
    assert len(accuracy.all("circle")) == 1
    (line,) = accuracy.one("svg", role="img").all("path", of_class="curve")
    assert "L" not in line.attributes["d"]
    assert section(page, "model").all("table", of_class="matrix")


def test_a_model_that_ran_away_leaves_gaps_and_no_error(folder: Path) -> None:
    def lose(stored: dict[str, list[dict[str, Any]]]) -> None:
        for record in stored["records"]:
            record.update(loss=None, accuracy=None, train_loss=None, held_out_loss=None, clipped=None)

    rewrite_checkpoint(folder, lose)
    run = load_run(folder)
    page = parse(render_page(run, judge_final_model(run, None)))
    assert section(page, "learning").all("figure") == []
    assert {row[2] for row in table(page, "All rounds")[1:]} == {"not finite"}


def test_a_coarse_last_round_is_reported_with_its_remedy(folder: Path) -> None:
    page = parse(render_page(load_run(folder), FinalModel(missing="")))
    assert "rounding noise" not in page.one("main").text
    rewrite_checkpoint(folder, lambda stored: stored["records"][-2].update(noise=0.25))
    page = parse(render_page(load_run(folder), FinalModel(missing="")))
    said = "In the last round: rounding noise is 25.00% of the mean update: give more --value-bits."
    assert said in page.one("main").text
    rounds = table(page, "All rounds")
    assert rounds[-1][rounds[0].index("Noise")] == "25.00%"


def test_aborted_rounds_are_named(folder: Path) -> None:
    def abort(stored: dict[str, list[dict[str, Any]]]) -> None:
        stored["records"][2].update(included=[], dropped={"ShareKeys": 5}, aborted="too few <clients>", phases={})

    rewrite_checkpoint(folder, abort)
    page = parse(render_page(load_run(folder), FinalModel(missing="")))
    assert "1 of 3 rounds were aborted and changed nothing: round 2 (too few <clients>)." in page.one("main").text
    legend = [item.text for item in section(page, "dropouts").all("li")]
    assert any(entry.startswith("stayed, but the round was aborted 1") for entry in legend)


def test_the_run_of_an_experiment_names_it_and_ends_with_it(folder: Path) -> None:
    """It may end at an accuracy, and use a part of the data: `secagg train` would make another run."""
    rewrite_checkpoint(folder, lambda stored: stored["config"].update(rounds=9))
    command = "secagg experiment mnist-hundred --arm 2nn-iid --seed 0 --threads 1"
    save_origin(folder, Origin("mnist-hundred", "2nn-iid", False, 0, 1, "97.02% after 3 rounds"))
    page = parse(render_page(load_run(folder), FinalModel(missing="")))
    assert page.one("span", of_class="pill").text == "finished: 97.02% after 3 rounds"
    assert command in page.one("main").text
    assert "secagg train" not in page.one("main").text


def test_a_model_is_tested_where_the_engine_that_trained_it_is_missing(folder: Path) -> None:
    rewrite_checkpoint(folder, lambda stored: stored["config"].update(engine="ray"))
    final = judge_final_model(load_run(folder), None)
    assert final.missing == ""
    assert final.verdict is not None


def test_a_run_that_was_broken_off_says_so(folder: Path) -> None:
    rewrite_checkpoint(folder, lambda stored: stored["config"].update(rounds=9))
    page = parse(render_page(load_run(folder), FinalModel(missing="")))
    assert page.one("span", of_class="pill").text == "stopped after round 3 of 9"
