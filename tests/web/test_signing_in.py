"""Keys and sessions in a browser: entered once, for pages only, and over when its owner says so."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.helpers.browser import good_to_look_at
from tests.web.conftest import KEYS, Windows, sign_in

pytestmark = pytest.mark.slow


def test_a_wrong_key_is_told_and_the_right_one_leads_where_one_came_from(windows: Windows) -> None:
    """A visitor by a link enters a key, learns that it is none, enters another, and is where the link leads."""
    window = windows(key=None)
    page = window.page
    page.goto("/?from=a-link")
    expect(page).to_have_url("/sign-in?next=%2F%3Ffrom%3Da-link")
    good_to_look_at(page)
    window.expect(401)
    sign_in(page, "no-such-key")
    expect(page.get_by_role("alert")).to_contain_text("key is not known here")
    expect(page.get_by_label("Key")).to_be_focused()
    good_to_look_at(page)
    sign_in(page, KEYS[0])
    expect(page).to_have_url("/?from=a-link")


def test_who_signs_out_is_out_in_every_tab_and_others_are_not(windows: Windows) -> None:
    """Two people with keys of their own: one signs out, by the keyboard, and the other reads on."""
    leaving, staying = windows(), windows(key=KEYS[1])
    page, other_tab = leaving.page, leaving.tab()
    for tab in (page, other_tab, staying.page):
        tab.goto("/")
    button = page.get_by_role("button", name="Sign out")
    button.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Key")).to_be_visible()
    other_tab.reload()
    expect(other_tab).to_have_url("/sign-in?next=%2F")
    staying.page.reload()
    expect(staying.page).to_have_url("/")
