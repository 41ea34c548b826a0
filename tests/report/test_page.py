"""The page: well-formed, self-contained, small whatever the record, escaped, and quiet in a real browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from xml.etree import ElementTree

import pytest

from lissom.report import recipe_yaml, render
from lissom.report.headline import claim
from lissom.report.layers import MOST_HISTOGRAMS, MOST_LAYERS
from lissom.report.record import BeforeAfter, Latency, Layer, MetricFigures, Percentiles, Record, Trial
from lissom.report.trials import MOST_TRIALS

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


def changed(record: Record, **changes) -> Record:
    return Record(**(vars(record) | changes))


def parsed(page: str) -> ElementTree.Element:
    """The page as XML: it fails on any tag left open, any attribute unquoted, any character that may not be written."""
    assert page.startswith("<!DOCTYPE html>\n")
    return ElementTree.fromstring(page)


def texts(page: str, path: str) -> list[str]:
    return ["".join(element.itertext()) for element in parsed(page).iterfind(path)]


def test_pages_are_well_formed(minimal, full):
    for record in (minimal, full):
        root = parsed(render(record))
        assert [child.tag for child in root] == ["head", "body"]
        assert root.findtext("head/title").startswith(record.model)


def test_a_full_record_shows_every_section(full):
    headings = texts(render(full), ".//main/section/h2")
    assert headings == [
        "What was tried",
        "Layer by layer",
        "Weights before and after",
        "Refused or left alone",
        "The recipe",
        "How each figure was measured",
    ]


def test_sections_with_nothing_to_say_are_left_out(minimal):
    assert texts(render(minimal), ".//main/section/h2") == ["The recipe", "How each figure was measured"]


def test_nothing_is_fetched_and_nothing_runs(minimal, full):
    for record in (minimal, full):
        page = render(record)
        assert not re.search(r"https?:|//[a-z]|url\(|@import", page.replace("<!DOCTYPE html>", ""))
        root = parsed(page)
        assert not root.findall(".//script")
        addresses = [
            value for element in root.iter() for key, value in element.items() if key in ("src", "href", "action", "data")
        ]
        assert addresses == ["data:,"]
        policy = next(element for element in root.iter("meta") if element.get("http-equiv") == "Content-Security-Policy")
        assert policy.get("content").startswith("default-src 'none'")


HOSTILE = "<script>alert(1)</script>\"'&amp;]]>\x00\x1b\ufffe \u202e"


def test_every_text_of_the_user_is_escaped(full):
    layer = changed_layer(full.layers[0], name=HOSTILE, kind=HOSTILE)
    trial = Trial(name=HOSTILE, recipe=HOSTILE, metric=0.9, drop=0.01, bytes=10, kept=True, refused_because=HOSTILE)
    record = changed(
        full,
        model=HOSTILE,
        command=HOSTILE,
        notes=(HOSTILE,),
        recipe={HOSTILE: HOSTILE},
        machine={HOSTILE: HOSTILE},
        versions={HOSTILE: HOSTILE, "lissom": HOSTILE},
        layers=(layer,),
        trials=(trial,),
        metric=MetricFigures(name=HOSTILE, unit="share", split=HOSTILE, n=3, before=0.9, after=0.9, drop=0.0),
    )
    page = render(record)
    root = parsed(page)
    assert not root.findall(".//script")
    assert not any(key.startswith("on") for element in root.iter() for key, _ in element.items())
    assert "<script>alert(1)</script>" in root.findtext("head/title")
    page.encode("utf-8")


def changed_layer(layer: Layer, **changes) -> Layer:
    return Layer(**(vars(layer) | changes))


def test_a_huge_record_stays_under_the_limit_and_says_what_is_left_out(full):
    long = "a sentence that goes on and on " * 200
    layers = tuple(changed_layer(full.layers[i % 9], name=f"blocks.{i}.{'x' * 500}", bytes_before=i) for i in range(3000))
    trials = tuple(Trial(name=f"t{i}", recipe=long, metric=0.9, drop=0.0, bytes=i + 1, refused_because=long) for i in range(3000))
    chosen = Trial(name="the chosen one", metric=0.9, drop=0.0, bytes=5, kept=True)
    recipe = {"steps": [{"PruneWeights": {"layers": [f"layer{i}" for i in range(50_000)]}}]}
    page = render(changed(full, layers=layers, trials=(*trials, chosen), notes=(long,) * 3000, recipe=recipe, command=long))
    assert len(page.encode()) < 1_500_000
    root = parsed(page)
    assert len(root.findall(".//table[@class='layers']/tbody/tr")) == MOST_LAYERS
    assert len(root.findall(".//table[@class='trials']/tbody/tr")) == MOST_TRIALS
    assert len(root.findall(".//div[@class='gallery']/figure")) == MOST_HISTOGRAMS
    assert "the chosen one" in page
    assert "2700 more" in page
    assert "blocks.2999." in page
    assert "blocks.0." not in page
    assert "see recipe.yaml" in page


def test_the_recipe_on_the_page_is_the_file(full):
    assert texts(render(full), ".//section[@id='recipe']/pre/code")[0] == recipe_yaml(full)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ({"drop": 0.0131}, "1.31 points of accuracy lost"),
        ({"drop": -0.002}, "0.20 points of accuracy gained"),
        ({"drop": 0.00001}, "the same accuracy"),
        ({"drop": 0.05, "name": "squared error", "unit": "squared", "higher_is_better": False}, "squared error up by 5.00 %"),
        ({"drop": -0.05, "name": "squared error", "unit": "squared", "higher_is_better": False}, "squared error down by 5.00 %"),
        ({"drop": 0.05, "name": "F", "unit": "bits", "higher_is_better": True}, "F down by 5.00 %"),
    ],
)
def test_the_claim_says_what_was_lost(minimal, metric, expected):
    fields = {"name": "accuracy", "unit": "share", "split": "test", "n": 9, "before": 0.9, "after": 0.9} | metric
    assert claim(changed(minimal, metric=MetricFigures(**fields))).replace("\u00a0", " ") == f"2.50× smaller, {expected}"


def test_the_claim_says_larger_and_slower_when_it_is(minimal):
    slow = Latency(
        runtime="onnxruntime",
        threads=1,
        batch=1,
        before_ms=Percentiles(p10=1.0, p50=1.0),
        after_ms=Percentiles(p10=2.0, p50=2.0),
        ratio=0.5,
        runs=200,
        cpu="",
    )
    record = changed(minimal, bytes=type(minimal.bytes)(source=400, archive=1000), latency=(slow,))
    assert claim(record) == "2.50× larger, 2.00× slower, the same accuracy"


def test_a_difference_within_the_measurement_is_no_claim(full):
    latency = Latency(**(vars(full.latency[0]) | {"ratio": 0.98}))
    assert "as fast as before" in claim(changed(full, latency=(latency,)))


def test_columns_with_nothing_in_them_are_left_out(full):
    trials = tuple(Trial(name=f"t{i}", metric=0.9, drop=0.0, bytes=5 + i) for i in range(3))
    heads = texts(render(changed(full, trials=trials)), ".//table[@class='trials']/thead/tr/th")
    assert heads == ["Trial", "Accuracy", "Change", "Size", "Outcome"]


def test_one_ruined_trial_does_not_flatten_the_others(full):
    marks = [mark for mark in parsed(render(full)).iterfind(".//svg[@class='scatter']/g") if "10.00" in mark.findtext("title")]
    assert marks
    assert all(mark.find("path").get("class") == "outside" for mark in marks)


def test_missed_limits_and_undecided_data_are_said_at_the_top(full):
    metric = MetricFigures(**(vars(full.metric) | {"undecided": True}))
    page = render(changed(full, metric=metric))
    verdicts = texts(page, ".//header/ul/li")
    assert [verdict[0] for verdict in verdicts] == ["✓", "✓", "✗"]
    assert "undecided by this data" in verdicts[0]
    assert "too small to tell" in page


def test_a_gain_is_no_loss_of_the_same_size(full):
    limit, *others = full.limits
    gained = changed(full, limits=(type(limit)(**(vars(limit) | {"measured": -0.002})), *others))
    first = texts(render(gained), ".//header/ul/li")[0].replace("\u00a0", " ")
    assert first.startswith("✓Limit met: accuracy lost nothing, at most 1.00 points")


def test_one_mark_for_every_trial_that_ran_and_one_for_the_original(full):
    ran = [trial for trial in full.trials if trial.metric is not None and trial.bytes]
    plot = parsed(render(full)).find(".//svg[@class='scatter']")
    marks = [element for element in plot.iterfind("g") if element.get("class", "").startswith("mark")]
    assert len(marks) == len(ran) + 1
    assert [mark.get("class") for mark in marks].count("mark chosen") == 1
    assert all(mark.findtext("title") for mark in marks)


def test_marks_of_drawings_have_titles(full):
    root = parsed(render(full))
    for drawing in root.iter("svg"):
        if drawing.get("aria-hidden") != "true":
            assert drawing.findtext("title") or drawing.find("path/title") is not None
    bars = [bar for bar in root.iter("rect") if bar.get("class") in ("before", "after")]
    assert bars
    assert all(bar.findtext("title") for bar in bars)


@pytest.mark.parametrize("drop", [0.0, 1.0, -0.5, 1.7])
@pytest.mark.parametrize("higher", [True, False])
@pytest.mark.parametrize("unit", ["share", "squared"])
def test_any_metric_and_drop_can_be_drawn(full, unit, higher, drop):
    metric = MetricFigures(
        name="m", unit=unit, split="test", n=5, before=0.5, after=0.1, drop=drop, standard_error=0.0, higher_is_better=higher
    )
    trials = tuple(Trial(name=str(i), metric=m, drop=drop, bytes=7, latency_ms=1e-6) for i, m in enumerate((0.0, -3.0, 1e9)))
    parsed(render(changed(full, metric=metric, trials=trials)))


def test_layers_that_came_or_went_are_shown(full):
    gone = Layer(
        name="gone", kind="Conv2d", shape=(3,), parameters=BeforeAfter(before=3, after=0), bytes_before=12, bytes_after=0
    )
    new = Layer(name="new", kind="Conv2d", shape=(3,), parameters=BeforeAfter(before=0, after=3), bytes_before=0, bytes_after=12)
    rows = texts(render(changed(full, layers=(gone, new))), ".//table[@class='layers']/tbody/tr")
    assert [row.replace("\u00a0", " ").partition("parameters")[2] for row in rows] == [
        "12 B → 0 Bbefore: 12 Bafter: 0 B",
        "0 B → 12 Bbefore: 0 Bafter: 12 B",
    ]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: install Debian's chromium to try the page in a browser")
@pytest.mark.parametrize("name", ["minimal", "full"])
def test_a_browser_opens_the_page_without_a_word_on_its_console(request, tmp_path, name):
    page = tmp_path / "report.html"
    page.write_text(render(request.getfixturevalue(name)), encoding="utf-8")
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        f"--user-data-dir={tmp_path}/p",
    ]
    picture = tmp_path / "page.png"
    done = subprocess.run(
        [*command, "--window-size=390,900", f"--screenshot={picture}", page.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
    )
    assert picture.stat().st_size > 5000
    assert "CONSOLE" not in done.stderr.decode(errors="replace")
