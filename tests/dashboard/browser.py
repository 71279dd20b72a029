"""Chromium, driven as a person drives it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from selenium.common.exceptions import WebDriverException
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

T = TypeVar("T")

#: How long anything may take that a page is to show.
PATIENCE_SECONDS = 60.0

#: Names by which a field of a form stands here.
TAB = Keys.TAB


class Browser:
    """One window.

    Attributes:
        site: The address that paths begin at.
    """

    def __init__(self, chrome: Chrome) -> None:
        self.chrome = chrome
        self.site = ""

    @classmethod
    @contextmanager
    def started(cls, program: str, driver: str) -> Iterator[Browser]:
        """A browser of its own, with nothing kept from before."""
        options = ChromeOptions()
        options.binary_location = program
        for argument in (
            "--headless=new",
            "--no-sandbox",  # containers run as root
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ):
            options.add_argument(argument)
        chrome = Chrome(options=options, service=Service(driver))
        try:
            yield cls(chrome)
        finally:
            chrome.quit()

    def begin(self) -> None:
        """As a new visitor, at a desk."""
        self.chrome.set_window_size(1200, 900)
        self.chrome.get(f"{self.site}/static/icon.svg")
        self.chrome.delete_all_cookies()

    def end(self) -> None:
        """Leave, and see what the pages had to complain of."""
        problems = [entry["message"] for entry in self.chrome.get_log("browser")]  # type: ignore[no-untyped-call]
        self.chrome.get("about:blank")
        # An answer that says that something is not there is no error of the page.
        assert not [text for text in problems if "Failed to load resource" not in text], problems

    def open(self, path: str = "/") -> None:
        """Go to a page."""
        self.chrome.get(self.site + path)

    @property
    def path(self) -> str:
        """Where it is."""
        return self.chrome.current_url.removeprefix(self.site)

    @property
    def text(self) -> str:
        """What can be read."""
        return self.one("main").text

    def one(self, selector: str) -> WebElement:
        """The first element of a selector."""
        return self.chrome.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        """All elements of a selector."""
        return self.chrome.find_elements(By.CSS_SELECTOR, selector)

    def row(self, text: str) -> WebElement:
        """The row of a table that has this text, once it is there."""
        return self.until(lambda: [row for row in self.all("tbody tr") if text in row.text])[0]

    def press(self, label: str, within: WebElement | None = None) -> None:
        """Press a button or follow a link that begins with these words, once it is there."""

        def pressed() -> bool:
            found = (within or self.one("body")).find_elements(By.CSS_SELECTOR, "button, a")
            matching = [each for each in found if each.text.startswith(label)]
            for each in matching[:1]:
                each.click()
            return bool(matching)

        self.until(pressed)

    def fill(self, name: str, text: str) -> None:
        """Write into a field of a form."""
        field = self.one(f"main input[name={name}]")
        field.clear()
        field.send_keys(text)

    def run(self, script: str, *arguments: object) -> object:
        """Run a script in the page, as its own tools do."""
        return self.chrome.execute_script(script, *arguments)

    def until(self, look: Callable[[], T]) -> T:
        """Look until there is something to see."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                if found := look():
                    return found
            except WebDriverException:  # the page has just changed
                if time.monotonic() > deadline:
                    raise
            assert time.monotonic() < deadline, self.text
            time.sleep(0.05)

    def until_text(self, text: str) -> None:
        """Wait until the page says so."""
        self.until(lambda: text in self.text)
