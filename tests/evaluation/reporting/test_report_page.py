"""The report in a headless Chromium: filters, order, deep links, keys and colours, on a laptop and on a phone."""

import re

import pytest

from qwen3vl_rl.evaluation.reporting.report import write_report
from qwen3vl_rl.evaluation.scoring.results import read_result
from tests.chromium import find_chromium, visit_page

pytestmark = [pytest.mark.skipif(find_chromium() is None, reason="needs chromium"), pytest.mark.slow]
LAPTOP, PHONE = (1366, 768), (390, 844)


@pytest.fixture
def visit(finished_runs, world, tmp_path):
    """`visit(size, scenario, address="")`: the report of three runs in a window of that size."""
    report = write_report(tmp_path / "report.html", list(map(read_result, finished_runs)), world / "images", {})

    def visit(size, scenario, address=""):
        visit_page(report.as_uri() + address, *size, scenario, tmp_path / "profile")

    return visit


async def choose(page, name, value):
    field = f"document.forms.filters.elements['{name}']"
    await page.run(f"{field}.value = '{value}'; {field}.dispatchEvent(new Event('input', {{bubbles: true}}))")
    return await page.run("document.getElementById('status').textContent")


async def keys(page):
    return await page.run("[...document.querySelectorAll('#cards .card')].map((card) => card.hash.slice(1))")


def test_filters_and_order(visit):
    async def scenario(page):
        assert await page.run("document.getElementById('status').textContent") == "24 of 24 samples"
        assert await choose(page, "outcome", "1-right") == "12 of 24 samples"
        assert await choose(page, "split", "refshapes_val") == "3 of 24 samples"
        assert {key.split("/")[0] for key in await keys(page)} == {"refshapes_val"}
        assert await choose(page, "outcome", "0-wrong 2-right") == "6 of 24 samples"
        assert await choose(page, "outcome", "differ") == "6 of 24 samples"
        await choose(page, "order", "1-up")
        ious = "found.map((sample) => sample.answers[1].iou)"
        assert await page.run(ious) == sorted(await page.run(ious))
        await choose(page, "order", "1-down")
        assert await page.run(ious) == sorted(await page.run(ious), reverse=True)
        sent = await page.run("found[0].sent")
        await choose(page, "text", sent.upper())
        assert await page.run("found.every((sample) => sample.sent.includes(found[0].sent))")
        assert await choose(page, "text", "no such words") == "0 of 24 samples"

    visit(LAPTOP, scenario)


def test_a_sample_has_an_address_and_shows_every_model(visit):
    async def scenario(page):
        assert await page.run("document.getElementById('sample').open")
        assert "refshapes_testA/000003" in await page.run("document.getElementById('sample-key').textContent")
        assert await page.run("[...document.querySelectorAll('#sample-models h3')].map((h) => h.textContent)") == [
            *("base", "sft", "rl")
        ]
        reasoning = await page.run("document.querySelector('#sample-models .reasoning').textContent")
        assert reasoning.startswith("<i>") and "& nothing else" in reasoning  # shown as text
        await page.press("ArrowRight")
        assert await page.run("location.hash") == "#refshapes_testA/000004"
        await page.press("ArrowLeft")
        await page.press("ArrowLeft")
        assert await page.run("location.hash") == "#refshapes_testA/000002"
        await page.press("Escape")
        assert await page.run("[document.getElementById('sample').open, location.hash]") == [False, ""]

    visit(LAPTOP, scenario, "#refshapes_testA/000003")


def test_boxes_are_drawn_where_the_predictions_are(visit):
    async def scenario(page):
        drawn = "[...document.querySelectorAll('#sample-models div:last-child > svg rect.prediction')].map((r) => "
        drawn += "['x', 'y', 'width', 'height'].map((name) => Number(r.getAttribute(name))))"
        x1, y1, x2, y2 = await page.run("samples[place.get('refshapes_val/000001')].answers[2].box")
        assert await page.run(drawn) == [[x1, y1, x2 - x1, y2 - y1]]
        assert await page.run("document.querySelectorAll('#sample-models svg rect.truth').length") == 3

    visit(LAPTOP, scenario, "#refshapes_val/000001")


def test_the_keyboard_alone_opens_a_sample(visit):
    async def scenario(page):
        await page.press("/")
        assert await page.run("document.activeElement.name") == "text"
        for _ in range(4):  # three checkboxes, then the first card
            await page.press("Tab")
        assert await page.run("document.activeElement.className") == "card"
        await page.press("Enter")
        assert await page.run("document.getElementById('sample').open")

    visit(LAPTOP, scenario)


def test_the_arrow_keys_step_through_the_pictures_on_which_models_differ(visit):
    async def scenario(page):
        addresses = "[...document.querySelectorAll('#differing-cards .card')].map((card) => card.hash)"
        first = await page.run(addresses)
        assert len(first) == 8 and len({address.split("/")[0] for address in first}) == 4  # of every split
        await page.run("document.getElementById('more-differing').focus()")
        await page.press("Enter")
        every = await page.run(addresses)
        assert len(every) == 16 and every[:8] == first
        assert await page.run("document.activeElement.hash") == every[8]  # the focus moves on
        await page.press("Enter")
        assert await page.run("[document.getElementById('sample').open, location.hash]") == [True, every[8]]
        await page.press("ArrowRight")
        assert await page.run("location.hash") == every[9]

    visit(LAPTOP, scenario)


def test_the_tab_key_goes_from_the_result_to_the_pictures_to_the_tables_to_the_filters(visit):
    async def scenario(page):
        part = "document.activeElement.closest('nav, #differing-cards, #more-differing, #tables, #filters')"
        parts = []
        for _ in range(3 + 8 + 1 + 5 + 1):
            await page.press("Tab")
            assert await page.run("document.activeElement.matches(':focus-visible')")
            parts.append(await page.run(f"{part}.id || 'nav'"))
        assert parts == ["nav"] * 3 + ["differing-cards"] * 8 + ["more-differing"] + ["tables"] * 5 + ["filters"]

    visit(LAPTOP, scenario)


@pytest.mark.parametrize("address", ["", "#refshapes_amodal_val/000001"])
def test_a_phone_never_scrolls_sideways(visit, address):
    async def scenario(page):
        assert await page.run("document.documentElement.scrollWidth") == PHONE[0]
        assert await page.run("document.getElementById('sample').scrollWidth") <= PHONE[0]
        wide = "[...document.querySelectorAll('table')].map((table) => table.closest('.wide'))"
        assert await page.run(
            f"{wide}.every((one) => getComputedStyle(one).overflowX === 'auto' && one.tabIndex === 0)"
        )
        assert await page.run(f"{wide}.some((one) => one.scrollWidth > one.clientWidth)")
        right = "[...document.querySelectorAll('.wide, figure svg')].map((one) => one.getBoundingClientRect().right)"
        assert max(await page.run(right)) <= PHONE[0]
        letters = "[...document.querySelectorAll('.chart text')].map((one) => one.getBoundingClientRect().height)"
        assert min(await page.run(letters)) > 10

    visit(PHONE, scenario, address)


def test_texts_of_charts_stay_in_their_charts(visit):
    async def scenario(page):
        outside = """[...document.querySelectorAll('.chart')].flatMap((chart) => {
            const frame = chart.getBoundingClientRect();
            return [...chart.querySelectorAll('text')].filter((text) => {
                const box = text.getBoundingClientRect();
                return box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 3;
            }).map((text) => text.textContent);
        })"""
        assert await page.run(outside) == []

    visit(LAPTOP, scenario)


def test_charts_follow_the_dark_colours(visit):
    async def scenario(page):
        colours = """[getComputedStyle(document.body).backgroundColor,
            getComputedStyle(document.querySelector('.chart text')).fill,
            getComputedStyle(document.querySelector('.chart .interval')).stroke]"""
        brightness = []
        for scheme in ("light", "dark"):
            await page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
            brightness.append([sum(map(int, re.findall(r"\d+", colour))) for colour in await page.run(colours)])
        (paper, *ink), (dark_paper, *dark_ink) = brightness
        assert min(paper - one for one in ink) > 400 and min(one - dark_paper for one in dark_ink) > 400

    visit(LAPTOP, scenario)
