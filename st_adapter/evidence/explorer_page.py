"""The page of ``st-adapter explore``: a query on top, what both models find below it, and the measured queries.

Imports nothing of the package but ``explorer``: a Space holds a copy of this file.
"""

from __future__ import annotations

from html import escape
from typing import Any

import gradio as gr

from st_adapter.evidence.explorer import SHOWN, Answer, Explorer, FoundDocument, KnownQuery

# Rows of a list that a browser scrolls without waiting.
_MOST_ROWS = 1000
_SAME = 5e-4  # what is not shown
_ORDERS = [("largest gains first", "gain"), ("largest losses first", "loss")]
_DOCUMENTS = [("all", "all"), ("asked for in training", "seen"), ("new", "new")]
_HINT = "<p class='muted'>Type a query, or choose one of those that were measured.</p>"
_TO_THE_ANSWER = "() => document.getElementById('answer').scrollIntoView({behavior: 'smooth', block: 'start'})"
# Says which query was chosen.
_ON_CLICK = """element.addEventListener('click', event => {
  const row = event.target.closest('button[data-query]');
  if (row) trigger('click', {query: row.dataset.query});
});"""
_CSS = """
.gradio-container { max-width: 76rem !important; margin: 0 auto !important; }
.gradio-container main { padding: clamp(.25rem, 2vw, 1rem) !important; }
.explore { color: var(--body-text-color); overflow-wrap: anywhere; }
.explore h1 { font-size: 1.4rem; line-height: 1.25; margin: 0 0 .4rem; }
.explore h2 { font-size: 1.05rem; margin: 0 0 .5rem; }
.explore p { margin: .25rem 0; }
.explore .muted, .explore .score, .explore .id {
  color: color-mix(in srgb, var(--body-text-color) 72%, transparent); font-size: .875rem; }
.explore .sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr)); gap: 1rem; }
.explore ol { list-style: none; margin: 0; padding: 0; display: grid; gap: .5rem; }
.explore li { background: var(--background-fill-secondary); border-left: 4px solid var(--border-color-primary);
  border-radius: .4rem; padding: .5rem .7rem; margin: 0; }
.explore li.relevant { border-left-color: var(--explore-up); }
.explore .head { display: flex; flex-wrap: wrap; gap: .1rem .7rem; align-items: baseline; font-size: .875rem;
  font-variant-numeric: tabular-nums; }
.explore .rank { font-weight: 700; font-size: 1rem; min-width: 1.3rem; }
.explore .score { margin-left: auto; }
.explore .up { color: var(--explore-up); font-weight: 600; }
.explore .down { color: var(--explore-down); font-weight: 600; }
.explore .queries { max-height: 32rem; overflow-y: auto; display: grid; gap: .25rem; padding: 2px; }
.explore .queries button { display: grid; grid-template-columns: 4.5rem 1fr; gap: 0 .5rem; width: 100%;
  padding: .4rem .6rem; border: 1px solid var(--border-color-primary); border-radius: .4rem; cursor: pointer;
  font-size: .9375rem; font-weight: 400; text-align: start; font-variant-numeric: tabular-nums;
  color: var(--body-text-color); background: var(--background-fill-primary); }
.explore .queries button:hover, .explore .queries button:focus-visible { border-color: var(--color-accent);
  outline: 1px solid var(--color-accent); }
.explore .queries button .muted { grid-column: 2; }
:root, .gradio-container { --explore-up: #0a7048; --explore-down: #b03a00; }
.dark, .dark .gradio-container { --explore-up: #4cd6a0; --explore-down: #ff9c5a; }
"""


def page(explorer: Explorer) -> gr.Blocks:
    """Lay out the page of an explorer; ``page(explorer).launch(**look())`` opens it."""
    blocks: gr.Blocks
    with gr.Blocks(title="st-adapter explore", analytics_enabled=False) as blocks:
        gr.HTML(_header(explorer))
        with gr.Row(equal_height=True):
            query = gr.Textbox(
                label="Query", placeholder="Type a query, and Enter", scale=5, max_lines=3, autofocus=True
            )
            button = gr.Button("Search", variant="primary", scale=1, min_width=96)
        answer = gr.HTML(_wrapped(_HINT), elem_id="answer")
        if explorer.measured():
            by_id = {_plain(known.query_id): known.text for known in explorer.measured()}

            def chosen(event: gr.EventData) -> str:
                return by_id[event.query]

            _queries(explorer).click(chosen, None, query, api_visibility="private").then(
                lambda text: _answered(explorer, text), query, answer, api_visibility="private"
            ).then(None, js=_TO_THE_ANSWER)
        for asked in (query.submit, button.click):
            asked(lambda text: _answered(explorer, text), query, answer, api_visibility="private")
    return blocks


def look() -> dict[str, Any]:
    """How the page looks, as ``launch`` takes it: in fonts of the reader's, so that none is fetched."""
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Arial", "sans-serif"]
    theme = gr.themes.Default(font=fonts, font_mono=["ui-monospace", "Menlo", "Consolas", "monospace"])
    return {"css": _CSS, "theme": theme, "footer_links": []}


def _queries(explorer: Explorer) -> gr.HTML:
    """The list of the measured queries, with what sorts and filters it."""
    with gr.Accordion("Queries that were measured", open=True):
        with gr.Row():
            order = gr.Dropdown(_ORDERS, value="gain", label="Order", min_width=180)
            documents = gr.Dropdown(_DOCUMENTS, value="all", label="Their documents", min_width=180)
            containing = gr.Textbox(label="Containing", min_width=180)
        shown = gr.HTML(_listed(explorer.measured()), js_on_load=_ON_CLICK)

        def narrowed(order: Any, documents: Any, containing: str) -> str:
            return _listed(explorer.measured(order, documents, containing))

        for changed in (order.change, documents.change, containing.submit, containing.blur):
            changed(narrowed, [order, documents, containing], shown, api_visibility="private")
    return shown


def _listed(queries: list[KnownQuery]) -> str:
    rows = "".join(_row(query) for query in queries[:_MOST_ROWS])
    return _wrapped(f"{_count(queries)}<div class='queries'>{rows}</div>")


def _row(query: KnownQuery) -> str:
    documents = "" if query.seen is None else " · asked for in training" if query.seen else " · new"
    return (
        f"<button type='button' data-query=\"{_text(query.query_id)}\"><span class='{_style(query.gain)}'>"
        f"{_change(query.gain)}</span><span dir='auto'>{_text(query.text)}</span>"
        f"<span class='muted'>nDCG@10 {query.base:.3f} → {query.adapted:.3f}{documents}</span></button>"
    )


def _change(gain: float) -> str:
    return {"up": f"▲ {gain:.3f}", "down": f"▼ {-gain:.3f}"}.get(_style(gain), "=")


def _style(gain: float) -> str:
    return "muted" if abs(gain) < _SAME else "up" if gain > 0 else "down"


def _count(queries: list[KnownQuery]) -> str:
    styles = [_style(query.gain) for query in queries]
    cut = f" The first {_MOST_ROWS:,} are shown." if len(queries) > _MOST_ROWS else ""
    return (
        f"<p class='muted'>{len(queries):,} queries: {styles.count('up'):,} gained, {styles.count('down'):,} lost, "
        f"{styles.count('muted'):,} stayed as they were.{cut} Choose one to see what is found for it.</p>"
    )


def _header(explorer: Explorer) -> str:
    facts = "".join(f"<p class='muted'>{_text(fact)}</p>" for fact in explorer.material.facts)
    return _wrapped(f"<h1>{_text(explorer.material.title)}</h1>{facts}")


def _answered(explorer: Explorer, text: str) -> str:
    """Both sides of an answer."""
    if not text.strip():
        return _wrapped(_HINT)
    answer = explorer.answer(text)
    sides = _side("Base model", answer.base, adapted=False) + _side("With the adapter", answer.adapted, adapted=True)
    return _wrapped(f"{_about(answer)}<div class='sides'>{sides}</div>")


def _about(answer: Answer) -> str:
    """What is known of a query."""
    known = answer.known
    if known is None:
        return "<p class='muted'>Not a query of the data: nothing says which documents are relevant.</p>"
    number = sum(relevance > 0 for relevance in known.relevance.values())
    relevant = "1 relevant document" if number == 1 else f"{number} relevant documents"
    words = f"A query of the split {_text(known.split)}, with {relevant}"
    if known.base is None or known.adapted is None:
        return f"<p class='muted'>{words}; it was not measured: what is found for it is no evidence.</p>"
    kind = "" if known.seen is None else ", asked for in training" if known.seen else ", new"
    change = f"nDCG@10 {known.base:.3f} → {known.adapted:.3f}"
    return f"<p class='muted'>{words}{kind}. <span class='{_style(known.gain)}'>{change}</span></p>"


def _side(title: str, documents: tuple[FoundDocument, ...], *, adapted: bool) -> str:
    items = "".join(_item(document, adapted=adapted) for document in documents)
    return f"<section><h2>{title}</h2><ol>{items or '<li>Nothing was found.</li>'}</ol></section>"


def _item(document: FoundDocument, *, adapted: bool) -> str:
    relevance = document.relevance
    judged = "" if relevance is None else f"relevant ({relevance:g})" if relevance > 0 else "judged not relevant"
    mark, style = _mark(document, adapted=adapted)
    parts = [
        f"<span class='rank'>{document.rank}</span>",
        f"<span class='{style}'>{mark}</span>",
        f"<span class='{'up' if (relevance or 0) > 0 else 'down'}'>{judged}</span>" if judged else "",
        "<span class='muted'>asked for in training</span>" if document.seen else "",
        f"<span class='score'>{document.score:.4f}</span>",
    ]
    text = "" if document.text is None else f"<p dir='auto'>{_text(document.text)}</p>"
    kind = "relevant" if (relevance or 0) > 0 else ""
    return f"<li class='{kind}'><div class='head'>{''.join(parts)}</div>{_named(document.corpus_id)}{text}</li>"


def _mark(document: FoundDocument, *, adapted: bool) -> tuple[str, str]:
    """Where a document was, or on the side of the base model where it goes, and the style of that."""
    other = document.other_rank
    if other is None or other > SHOWN:
        place = "below 100" if other is None else str(other)
        return (f"▲ new, was {place}", "up") if adapted else (f"▼ falls to {place}", "down")
    if other == document.rank:
        return "=", "muted"
    before, after = (other, document.rank) if adapted else (document.rank, other)
    verb = f"was {before}" if adapted else f"{'rises' if after < before else 'falls'} to {after}"
    return (f"▲ {verb}", "up") if after < before else (f"▼ {verb}", "down")


def _named(corpus_id: str) -> str:
    return f"<div class='id' dir='auto'>{_text(corpus_id)}</div>"


def _wrapped(markup: str) -> str:
    return f"<div class='explore'>{markup}</div>"


def _plain(text: str) -> str:
    """One line without characters that steer, hide or belong to no text."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _text(text: str) -> str:
    """A text from outside, as text."""
    return escape(_plain(text))
