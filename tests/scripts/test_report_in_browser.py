"""The report works in a browser: Chromium, where it is installed."""
import json
import re
import shutil

import pytest

from test_plot import rows
from test_report import file, page  # fixtures


@pytest.fixture(scope="module")
def browser(page):
    """Chromium on the page of a real run; what it logged and requested is asserted by a test."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    driver_path = shutil.which("chromedriver")
    if not chromium or not driver_path:
        pytest.skip("chromium and chromedriver are not installed: THE PAGE WAS NOT TRIED IN A BROWSER")
    from selenium import webdriver
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=1200,900"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"download.default_directory": str(page.parent / "saved")})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver_path))
    driver.get(page.as_uri())
    yield driver
    driver.quit()


def wait(browser, condition):
    from selenium.webdriver.support.ui import WebDriverWait
    return WebDriverWait(browser, 20).until(lambda _: condition())


def cells(browser, column):
    return browser.execute_script("return [...document.querySelectorAll('#rows-0 tbody tr')].filter(row => !row.hidden)"
                                  f".map(row => row.cells[{column}].textContent)")


def seconds(text):
    value, unit = text.split()
    return float(value) * {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1}[unit]


def heading(browser, number):
    return browser.find_element("css selector", f"#rows-0 th:nth-child({number})")


def press(browser, *keys):
    from selenium.webdriver.common.action_chains import ActionChains
    ActionChains(browser).send_keys(*keys).perform()


def test_a_table_is_sorted(browser):
    time = heading(browser, 2)
    for order in ("ascending", "descending"):
        time.find_element("tag name", "button").click()
        assert time.get_attribute("aria-sort") == order
        shown = [seconds(text) for text in cells(browser, 1)]
        assert len(shown) == len(rows()) and shown == sorted(shown, reverse=order == "descending")
    heading(browser, 1).find_element("tag name", "button").click()
    assert time.get_attribute("aria-sort") is None
    contexts = re.findall(r"mla_decode/absorbed/\S*ctx:(\d+)/threads:all", "\n".join(cells(browser, 0)))
    assert contexts == ["1024", "4096", "16384"]  # by number, not by letter


def test_rows_are_filtered(browser):
    box = browser.find_element("css selector", "input[type=search]")
    box.send_keys("ABSORBED ctx:4096")
    shown = cells(browser, 0)
    assert len(shown) == 3 and all("absorbed" in text and "ctx:4096" in text for text in shown)
    assert browser.find_element("id", "count-0").text == f"3 of {len(rows())} rows"
    box.clear()
    box.send_keys(" ")
    assert len(cells(browser, 0)) == len(rows())


def test_the_page_is_used_by_keyboard(browser):
    from selenium.webdriver.common.keys import Keys
    box = browser.find_element("css selector", "input[type=search]")
    browser.execute_script("arguments[0].focus()", box)
    press(browser, Keys.TAB)  # the table, which scrolls
    assert browser.switch_to.active_element.get_attribute("role") == "region"
    press(browser, Keys.TAB, Keys.TAB)
    time = heading(browser, 2)
    assert browser.switch_to.active_element == time.find_element("tag name", "button")
    press(browser, Keys.ENTER)
    assert time.get_attribute("aria-sort") == "ascending"
    for _ in range(9):
        press(browser, Keys.TAB)
    row = browser.switch_to.active_element
    assert row.text == cells(browser, 0)[0]
    press(browser, Keys.SPACE)
    assert browser.find_element("id", "command-0").text == f"bench_mla run --row '{row.text}' --seed 7 --memory 2G"


def test_the_embedded_file_is_shown_and_saved(browser, file):
    shown = browser.find_element("css selector", "details[data-packed]")
    shown.find_element("tag name", "summary").click()
    text = wait(browser, lambda: shown.find_element("tag name", "pre").get_property("textContent"))
    assert json.loads(text) == json.loads(file.read_text())
    browser.find_element("css selector", "button[data-packed]").click()
    saved = file.parent / "saved" / file.name
    wait(browser, saved.exists)
    wait(browser, lambda: saved.read_bytes() == file.read_bytes())


def test_light_dark_and_print(browser):
    def colors(selector):
        return browser.execute_script("const style = getComputedStyle(document.querySelector(arguments[0]));"
                                      "return [style.color, style.backgroundColor, style.fill]", selector)

    def emulate(scheme, media=""):
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia",
                                {"media": media, "features": [{"name": "prefers-color-scheme", "value": scheme}]})

    emulate("light")
    light, light_ground = colors("body"), colors("figure svg path")
    emulate("dark")
    dark, dark_ground = colors("body"), colors("figure svg path")
    assert light[1] == "rgb(255, 255, 255)" and dark[1] == "rgb(13, 17, 23)"
    assert light_ground[2] == light[1] and dark_ground[2] == dark[1]  # the pictures lie on the page's paper
    emulate("dark", "print")
    assert colors("body")[1] == "rgb(255, 255, 255)"
    assert not browser.find_element("css selector", "nav").is_displayed()
    wide = browser.execute_script("return [...document.querySelectorAll('.wide')].every("
                                  "box => getComputedStyle(box).overflowX === 'visible')")
    assert wide
    emulate("light")


def test_a_narrow_screen_scrolls_tables_and_not_the_page(browser):
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                            {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False})
    width = browser.execute_script("return document.documentElement.scrollWidth")
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    assert width <= 390


def test_nothing_was_logged_or_requested_from_a_network(browser):
    assert [entry for entry in browser.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")] == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [event["params"]["request"]["url"] for event in events
                 if event["method"] == "Network.requestWillBeSent"]
    assert addresses and all(re.match("file:|data:|blob:", address) for address in addresses), addresses
