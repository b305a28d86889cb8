"""A report opened in the browser, as its reader does: from disk and without a network."""

from __future__ import annotations

from playwright.sync_api import Browser, Page, expect

from search.run_folder import RunFolder


def opened(browser: Browser, run: RunFolder, width: int = 1280, drawn: str = "#pareto-chart") -> tuple[Page, list[str]]:
    """The page once ``drawn`` is, and the list that its complaints and requests go to."""
    context = browser.new_context(viewport={"width": width, "height": 900})
    context.set_offline(True)
    trouble: list[str] = []
    page = context.new_page()
    page.on("console", lambda message: trouble.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: trouble.append(str(error)))
    page.on("dialog", lambda dialog: trouble.append(dialog.message))
    page.on("request", lambda request: trouble.append(request.url) if not _allowed(request.url) else None)
    page.goto((run.report / "index.html").as_uri())
    expect(page.locator(f"{drawn} .main-svg").first).to_be_visible()
    return page, trouble


def _allowed(url: str) -> bool:
    return url.startswith(("data:", "blob:")) or url.endswith("/report/index.html")
