import base64
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from synthetic_report import CLASSES, evaluation_data, report_data
from synthetic_results import (
    finetuning,
    full_report,
    parts_run,
    pretraining,
    probed,
    record,
    study,
)

from picpoint.report.neighbour_pictures import ReportError
from picpoint.report.neighbours import find_neighbours, keys_shown
from picpoint.report.page import (
    ReportData,
    Source,
    lay_out,
    render_json,
    render_markdown,
    render_page,
    write_report,
)
from picpoint.report.tables import escape_markdown

# Elements that HTML closes by itself.
VOID = {"meta", "link", "img", "input", "br", "hr"}


class Page(HTMLParser):
    """What a page holds, read with the standard library's parser."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def render(data):
    return render_page(data, lay_out(data))


def with_evaluation(data, **changes):
    return replace(data, evaluations=(replace(data.evaluations[0], **changes),))


@pytest.fixture(scope="module")
def data():
    return report_data()


@pytest.fixture(scope="module")
def evaluation(data):
    return data.evaluations[0]


@pytest.fixture(scope="module")
def html(data):
    return render(data)


@pytest.fixture(scope="module")
def page(html):
    return Page(html)


def test_the_page_shows_every_figure(evaluation, page):
    text = " ".join(" ".join(page.text).split())
    for comparison in evaluation.results.comparisons:
        assert f"{100 * comparison.pretrained.mean:.1f}" in text
        assert f"{100 * comparison.random_init.mean:.1f}" in text
        difference = comparison.difference
        assert f"{100 * difference.mean:+.1f} ± {100 * difference.standard_error:.1f}" in text
        assert f"{difference.in_standard_errors:.1f} s.e." in text
        assert f"{100 * comparison.chance:.1f}" in text
    for told in ("148.2", "2.11.0+cpu", "0123abc", "lr: 0.001", "2026-01-02", *CLASSES):
        assert told in text


def test_the_page_loads_nothing(page):
    for tag, attributes in page.tags:
        assert tag not in {"iframe", "object", "embed", "base", "form", "use", "image"}
        for name in ("src", "href", "srcset", "poster", "action", "xlink:href"):
            assert attributes.get(name, "data:").startswith(("data:", "#")), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
    style = "".join(page.text)
    assert "url(" not in style
    assert "@import" not in style


def test_the_policy_forbids_requests_and_all_scripts_but_its_own(html, page):
    policies = [a for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    directives = [part.strip() for part in policies[0]["content"].split(";")]
    (script,) = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert directives[0] == "default-src 'none'"
    assert set(directives[1:]) == {
        "style-src 'unsafe-inline'",
        "img-src data:",
        f"script-src 'sha256-{digest}'",
        "base-uri 'none'",
        "form-action 'none'",
    }
    assert page.all("script") == [{}]


def test_everything_from_an_evaluation_is_escaped():
    evil = "<script>alert(1)</script>"
    quoted = '"><img src=x onerror=alert(1)>'
    poisoned = report_data(class_names=(evil, quoted, "chair"))
    evaluation = poisoned.evaluations[0]
    changed = with_evaluation(
        poisoned,
        config_yaml=evil,
        views=(replace(evaluation.views[0], caption=quoted),),
        results=replace(
            evaluation.results, versions={evil: evil}, seconds={evil: 1.0}, commit=evil
        ),
    )
    sources = (Source(quoted, evil, evil),)
    html = render(replace(changed, title=evil, created=evil, commit=evil, sources=sources))
    assert html.count("<script") == 1
    assert "<img src=x" not in html
    page = Page(html)
    assert page.all("script") == [{}]
    assert all("onerror" not in attributes for _, attributes in page.tags)
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 6


def test_everything_from_results_is_escaped_on_the_page_and_in_markdown():
    evil = "<script>alert(1)</script>"
    quoted = '"><img src=x onerror=alert(1)>'
    data = ReportData(
        title=evil,
        created=evil,
        commit=evil,
        sources=(Source(quoted, evil, evil),),
        pretrainings=(pretraining(evil),),
        finetunings=(
            finetuning(evil, class_names=(evil, quoted, "chair"), dataset=quoted, encoder=evil),
            parts_run(quoted, class_names=(evil, quoted, "cap"), part_names=(evil, quoted) * 3),
        ),
        probes=(probed(evil, dataset=evil),),
        studies=(study(evil, folder=quoted, reason=evil),),
        records=(record(evil, {evil: {quoted: evil}}),),
    )
    sections = lay_out(data)
    html, markdown = render_page(data, sections), render_markdown(data, sections)
    assert html.count("<script") == 1
    assert all("onerror" not in attributes for _, attributes in Page(html).tags)
    assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") > 30
    assert "<" not in markdown
    told = json.loads(render_json(data, sections))
    assert evil in json.dumps(told)
    titles = [table["title"] for part in told["sections"] for table in part["tables"]]
    assert all(f"**{escape_markdown(title)}**" in markdown for title in titles)


def test_every_section_of_a_full_page_has_words_for_what_is_drawn():
    data = full_report()
    page = Page(render(data))
    assert all(attributes.get("alt") for attributes in page.all("img"))
    for attributes in page.all("svg"):
        assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
    anchors = [attributes["id"] for attributes in page.all("h2")]
    assert len(set(anchors)) == len(anchors)
    links = {attributes["href"] for attributes in page.all("a")}
    assert links == {f"#{anchor}" for anchor in anchors}
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert max(np.diff(levels)) <= 1


def test_every_picture_and_plot_has_words(page):
    assert all(attributes.get("alt") for attributes in page.all("img"))
    for attributes in page.all("svg"):
        assert attributes.get("aria-label") or attributes.get("aria-hidden") == "true"
    assert all(attributes.get("scope") in {"row", "col"} for attributes in page.all("th"))
    levels = [int(tag[1]) for tag, _ in page.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert max(np.diff(levels)) <= 1
    assert page.all("html")[0]["lang"] == "en"


def test_the_verdict_follows_the_differences(data):
    assert "on all 4 measures." in verdict(data)
    results = data.evaluations[0].results
    same = replace(results.seeds[0], pretrained=results.seeds[0].random_init)
    changed = with_evaluation(data, results=replace(results, seeds=(same,)))
    assert "on none of 4 measures." in verdict(changed)


def verdict(data):
    return re.search(r'class="verdict">(.*?)</p>', render(data)).group(1)


def test_seeds_show_their_spread_and_each_figure():
    data = report_data(num_seeds=3, num_views=1)
    text = " ".join(" ".join(Page(render(data)).text).split())
    results = data.evaluations[0].results
    first = results.comparisons[0]
    assert f"{100 * first.pretrained.mean:.1f} ± {100 * first.pretrained.std:.1f}" in text
    assert "Each seed" in text
    for seed in results.seeds:
        figures = [side["knn"].accuracy for side in (seed.pretrained, seed.random_init)]
        assert f"{100 * figures[0]:.1f} random init {100 * figures[1]:.1f}" in text


def test_the_page_stays_small(data, tmp_path):
    rng = np.random.default_rng(0)
    noisy = [
        replace(view, picture=rng.integers(0, 256, (224, 224, 3), dtype=np.uint8))
        for view in data.evaluations[0].views
    ]
    write_report(with_evaluation(data, views=tuple(noisy * 2)), tmp_path)
    # Noise is the worst picture for JPEG: real renders take a fifth.
    assert (tmp_path / "report.html").stat().st_size < 4e6
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"report.html", "report.md", "report.json"}


def test_dots_lie_where_the_points_are_seen(evaluation, page):
    view = evaluation.views[3]
    drawn = [a["d"] for a in page.all("path") if a.get("class") == "dot"][3]
    pixels = [tuple(map(float, spot)) for spot in re.findall(r"M([\d.]+) ([\d.]+)h0", drawn)]
    np.testing.assert_allclose(pixels, view.pixels, atol=0.051)
    frames = [a["viewbox"] for a in page.all("svg") if "points" in a.get("aria-label", "")]
    assert set(frames) == {"0 0 224 224"}


def test_neighbours_are_marked_by_their_class(evaluation, page):
    data = evaluation
    rows = find_neighbours(data.pretrained, data.random_init, data.num_queries)
    labels = data.pretrained.labels
    same = sum(
        int((labels[found] == labels[rows.queries][:, None]).sum())
        for found in (rows.pretrained, rows.random_init)
    )
    shown = [a["class"] for a in page.all("figure") if a.get("class", "").startswith("shape")]
    assert shown.count("shape same") == same + len(rows.queries)
    assert len(shown) == 11 * data.num_queries


def test_queries_are_the_first_of_every_class_and_neighbours_are_pre_training_shapes(evaluation):
    data = evaluation
    rows = find_neighbours(data.pretrained, data.random_init, len(CLASSES) + 2)
    assert data.pretrained.labels[rows.queries].tolist() == [*range(len(CLASSES)), 0, 1]
    assert data.pretrained.held_out[rows.queries].all()
    assert not data.pretrained.held_out[rows.pretrained].any()


def test_a_missing_thumbnail_is_named(data, evaluation):
    needed = keys_shown(evaluation.pretrained, evaluation.random_init, evaluation.num_queries)
    thumbnails = evaluation.thumbnails
    lay_out(with_evaluation(data, thumbnails={key: thumbnails[key] for key in needed}))
    lacking = {key: thumbnails[key] for key in needed[1:]}
    with pytest.raises(ReportError, match=needed[0]):
        lay_out(with_evaluation(data, thumbnails=lacking))


def test_a_page_without_logs_or_views_is_still_a_page(data):
    bare = Page(render(with_evaluation(data, logs=(), views=())))
    assert len(bare.all("h2")) == 7


def test_two_evaluations_are_told_apart(data):
    second = replace(evaluation_data(num_views=1), name="runs/other")
    page = Page(render(replace(data, evaluations=(*data.evaluations, second))))
    anchors = [attributes["id"] for attributes in page.all("h2")]
    assert len(set(anchors)) == len(anchors) == 13
    assert "Figures (runs/other)" in " ".join(page.text)
