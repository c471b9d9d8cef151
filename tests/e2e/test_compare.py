"""An adapter against the base, from its page to two answers that stream at once and end apart."""

from __future__ import annotations

import re

from playwright.sync_api import Page, expect

WATCH = """
window.seen = [];
new MutationObserver(() => {
  const now = [...document.querySelectorAll('.column .answer')].map(
    (answer) => [answer.dataset.state, answer.querySelector('.answer-text').textContent.length]);
  if (JSON.stringify(now) !== JSON.stringify(window.seen.at(-1))) window.seen.push(now);
}).observe(document, {subtree: true, childList: true, characterData: true, attributes: true});
"""
ENDED = {"done", "length", "stopped", "failed"}


def test_both_columns_stream_at_once_and_end_apart(page: Page) -> None:
    page.add_init_script(WATCH)
    page.goto("/adapters/viggo/")
    page.get_by_role("link", name="Compare with the base").first.click()
    page.locator("#composer .chip").first.click()
    page.get_by_role("button", name="Run").click()
    answers = page.locator(".column .answer")
    expect(answers).to_have_count(2)
    for number in range(2):
        expect(answers.nth(number).locator(".stats")).to_be_visible()
    seen = page.evaluate("window.seen")
    both = [now for now in seen if len(now) == 2 and all(length > 0 and state not in ENDED for state, length in now)]
    apart = [now for now in seen if len(now) == 2 and len({state in ENDED for state, _ in now}) == 2]
    assert len(both) >= 3, "the columns did not stream at once"
    assert apart, "the columns did not end apart"
    expect(page.locator("#expected")).to_be_visible()


def test_the_address_restores_the_comparison(page: Page) -> None:
    page.goto("/compare/?columns=viggo,base")
    page.locator("#composer .chip").first.click()
    page.get_by_role("button", name="Run").click()
    answers = page.locator(".column .answer")
    for number in range(2):
        expect(answers.nth(number).locator(".stats")).to_be_visible()
    page.wait_for_url("**/compare/*-*-*/")
    texts = answers.locator(".answer-text").all_inner_texts()
    page.reload()
    assert page.locator(".column .answer .answer-text").all_inner_texts() == texts


def test_another_is_chosen_for_a_column_by_the_keyboard_alone_and_what_is_written_stays(page: Page) -> None:
    page.goto("/compare/?columns=viggo,base")
    page.locator("[data-field]").first.fill("inform(name[Portal 2])")
    page.locator(".column-choice").nth(1).focus()
    page.keyboard.press("Enter")
    expect(page.locator("#picker-query")).to_be_focused()
    page.keyboard.type("dbpedia")
    expect(page.locator("#picker-list .pick")).to_have_count(1)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"columns=viggo,dbpedia$"))
    expect(page.locator("[data-field]").first).to_have_value("inform(name[Portal 2])")


def test_an_answer_is_judged_by_the_metric_and_its_differing_words_are_marked(page: Page) -> None:
    page.goto("/compare/?columns=viggo,base")
    page.locator("#composer .chip").first.click()
    page.get_by_role("button", name="Run").click()
    judgements = page.locator(".column .answer-match")
    expect(judgements).to_have_count(2)
    for words in judgements.all_inner_texts():
        assert re.fullmatch(r"\d+ of 100 by ROUGE-L", words)
    page.locator(".answer-diff summary").last.click()
    differing = page.locator(".answer-diff").last
    for mark, line in (("ins", "underline"), ("del", "line-through")):  # not by colour alone
        word = differing.locator(mark).first
        expect(word).to_be_visible()
        assert line in word.evaluate("element => getComputedStyle(element).textDecorationLine")
    told = judgements.all_inner_texts()
    page.wait_for_url("**/compare/*-*-*/")
    page.reload()
    assert judgements.all_inner_texts() == told
