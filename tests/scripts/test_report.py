"""The report: what is in the page, and that it is one small offline file."""
import base64
import gzip
import random
import re
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


def test_the_command_of_a_row_has_the_files_that_it_needs(tmp_path):
    argv = "bench_mla run --profile=smoke --model '/some where/my config.json' --trace a.txt --out b.json"
    result = report.results.load(made(tmp_path / "made.json", argv=argv))
    assert report.command_options(result) == "--profile smoke --model '/some where/my config.json' --trace a.txt"


def test_a_command_line_that_was_not_quoted_is_read_by_its_spaces(tmp_path):
    result = report.results.load(made(tmp_path / "made.json", argv="bench_mla run --filter it's --seed 7"))
    assert report.command_options(result) == "--seed 7"


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
