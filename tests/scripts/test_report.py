"""The report: what is in the page, that it is one small offline file, and that it works in a browser."""
import base64
import gzip
import json
import random
import re
import shutil
from html.parser import HTMLParser

import pytest

import claims
import report
import synthetic
from test_plot import CONTEXT, rows

VERDICT = "\nVerdict (bf16)\n  of rows & <figures>\n\nOn this machine DeepSeek-V3 decodes like a 40 B dense model.\n"


class Page(HTMLParser):
    """The tags of a page, and what would be fetched."""

    def __init__(self, path):
        super().__init__()
        self.text = path.read_text(encoding="utf-8")
        self.ids, self.tags, self.addresses, self.links, self.open = [], [], [], [], []
        self.feed(self.text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        attributes = dict(attributes)
        if "id" in attributes:
            self.ids.append(attributes["id"])
        for name in ("src", "href", "xlink:href", "srcset", "data", "action"):
            if name in attributes:
                self.addresses.append(attributes[name])

    def packed(self, number=0):
        found = re.search(rf'id="packed-{number}">([^<]*)<', self.text)
        return found and gzip.decompress(base64.b64decode(found[1]))


def made(path, some=None, **context):
    return synthetic.write(path, rows() if some is None else some,
                           **{**CONTEXT, "verdict": VERDICT, "argv": "bench_mla run --seed 7 --memory=2G", **context})


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return made(tmp_path_factory.mktemp("report") / "made.json", warnings="load average is 3; build type is Debug")


@pytest.fixture(scope="module")
def page(file):
    assert report.main([str(file)]) == 0
    return file.with_suffix(".html")


def test_it_is_one_small_offline_file(page):
    read = Page(page)
    assert page.stat().st_size < 1_500_000
    assert all(re.match("#|data:", address) for address in read.addresses), read.addresses
    assert not re.search(r"@import|url\((?!#)", read.text)
    assert len(read.ids) == len(set(read.ids))
    named = re.findall(r'(?:aria-labelledby|data-(?:table|count|command|packed))="([^"]*)"', read.text)
    assert named and set(" ".join(named).split()) <= set(read.ids)
    assert {address[1:] for address in read.addresses if address.startswith("#")} <= set(read.ids)


def test_what_is_in_it(page, file):
    read = Page(page)
    assert '<p class="headline">On this machine DeepSeek-V3 decodes like a 40 B dense model.</p>' in read.text
    assert "of rows &amp; &lt;figures&gt;" in read.text
    assert read.tags.count("svg") == 9
    assert all(f">{row}" in read.text for row in rows())
    assert "bench_mla run --row &#39;ROW&#39; --seed 7 --memory 2G" in read.text
    assert "<li>load average is 3</li>" in read.text
    assert read.packed() == file.read_bytes()
    for words in ("How to read this", "What it cannot say", "Ledger of claims", "Abacus 9000"):
        assert words in read.text
    result = report.results.load(file)
    assert all(f"<td>{entry['id']}</td>" in read.text for entry in claims.ledger(result, claims.accounts_of(result)))


def test_markdown_and_pictures(page):
    text = page.with_suffix(".md").read_text(encoding="utf-8")
    assert "> On this machine DeepSeek-V3" in text and "## Ledger of claims" in text
    pictures = re.findall(r'(?:src|srcset)="([^"]*)"', text)
    assert len(pictures) == 2 * 9 and all((page.parent / picture).exists() for picture in pictures)
    tables = [block.splitlines() for block in re.findall(r"(?:^\|.*\n)+", text, re.M)]
    assert len(tables) == 2
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    assert len(tables[1]) == 2 + len(rows())


def test_a_wrong_result_stands_at_the_top(tmp_path):
    some = {**rows(), synthetic.NAMES[0]: ([1e-3], {"error": "wrong result: <y> | z is off"})}
    file = made(tmp_path / "wrong.json", some)
    assert report.main([str(file)]) == 0
    text = file.with_suffix(".html").read_text(encoding="utf-8")
    assert "Wrong results: 1." in text
    assert "wrong result: &lt;y&gt; | z is off" in text
    text = file.with_suffix(".md").read_text(encoding="utf-8")
    assert r"ERROR: wrong result: \<y\> \| z is off" in text


def test_a_file_of_few_rows_and_facts_is_a_page_of_notes(tmp_path):
    file = synthetic.write(tmp_path / "few.json", {synthetic.NAMES[0]: [1e-3]})
    assert report.main([str(file)]) == 0
    read = Page(file.with_suffix(".html"))
    assert "holds no verdict" in read.text and "Not drawn" in read.text


def test_the_full_profile_fits(tmp_path):
    noise = random.Random(0)
    some = {f"linear/panels/bf16/avx2/DeepSeek-V3/tokens:{at}/in_features:7168/out_features:2048/threads:all":
            ([noise.random()], {counter: noise.random() for counter in ("gflops", "gbs", "roof", "peak_gbs", "err")})
            for at in range(2500)}
    file = made(tmp_path / "full.json", {**rows(), **some})
    assert report.main([str(file)]) == 0
    read = Page(file.with_suffix(".html"))
    assert len(read.text.encode()) < 1_500_000
    assert read.text.count("tokens:2499/") == 1 and read.packed() == file.read_bytes()


def test_what_does_not_fit_is_left_out_and_the_page_says_so(tmp_path, monkeypatch, page):
    file = made(tmp_path / "made.json")
    size = page.stat().st_size
    monkeypatch.setattr(report, "LIMIT", size - 2000)
    assert report.main([str(file)]) == 0
    read = Page(file.with_suffix(".html"))
    assert read.packed() is None and "made.json is too large to be in this page" in read.text
    assert all(f">{row}" in read.text for row in rows())
    monkeypatch.setattr(report, "LIMIT", len(read.text.encode()) - 2000)
    assert report.main([str(file)]) == 0
    assert "too many for a page of this size" in file.with_suffix(".html").read_text(encoding="utf-8")
    monkeypatch.setattr(report, "LIMIT", 1000)
    assert report.main([str(file)]) == 2


def test_several_files_are_compared(tmp_path):
    slower = {row: ([2 * seconds for seconds in value[0]], value[1]) for row, value in rows().items()}
    files = [made(tmp_path / "old.json"), made(tmp_path / "new.json", slower, cpu_model="Abacus 9001")]
    assert report.main([*map(str, files), "--out", str(tmp_path / "out" / "both.html")]) == 0
    read = Page(tmp_path / "out" / "both.html")
    assert len(read.ids) == len(set(read.ids))
    assert "new against old: not the same machine and setting" in read.text
    assert "Time of new over time of old" in read.text
    assert [read.packed(number) for number in (0, 1)] == [file.read_bytes() for file in files]
    assert "new against old" in (tmp_path / "out" / "both.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("content", [None, "", "{", '{"context": {}}'])
def test_what_is_no_result_is_one_sentence_and_status_2(content, tmp_path, capsys):
    file = tmp_path / "bad.json"
    if content is not None:
        file.write_text(content)
    assert report.main([str(file)]) == 2
    output = capsys.readouterr()
    assert output.out == "" and output.err.startswith("report.py: ") and output.err.count("\n") == 1
    assert not file.with_suffix(".html").exists()


def test_a_page_that_cannot_be_written_is_one_sentence_and_status_2(tmp_path, capsys):
    file = made(tmp_path / "made.json")
    kept = file.read_bytes()
    for out in (file / "in-a-file.html", file, tmp_path / "page.md", ""):
        assert report.main([str(file), "--out", str(out)]) == 2
        output = capsys.readouterr()
        assert re.fullmatch(r"report\.py: --out: [^\n]*expected [^\n]+\n", output.err), output.err
    assert file.read_bytes() == kept


@pytest.mark.parametrize("name", ["run.html", "run.md", "run-figures/figures.json"])
def test_a_result_is_never_written_over(tmp_path, capsys, name):
    files = [made(tmp_path / "run.json"), made(tmp_path / name)]
    kept = files[1].read_bytes()
    assert report.main([*map(str, files), "--out", str(tmp_path / "other" / ".." / "run.html")]) == 2
    assert re.fullmatch(r"report\.py: --out: [^\n]*expected [^\n]+\n", capsys.readouterr().err)
    assert files[1].read_bytes() == kept


def test_a_path_without_a_name_is_one_sentence_and_status_2(capsys):
    for path in ("", "."):
        assert report.main([path]) == 2
        assert re.fullmatch(r"report\.py: [^\n]*expected [^\n]+\n", capsys.readouterr().err)


# ---- In a browser

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
