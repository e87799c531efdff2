"""The report of a real run on a tiny model: what it says, that texts stay texts, and how it looks in a real browser."""

import json
import re
import shutil
from html.parser import HTMLParser

import pandas as pd
import pytest
from rich.console import Console
from sentence_transformers import SentenceTransformer

import chromium
from problems import ROOT, attacking_pairs
from st_adapter import cli
from st_adapter.data.dataset import RetrievalDataset
from st_adapter.embeddings.checked_embedding import embed
from st_adapter.evidence.curve import learning_curve
from st_adapter.evidence.report import write_report
from st_adapter.evidence.results import CurveResults, Results, described
from st_adapter.evidence.tables import print_candidates
from st_adapter.running.run import train
from st_adapter.running.settings import RunOptions

ATTACK = "<script>alert(1)</script><img src=x onerror=alert(2)></style>{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def finished(tiny_model_path, tmp_path_factory):
    """Folder of a run with a learning curve, on texts that try to be markup; its report is made."""
    rows = attacking_pairs(ATTACK, before="\x07")
    folder = tmp_path_factory.mktemp("run")
    pd.DataFrame(rows).to_csv(folder / "pairs.csv", index=False)
    dataset = RetrievalDataset.load(str(folder / "pairs.csv"))
    model = SentenceTransformer(str(tiny_model_path), device="cpu")
    options = {"cache_dir": folder / "cache", "show_progress_bar": False}
    fitting = {"method": "closed-form", "alpha": 0.99, "options": RunOptions(base_model=tiny_model_path)}
    result = train(model, dataset, output_dir=folder / "out", **fitting, **options)
    embedded = embed(model, dataset, **options)
    num_queries = result.results.data.train.num_queries
    curve = learning_curve(embedded, method="closed-form", sizes=[15, 30, num_queries], num_draws=2)
    CurveResults(base_model=described(embedded.base_model), data=dataset.name, curve=curve).write(
        folder / "out" / "learning_curve.json"
    )
    write_report(folder / "out")
    return folder / "out"


class Page(HTMLParser):
    """Tags with their attributes, and the text of a page."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.words = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def page(finished):
    return Page((finished / "report.html").read_text(encoding="utf-8"))


def test_the_page_says_what_the_results_hold(finished, page):
    results = json.loads((finished / "results.json").read_text())
    assert results["adopted"], "the pairs are made so that an adapter helps"
    compared = results["test"]["comparisons"]["all"]["ndcg@10"]
    assert f"+{compared['difference']:.3f} nDCG@10 on".replace("+0", "+") in page.text
    assert (
        f"better on {compared['wins']} of {compared['num_queries']} queries, worse on {compared['losses']}" in page.text
    )
    assert results["verdict"]["sentence"] in page.text and results["selection"]["chosen"] in page.text
    for name in ("nDCG@1", "nDCG@100", "MRR@10", "recall@5", "MAP@100", "precision@3"):
        assert f" {name} " in page.text
    for value in (results["versions"]["torch"], "--seed 0", "--method closed-form", "--alpha 0.99"):
        assert value in page.text
    for example in results["test"]["examples"]["gains"]:
        assert f"rank {example['base_rank']:,} → {example['adapted_rank']:,}" in page.text
    assert json.loads((finished / "learning_curve.json").read_text())["sentence"] in page.text
    assert (finished / "report.png").read_bytes().startswith(b"\x89PNG")


def test_so_few_queries_are_shown_without_intervals(finished, page, tmp_path):
    """Of 16 test queries there is none, in words, tables and figures; of twenty there are."""
    assert json.loads((finished / "results.json").read_text())["test"]["num_queries"] == 16
    # The gate has one, and the learning curve; what the adapter changes has dots alone.
    evaluated = page.text[page.text.index("Base model against adapted model") : page.text.index("All cut-offs")]
    assert "nDCG@10" in evaluated and " – – " in evaluated and not re.search(r"[+−.]\d{3} to ", evaluated)
    assert "are too few to check that" in page.text and "interval of the difference" not in page.text
    card = (finished / "model" / "README.md").read_text()
    assert (
        re.search(r"\| ndcg@10 \| .* \| – \|", card)
        and "95 % interval ." not in card[card.index("Does it help") :][:900]
    )

    def of_twenty(results):
        for part in results["test"]["comparisons"].values():
            for row in part.values():
                row["num_queries"] = 20

    shown = remade(finished, tmp_path, of_twenty)
    assert "interval of the difference" in shown.text and " – – " not in shown.text


def test_texts_of_the_data_never_become_markup(page):
    assert ATTACK in page.text, "shown as it is"
    assert {"script", "iframe", "object", "link"}.isdisjoint(tag for tag, _ in page.tags)
    assert all("onerror" not in attrs for _, attrs in page.tags)
    assert not [attrs for tag, attrs in page.tags if tag == "img"]
    assert "\x07" not in page.text


def test_the_page_needs_nothing_from_elsewhere(finished, page):
    for _, attrs in page.tags:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert attrs.get(name, "#").startswith("#")
    policy = [attrs for _, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policy[0]["content"].startswith("default-src 'none'")
    assert "@import" not in (finished / "report.html").read_text() and "url(http" not in page.text


def test_where_things_lie_on_this_machine_is_not_told(finished, page, tiny_model_path):
    text = (finished / "report.html").read_text()
    assert str(tiny_model_path) not in text and str(finished) not in text
    assert tiny_model_path.name in page.text


def test_the_same_results_make_the_same_page(finished, tmp_path):
    before = (finished / "report.html").read_bytes()
    shutil.copytree(finished, tmp_path / "copy")
    assert cli.main(["report", "--output-dir", str(tmp_path / "copy")]) == 0
    assert (tmp_path / "copy" / "report.html").read_bytes() == before
    assert not [path for path in (tmp_path / "copy").iterdir() if path.name.startswith(".")]


def remade(finished, tmp_path, change):
    """The page after a change of the results."""
    results = json.loads((finished / "results.json").read_text())
    change(results)
    (tmp_path / "results.json").write_text(json.dumps(results))
    return Page(write_report(tmp_path).page.read_text(encoding="utf-8"))


def test_a_base_model_that_is_kept_has_a_report_too(finished, tmp_path):
    def keep_base(results):
        results |= {"adopted": False, "adapter": None}
        results["selection"]["gate"] |= {"adopted": False, "gain": -0.1, "reason": "Not better than the base model."}
        results["test"]["examples"] = {"gains": [], "losses": []}

    page = remade(finished, tmp_path, keep_base)
    assert "No adapter: the base model is kept." in page.text
    assert "Do not deploy, the base model is kept. Not better" in page.text
    assert "svg" not in {tag for tag, _ in page.tags}


def test_data_without_a_test_split_are_not_given_figures_of_the_fit(finished, tmp_path):
    page = remade(finished, tmp_path, lambda results: results.pop("test"))
    assert "there is no split left to measure it on" in page.text and "All cut-offs" not in page.text


def test_a_gradient_run_is_measured_on_test_and_names_its_settings(finished, tmp_path):
    def as_gradient(results):
        results |= {"method": "gradient", "fitted_on": ["train"]}
        results["arguments"] = {"learning_rate": 0.02, "kind": "linear", "output_dir": "/secret/place"}
        results["selection"] = {"chosen": "linear, step 5", "gate": results["selection"]["gate"]}

    page = remade(finished, tmp_path, as_gradient)
    assert "--method gradient" in page.text and "--learning-rate 0.02" in page.text
    assert "/secret" not in page.text and "--kind" not in page.text


def test_a_candidate_that_gains_more_and_is_passed_over_is_named(finished, tmp_path):
    def with_rejected(gain):
        def change(results):
            chosen, other = results["selection"]["candidates"][:2]
            chosen.update(gain=0.03, rejected=False)
            other.update(name="bold", gain=gain, gain_seen=0.2, gain_unseen=-0.05, rejected=True)
            results["selection"]["candidates"] = [chosen, other]

        return change

    said = "bold, which gains +.160 on the whole (+.200 for documents asked for before, -.050 for new documents)."
    assert said in remade(finished, tmp_path, with_rejected(0.16)).text
    results = json.loads((finished / "results.json").read_text())
    with_rejected(0.16)(results)
    (tmp_path / "results.json").write_text(json.dumps(results))
    console = Console(record=True, width=200)
    print_candidates(console, Results.read(tmp_path / "results.json").selection)
    assert said in console.export_text()
    assert "Passed over" not in remade(finished, tmp_path, with_rejected(0.035)).text


def test_a_curve_of_other_data_is_not_shown(finished, tmp_path):
    curve = json.loads((finished / "learning_curve.json").read_text())
    for key, value in (("data", "other"), ("base_model", {**curve["base_model"], "name": "other"})):
        (tmp_path / "learning_curve.json").write_text(json.dumps({**curve, key: value}))
        assert "How many labels" not in remade(finished, tmp_path, lambda results: None).text


def test_fields_that_older_results_lack_are_checked_where_they_are(finished, tmp_path):
    def forge(results):
        results["opened_with"] = "no mapping"

    with pytest.raises(ValueError, match="opened_with"):
        remade(finished, tmp_path, forge)

    def older(results):
        del results["opened_with"], results["data"]["corpus_is_labelled_only"], results["data"]["long_texts"]
        del results["base_model"]["max_seq_length"], results["test"]["num_own_copies"]

    assert remade(finished, tmp_path, older).text


def test_the_results_of_version_0_1_have_a_report(tmp_path):
    shutil.copy(ROOT / "tests" / "golden" / "v0.1.0" / "results.json", tmp_path)
    results = Results.read(tmp_path / "results.json")
    assert results.base_model.name == "base" and results.base_model.max_seq_length is None
    assert results.data.long_texts is None and results.opened_with == {} and results.test.num_own_copies == 0
    page = Page(write_report(tmp_path).page.read_text(encoding="utf-8"))
    assert str(results.verdict) in page.text and "--seed 0 --method closed-form" in page.text
    assert str(results.verdict).startswith(f"Deploy. {results.selection.gate.reason[:-1]}, the chance of such a gain")


def test_a_folder_without_results_is_refused(tmp_path, capsys):
    with pytest.raises(ValueError, match="holds no results.json of a training run"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match="is not JSON in UTF-8"):
        write_report(tmp_path)
    (tmp_path / "results.json").write_text("[]")
    assert cli.main(["report", "--output-dir", str(tmp_path)]) == 2
    assert "a JSON object is expected" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.slow
@pytest.mark.skipif(chromium.PROGRAM is None, reason="no chromium on this machine: apt-get install chromium")
def test_in_a_browser_the_page_fits_and_nothing_complains(finished, tmp_path):
    """Screenshots of all four lie in the test's folder."""
    browser = chromium.Chromium(tmp_path / "profile")
    try:
        backgrounds = set()
        for width, height in ((1280, 900), (390, 844)):
            for dark in (False, True):
                browser.open(finished / "report.html", width=width, height=height, dark=dark)
                browser.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
                browser.screenshot(tmp_path / f"{width}-{'dark' if dark else 'light'}.png")
                assert browser.complaints == []
                assert browser.requests == [(finished / "report.html").as_uri()]
                assert browser.evaluate("document.documentElement.scrollWidth") <= width
                outside = browser.evaluate(OUTSIDE)
                assert outside == []
                assert browser.evaluate("document.querySelectorAll('figure svg').length") == 4
                assert browser.evaluate(SMALLEST_LETTER) >= 9, "letters in figures stay legible"
                assert browser.evaluate(LOWEST_CONTRAST) >= 4.5, "WCAG 2.1 AA"
                assert bool(browser.evaluate(WIDE)) == (width < 600)
                assert browser.evaluate(NAMES_OF_ROWS_THAT_MOVE) == [], "they stay where the rest is scrolled"
                backgrounds.add(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
        assert len(backgrounds) == 2, "light and dark differ"
    finally:
        browser.close()


# Only what may be scrolled sideways reaches beyond the window.
OUTSIDE = """
[...document.querySelectorAll('main *')].filter(
  e => !e.closest('.scroll') && e.getBoundingClientRect().right > innerWidth + 1
).map(e => e.tagName + ' ' + e.textContent.slice(0, 40))
"""
WIDE = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth).length"
NAMES_OF_ROWS_THAT_MOVE = """
[...document.querySelectorAll('.scroll')].flatMap(box => {
  box.scrollLeft = 1000;
  return [...box.querySelectorAll('tr > :first-child')].filter(
    e => Math.abs(e.getBoundingClientRect().left - box.getBoundingClientRect().left) > 1
  ).map(e => e.textContent);
})
"""
SMALLEST_LETTER = """
Math.min(...[...document.querySelectorAll('figure svg text')].map(e => {
  const {a, b} = e.getScreenCTM();
  return Math.hypot(a, b) * parseFloat(getComputedStyle(e).fontSize);
}))
"""
# Of all texts of the page on what lies behind them; cells of the rank figure are see-through and looked at by eye.
LOWEST_CONTRAST = """
(() => {
  const parsed = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = color => {
    const linear = v => v <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
    const [r, g, b] = color.slice(0, 3).map(v => linear(v / 255));
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const color = parsed(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const own = e => e.tagName !== 'style' && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  return Math.min(...[...document.querySelectorAll('main *')].filter(own).map(e => {
    const style = getComputedStyle(e);
    const front = luminance(parsed(e instanceof SVGElement ? style.fill : style.color)), back = luminance(behind(e));
    return (Math.max(front, back) + .05) / (Math.min(front, back) + .05);
  }));
})()
"""
