"""The tables of the report: as data, and in the browser with more rows than a screen holds."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from open_page import opened
from packed_page import data_of, unpacked_numbers, unpacked_rows, unpacked_values
from playwright.sync_api import Browser, Page, expect
from run_samples import add_architectures, add_trial, begin_run

from search import columns
from search.reporting.build import build_report
from search.reporting.packing import packed_numbers, packed_rows, packed_values
from search.reporting.record import read_record
from search.reporting.tables import front_table, trials_table
from search.run_folder import RunFolder

MEMBERS, STOPPED = 210, 21
TOTAL = MEMBERS + STOPPED
INSIDE = """(row) => {
  const box = row.closest(".scroll");
  const below = row.offsetTop + row.offsetHeight - box.scrollTop - box.clientHeight;
  return row.offsetTop >= box.scrollTop && below <= 1;
}"""


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [{"id": "a", "value": None}],
        [{"id": str(index), "same": [1, 2], "state": ("yes", "no")[index % 2]} for index in range(8)],
        [{"flag": value} for value in (True, 1, False, 0, None, "1", 1.0) * 3],
        [{"inner": {"lr": index, "none": None}, "empty": {}} for index in range(5)],
    ],
)
def test_packed_rows_are_the_same_rows(rows: list[dict[str, Any]]) -> None:
    unpacked = unpacked_rows(json.loads(json.dumps(packed_rows(rows))))
    assert repr(unpacked) == repr(rows)


def test_what_repeats_is_written_once() -> None:
    assert packed_values(["same"] * 3 + [None]) == {"values": ["same", None], "places": [0, 0, 0, 1]}
    assert packed_values([0.1, 0.2, 0.1]) == [0.1, 0.2, 0.1]


def test_packed_numbers_keep_sixteen_bits() -> None:
    values = np.array([0.0, -0.654321, 1e-7, 123456.7, 65535, math.nan, 0.999999, 3e38])
    text = packed_numbers(values)
    assert len(text) == 4 * len(values)
    assert unpacked_numbers(text) == pytest.approx(values, rel=2**-16, nan_ok=True)
    assert unpacked_numbers(text)[4] == 65535
    assert packed_numbers(np.empty(0)) == ""


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The later a trial the better and slower, so that all completed ones are on the front; every 11th was stopped."""
    sample = begin_run(tmp_path_factory.mktemp("runs") / "large")
    add_architectures(sample)
    for index in range(TOTAL):
        costs: dict[str, Any] = {columns.MIOU: 0.3 + 0.001 * index, columns.LATENCY_MS: 5 + 0.01 * index}
        state = columns.STOPPED if index % 11 == 5 else columns.COMPLETED
        reason = "not among the best, <b>early</b>" if state == columns.STOPPED else None
        add_trial(sample, index, state, index % 2, epochs=1, reason=reason, size_mb=2.0, **costs)
    build_report(sample.run)
    return sample.run


@pytest.fixture
def page(browser: Browser, large: RunFolder) -> Iterator[Page]:
    page, trouble = opened(browser, large)
    yield page
    page.context.close()
    assert trouble == []


def shown(page: Page, table: str = "trials-table") -> list[str]:
    """Trials on the screen."""
    found: list[str] = page.locator(f"#{table} tbody tr").evaluate_all("(rows) => rows.map((row) => row.dataset.trial)")
    return found


def ids(*indices: int) -> list[str]:
    return [f"t{index:04d}" for index in indices]


def test_tables_are_data_with_texts_only_where_they_differ(large: RunFolder) -> None:
    record = read_record(large)
    assert len(record.front_rows) == MEMBERS
    tables = data_of((large.report / "index.html").read_text())["tables"]
    for name, table in {"front-table": front_table(record), "trials-table": trials_table(record)}.items():
        assert tables[name]["count"] == len(table.rows)
        for index, column in enumerate(tables[name]["columns"]):
            cells = [row.cells[index] for row in table.rows]
            values = unpacked_values(column["values"])
            assert values == [cell.value for cell in cells]
            expected = [str("–" if value is None else value) for value in values]
            assert [cell.text for cell in cells] == (
                unpacked_values(column["texts"]) if "texts" in column else expected
            )
    by_key = {column["key"]: column for column in tables["trials-table"]["columns"]}
    assert "texts" not in by_key[columns.EPOCH]
    assert unpacked_values(by_key[columns.MIOU]["texts"])[0] == "0.300"


@pytest.mark.browser
def test_a_table_has_pages(page: Page) -> None:
    pager = page.locator("#trials-table-pager")
    status = pager.locator("[role=status]")
    expect(status).to_have_text(f"1 to 100 of {TOTAL}")
    assert shown(page) == ids(*range(100))
    expect(pager.get_by_text("previous")).to_be_disabled()
    pager.get_by_text("next").click()
    assert shown(page) == ids(*range(100, 200))
    pager.get_by_text("last").click()
    expect(status).to_have_text(f"201 to {TOTAL} of {TOTAL}")
    assert shown(page) == ids(*range(200, TOTAL))
    expect(pager.get_by_text("next")).to_be_disabled()
    pager.get_by_text("first").click()
    assert shown(page) == ids(*range(100))


@pytest.mark.browser
def test_sorting_and_finding_are_of_all_rows(page: Page) -> None:
    header = page.locator("#trials-table thead th[data-key=miou] button")
    header.click()
    header.click()
    assert shown(page) == ids(*range(TOTAL - 1, TOTAL - 101, -1))
    for state in ("completed", "stopped"):
        page.locator(f"#filters input[value={state}]").click()
        expected = {"completed": STOPPED, "stopped": 0}[state]
        expect(page.locator("#shown-trials")).to_have_text(f"{expected} of {TOTAL} shown")
        expect(page.locator("#trials-table tbody tr")).to_have_count(expected)
        expect(page.locator("#trials-table-pager")).to_be_hidden()
    page.locator("#filters input[value=stopped]").click()
    page.locator("#find").fill("<b>early SMALL")
    assert shown(page) == [trial for trial in ids(*range(TOTAL - 1, -1, -1)) if int(trial[1:]) % 22 == 16]


@pytest.mark.browser
def test_a_selected_trial_brings_its_page(page: Page) -> None:
    best = page.locator("#answer button.trial").first
    best.click()
    for table in ("front-table", "trials-table"):
        row = page.locator(f"#{table} tr.selected")
        expect(row).to_have_attribute("data-trial", ids(TOTAL - 1)[0])
        expect(row).to_be_visible()
        assert row.evaluate(INSIDE)
    page.locator("#trials-table-pager").get_by_text("first").click()
    page.locator("#axis").select_option("params")
    expect(page.locator("#trials-table tr.selected")).to_have_count(0)
    assert shown(page) == ids(*range(100))
    page.locator("#trials-table-pager").get_by_text("last").click()
    expect(page.locator("#trials-table tr.selected")).to_have_count(1)
    page.locator("#trials-table tr.selected button.trial").click()
    expect(page.locator("tr.selected")).to_have_count(0)
    assert shown(page) == ids(*range(200, TOTAL))


@pytest.mark.browser
def test_a_selected_trial_that_the_filter_hides_turns_no_page(page: Page) -> None:
    page.locator("#find").fill("unet")
    page.locator("#filters input[value=completed]").uncheck()
    page.locator("#answer button.trial").first.click()
    expect(page.locator("#selected")).to_be_visible()
    expect(page.locator("#trials-table tr.selected")).to_have_count(0)


@pytest.mark.browser
def test_a_large_front_is_copied_whole(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    expect(page.locator("#front-table-pager [role=status]")).to_have_text(f"1 to 100 of {MEMBERS}")
    page.locator("#copy-front").click()
    expect(page.locator("#copied")).to_have_text("Copied.")
    copied = list(csv.DictReader(io.StringIO(page.evaluate("navigator.clipboard.readText()"))))
    assert [row[columns.TRIAL_ID] for row in copied] == [
        trial for trial in ids(*range(TOTAL)) if int(trial[1:]) % 11 != 5
    ]
    assert float(copied[0][columns.LATENCY_MS]) == 5.0


@pytest.mark.browser
def test_paper_has_the_first_rows_and_says_so(page: Page) -> None:
    cut = page.locator("#trials-table-cut")
    expect(cut).to_be_hidden()
    page.locator("#trials-table-pager").get_by_text("last").click()
    page.emulate_media(media="print")
    expect(cut).to_have_text(f"The first 200 of {TOTAL} rows. All are in results/trials.")
    expect(cut).to_be_visible()
    assert shown(page) == ids(*range(200))
    expect(page.locator("#architectures-table-cut")).to_be_hidden()
    page.emulate_media(media="screen")
    expect(cut).to_be_hidden()
    assert shown(page) == ids(*range(200, TOTAL))


@pytest.mark.browser
def test_the_front_is_readable_without_scripts(browser: Browser, large: RunFolder) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto((large.report / "index.html").as_uri())
    expect(page.locator("#front-table tbody tr")).to_have_count(MEMBERS)
    first = page.locator("#front-table tbody tr").first
    expect(first).to_be_visible()
    expect(first.locator("th, td").nth(0)).to_have_text("t0000")
    expect(first).to_contain_text("0.300")
    expect(page.locator("#answer")).to_contain_text(ids(TOTAL - 1)[0])
    expect(page.locator("#trials noscript p")).to_contain_text("Its numbers are in results/trials.")
    context.close()
