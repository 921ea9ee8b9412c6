"""The page in a real browser, opened from disk with the network cut."""

import numpy as np
import pytest

from dashboards import Report

pytestmark = pytest.mark.browser

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def path(tmp_path_factory, six):
    return Report(six, command="interp probe").write(tmp_path_factory.mktemp("r") / "report.html")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_it_opens_alone_and_draws_every_figure(opened, path, six, width, scheme):
    page, complaints, requests = opened(path, width, scheme)
    assert complaints == []
    assert requests == [path.as_uri()]
    assert page.locator(".plot .main-svg .xy").count() >= len(six) + 1
    assert page.evaluate(OVERFLOW) <= 0
    assert page.locator("figure#map1 .main-svg text", has_text="facts.label").count() == 1
    paths = page.locator("figure#fig1 .scatterlayer .js-line")
    assert paths.count() >= 4


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_every_kind_of_figure_is_drawn_and_fits(opened, everything, tmp_path, width, scheme):
    path = Report(everything, command="interp probe").write(tmp_path / "all.html")
    page, complaints, requests = opened(path, width, scheme)
    assert complaints == [] and requests == [path.as_uri()]
    plots = page.locator(".plot").count()
    assert plots == page.locator(".plot:has(.main-svg .cartesianlayer)").count() == 19
    assert page.evaluate(OVERFLOW) <= 0
    # Every title of an axis lies within its picture.
    outside = page.evaluate("""[...document.querySelectorAll('.plot')].flatMap(p => {
      const box = p.getBoundingClientRect();
      return [...p.querySelectorAll('.xtitle, .x2title, .ytitle, .legendtext')].filter(t => {
        const b = t.getBoundingClientRect();
        return b.width && (b.left < box.left - 1 || b.right > box.right + 1);
      }).map(t => p.dataset.spec + ': ' + t.textContent);
    })""")
    assert outside == []
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate(OVERFLOW) <= 0


def test_the_legend_brings_the_hidden_control_with_its_band(opened, full, tmp_path):
    page, _, _ = opened(Report(full()).write(tmp_path / "one.html"))
    lines, bands = "#fig1 .scatterlayer .js-line", "#fig1 .scatterlayer .js-fill"
    before = page.locator(lines).count(), page.locator(bands).count()
    entry = page.locator("#fig1 .legend .traces", has_text="random features")
    entry.locator(".legendtoggle").click()
    page.wait_for_timeout(600)
    assert (page.locator(lines).count(), page.locator(bands).count()) > before


def test_the_measure_of_overflow_sees_an_overflow(opened, tmp_path):
    wide = tmp_path / "wide.html"
    wide.write_text("<!DOCTYPE html><body><div style='width:900px'>x</div>", encoding="utf-8")
    page, _, _ = opened(wide, 390, until="body")
    assert page.evaluate(OVERFLOW) > 0


def test_there_is_no_upload_button_and_no_logo(opened, path):
    page, _, _ = opened(path)
    titles = page.evaluate(
        "[...document.querySelectorAll('[data-title]')].map(b => b.dataset.title)"
    )
    assert titles and not [t for t in titles if "loud" in t or "Plotly" in t]
    assert page.locator("a[href^='http']").count() == 0
    # The label moves from the empty picture to a group, so that the buttons inside are reached.
    plot = page.locator("#fig1 .plot")
    assert plot.get_attribute("role") == "group" and "rises" in str(
        plot.get_attribute("aria-label")
    )


def test_dark_mode_changes_the_colours_at_once_and_back(opened, path, until):
    page, complaints, _ = opened(path)

    def colours():
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        line = page.evaluate(
            "getComputedStyle([...document.querySelectorAll('#fig1 .js-line')].at(-1)).stroke"
        )
        back = page.evaluate(
            "getComputedStyle(document.querySelector('#fig1 .main-svg')).background"
        )
        return paper, line, back

    light = colours()
    page.emulate_media(color_scheme="dark")
    until(page, f"getComputedStyle(document.body).backgroundColor !== '{light[0]}'")
    page.wait_for_timeout(300)
    dark = colours()
    assert all(a != b for a, b in zip(light, dark, strict=True))
    page.emulate_media(color_scheme="light")
    page.wait_for_timeout(300)
    assert colours() == light and complaints == []


def test_print_uses_the_light_colours(opened, path):
    page, _, _ = opened(path, scheme="dark")
    dark = page.evaluate("getComputedStyle(document.querySelector('#fig1 .main-svg')).background")
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    printed = page.evaluate(
        "getComputedStyle(document.querySelector('#fig1 .main-svg')).background"
    )
    assert "rgb(255, 255, 255)" in printed and printed != dark
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"


def test_the_keyboard_reaches_what_folds_scrolls_and_links(opened, path):
    page, _, _ = opened(path, 390)
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.evaluate("document.activeElement.getBoundingClientRect().top") >= 0
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('.findings') !== null")
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.className") == "scroll":
            break
    assert page.evaluate("document.activeElement.className") == "scroll"
    for _ in range(30):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.tagName") == "SUMMARY":
            break
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.parentElement.open") is True
    table = page.evaluate("document.activeElement.parentElement.querySelector('table').innerText")
    assert "facts.label" in table
    assert page.evaluate(OVERFLOW) <= 0


def test_all_details_open_without_overflow(opened, path):
    page, _, _ = opened(path, 390)
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    assert page.evaluate(OVERFLOW) <= 0


def test_attacks_do_not_run_and_do_not_break_the_page(
    opened, depth, perturbed, steering, lens, attacks, tmp_path
):
    text = " ".join(v[:500] for v in attacks.values() if "\ud800" not in v)
    anchor = '<a href="javascript:window.hit=1">x</a><b>y</b>'
    results = [
        depth(
            f"a.{t}",
            hookpoints=(t.replace("\ud800", "c"), anchor, "d"),
            notes=(t,),
            examples=[{t: t}],
            jump_point=None,
            reasons={"jump_point": t},
            provenance={"model": {"spec": t, t: t}, "data": {"name": t}},
        )
        for t in (text, anchor, "\ud800", attacks["long"])
    ]
    two = depth(f"b.{text}", hookpoints=results[0].hookpoints, provenance=results[0].provenance)
    tokens = [v for v in attacks.values() if "\ud800" not in v]  # pandas holds no lone surrogates
    run = {**perturbed().runs[0], "kind": text}
    others = [
        depth(results[0].name, provenance={"model": {"spec": anchor}}),  # a second model
        perturbed(f"a.{text}", runs=(run,), notes=(text,)),
        steering(f"a.{text}", classes=(text, anchor), hookpoint=anchor, notes=(text,)),
        lens(f"a.{text}", raised=(text, anchor, *tokens), raised_ids=tuple(range(2 + len(tokens))),
             raised_logits=np.arange(2.0 + len(tokens))),
    ]  # fmt: skip
    results += others
    path = Report([*results, two], title=text, command=text).write(tmp_path / "attack.html")
    page, complaints, requests = opened(path, 390)
    assert complaints == [] and requests == [path.as_uri()]
    assert page.evaluate("window.hit") is None
    assert page.locator("img").count() == 0 and page.locator("svg a").count() == 0
    assert page.locator("script").count() == 2 + 1 + len(results) + 4
    assert page.evaluate(OVERFLOW) <= 0


def test_a_script_that_got_in_would_not_run(opened, path, tmp_path):
    text = path.read_text(encoding="utf-8")
    hurt = tmp_path / "hurt.html"
    tag = '<img src="x:y" onerror="window.hit=1"><script>window.hit=1</script>'
    hurt.write_text(text.replace("<main", f"{tag}<main", 1), encoding="utf-8")
    page, complaints, _ = opened(hurt)
    assert page.locator("img").count() == 1  # it is there
    assert page.evaluate("window.hit") is None
    assert any("Content Security Policy" in c for c in complaints)
    # Without the policy it does run: this is what the policy is for.
    hurt.write_text(f"<!DOCTYPE html><body>{tag}", encoding="utf-8")
    page, _, _ = opened(hurt, until="img")
    assert page.evaluate("window.hit") == 1
