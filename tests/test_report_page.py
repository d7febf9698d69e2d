"""The page and the dashboard's markdown: everything escaped, nothing loaded, no section without data."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest
from report_run import HOSTILE, empty_run, full_run, trained_run

from gswa.report.markdown import code, escaped, report_markdown
from gswa.report.page import write_report
from gswa.rundir import RunDir

SECTIONS = [
    "Summary", "Held-out loss before and after", "Loss", "Out of memory", "Throughput", "Memory", "Plan", "Data", "Conservation check",
    "Samples side by side", "Configuration", "Environment", "How to reproduce", "How to use the model",
]  # fmt: skip


class Page(HTMLParser):
    """Headings, all text, elements, and addresses of what is linked or loaded."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.headings: list[str] = []
        self.text = ""
        self.elements: set[str] = set()
        self.addresses: list[str] = []
        self.element = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.element = tag
        self.elements.add(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href")]
        assert not [name for name, _ in attrs if name.startswith("on")]

    def handle_data(self, data: str) -> None:
        self.text += data
        if self.element == "h2" and data.strip():
            self.headings.append(data)


def page_of(path: Path) -> Page:
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A run with everything, and its report written."""
    run = full_run(tmp_path_factory.mktemp("full"))
    write_report(run)
    return run


def test_how_rows_were_batched_and_how_much_of_it_was_padding_is_said(full: RunDir):
    text = page_of(full.report_file).text
    assert "length-grouped" in text and "4.0 % of all places" in text


def test_a_full_run_shows_every_section(full: RunDir):
    assert page_of(full.report_file).headings == SECTIONS


def test_sections_without_data_are_absent(tmp_path: Path):
    assert page_of(write_report(empty_run(tmp_path / "empty"))).headings == ["Summary", "Environment"]
    trained = page_of(write_report(trained_run(tmp_path / "trained"))).headings
    assert not set(trained) & {"Out of memory", "Plan", "Data", "Conservation check", "Samples side by side", "How to use the model"}


def test_text_from_outside_is_shown_as_text(full: RunDir):
    page = page_of(full.report_file)
    assert "script" not in page.elements
    assert page.text.count(HOSTILE) >= 6  # description, processor, set-aside reason, prompts and answers


def test_the_page_loads_nothing(full: RunDir):
    path = full.report_file
    assert all(address.startswith(("data:image/svg+xml;base64,", "#")) for address in page_of(path).addresses)
    html = path.read_text(encoding="utf-8")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in html
    assert "@import" not in html and "url(" not in html


def test_links_of_the_page_lead_somewhere(full: RunDir):
    html = full.report_file.read_text(encoding="utf-8")
    targets = set(re.findall(r'<section id="([^"]+)"', html))
    assert {link for link in re.findall(r'href="#([^"]+)"', html)} == targets


def test_the_page_shows_the_runs_own_numbers(full: RunDir):
    text = page_of(full.report_file).text
    for expected in (
        "5.7000", "4.5200", "-1.1800", "147,000 tokens", "3 min 20 s", "batch_size = 4, gradient_accumulation = 2",
        "profile cpu-8gb, then out of memory",
        "480,000 characters in = 477,400 in chunks + 600 of white space between them + 2,000 set aside.", "+14 % off the measured one",
        "predicted 4.4 GB, over 80 % of 3.8 GB", "0a1b2c3",
    ):  # fmt: skip
        assert expected in text


def test_commands_of_the_page_name_the_run(full: RunDir):
    text = page_of(full.report_file).text
    assert f"python -m gswa.train train --config runs/{full.id}/config/run_config.json" in text
    assert f"ollama create gswa-gilles -f runs/{full.id}/adapters/Modelfile" in text


def test_the_python_of_the_page_is_python(full: RunDir):
    text = page_of(full.report_file).text
    snippet = text[text.index("from peft import") : text.index("skip_special_tokens=True))") + len("skip_special_tokens=True))")]
    compile(snippet, "report.html", "exec")
    assert "base = \"models/base of 'mine'\"" in snippet


# -- the dashboard's markdown --------------------------------------------------------------------------------------------
def test_markdown_holds_metrics_plots_events_settings_curve_and_path(full: RunDir):
    text = report_markdown(full)
    assert len(text.encode()) < 1_000_000
    assert text.count("](data:image/png;base64,") == 4
    for expected in ("| Train loss |", "## Out of memory", "## Settings", "```\nLoss: ", f"`{full.report_file}`"):
        assert expected in text


def test_markdown_of_an_empty_run_has_no_empty_sections(tmp_path: Path):
    text = report_markdown(empty_run(tmp_path))
    assert "## Out of memory" not in text and "## Settings" not in text and "Report:" not in text


def test_markdown_reads_nothing_in_text_from_outside():
    shown = escaped(HOSTILE + "\n# heading | cell")
    assert "\n" not in shown and "<" not in shown
    assert not re.search(r"(?<!\\)[|`\[\]*#]", shown)
    assert code("a`b``c") == "``` a`b``c ```"


# -- a real browser ------------------------------------------------------------------------------------------------------
def chromium(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    assert program, "no Chromium on this machine: install the package chromium, or leave the marker 'browser' out"
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"]
    return subprocess.run([program, *options, *arguments], capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.browser
def test_a_browser_shows_the_page_without_a_complaint(full: RunDir, tmp_path: Path):
    shown = chromium("--dump-dom", full.report_file.as_uri(), folder=tmp_path)
    assert Page(shown.stdout).headings == SECTIONS
    assert ":CONSOLE" not in shown.stderr


@pytest.mark.browser
def test_the_browser_does_complain_of_what_the_policy_forbids(tmp_path: Path):
    path = write_report(empty_run(tmp_path))
    path.write_text(path.read_text(encoding="utf-8").replace("</body>", "<script>document.title = 'run'</script></body>"), encoding="utf-8")
    shown = chromium("--dump-dom", path.as_uri(), folder=tmp_path)
    assert ":CONSOLE" in shown.stderr and "<title>run</title>" not in shown.stdout


@pytest.mark.browser
@pytest.mark.parametrize("width", [800, 1200])
def test_a_browser_draws_the_curves_and_nothing_wider_than_the_window(full: RunDir, tmp_path: Path, width: int):
    from matplotlib.image import imread

    picture = f"--screenshot={tmp_path / 'page.png'}"
    chromium("--hide-scrollbars", f"--window-size={width},3000", picture, full.report_file.as_uri(), folder=tmp_path)
    pixels = (imread(tmp_path / "page.png")[..., :3] * 255).round()
    assert (pixels == (0x00, 0x72, 0xB2)).all(axis=-1).sum() > 500  # the train curve's blue
    assert (pixels[:, -20:] > 250).all(axis=-1).mean() > 0.99  # what is too wide would reach into the margin
