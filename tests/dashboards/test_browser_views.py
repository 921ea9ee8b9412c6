"""Tables, pages and maps that the script builds: by mouse, by keyboard, attacked, and with axe."""

import json
from dataclasses import replace

import numpy as np
import pytest

import probes
from dashboards import Report

pytestmark = pytest.mark.browser

OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
MODEL = {"spec": "demo:pylm", "fingerprint": "9f2c51aa"}


def linked(features, full, *, latents=70, **changes):
    """A curve, a dictionary that reads its resid_post.2, a map of its latents and one of inputs."""
    found = features(n=latents, tokens=900)
    at = {"model": MODEL, "data": {"name": "facts"}}
    rng = np.random.default_rng(0)
    fields = dict(
        hookpoint="resid_post.2",
        probes=("facts.label",),
        alignment=rng.normal(0, 0.2, (latents, 1)),
        places=rng.normal(size=(latents, 2)).astype(np.float32),
        layout="pca",
        provenance=at,
    )
    X = rng.normal(size=(60, 5))
    texts = [f"The city number {i} is here." for i in range(60)]
    labels = np.where(np.arange(60) % 3, "safe", "unsafe")
    inputs = probes.cluster_map(X, labels, texts=texts, name="facts.map")
    curve = full("facts.label", provenance={**at, "pool": "last"})
    return [curve, replace(found, **{**fields, **changes}), replace(inputs, provenance=at)]


HEADING = "document.querySelector('.latent > :first-child').textContent"


@pytest.fixture(scope="module")
def path(tmp_path_factory, features, full):
    report = Report(linked(features, full), command="interp demo")
    return report.write(tmp_path_factory.mktemp("views") / "report.html")


def heading(page):
    return page.locator(".latent > :first-child").inner_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_all_is_built_and_fits(opened, path, width, scheme):
    page, complaints, requests = opened(path, width, scheme)
    assert complaints == [] and requests == [path.as_uri()]
    assert page.locator(".still").count() == 0
    assert page.locator("canvas.points").count() == 2
    page.evaluate("location.hash = 'result2-3'")
    page.wait_for_selector(".latent:not([hidden])")
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    page.wait_for_timeout(100)
    assert page.evaluate(OVERFLOW) <= 0 and complaints == []


def test_the_table_searches_sorts_and_turns_by_keys(opened, path):
    page, complaints, _ = opened(path)
    box = page.locator("#result2-list")
    rows = box.locator("tbody tr")
    assert rows.count() == 50 and box.locator(".filter output").inner_text() == "69 latents"
    box.get_by_role("button", name="Next").focus()
    page.keyboard.press("Enter")
    assert rows.count() == 19
    box.get_by_label("Search the latents").focus()
    page.keyboard.type('"LATENT 33 ·"')
    assert rows.count() == 1 and rows.locator("a").inner_text() == "latent 33"
    assert box.locator(".filter output").inner_text() == "1 of 69 shown"
    box.get_by_label("Search the latents").fill("no such word")
    assert rows.count() == 0
    box.get_by_label("Search the latents").fill("")
    sort = box.get_by_role("button", name="|cosine|")
    sort.focus()
    page.keyboard.press("Space")
    values = [abs(float(t)) for t in box.locator("tbody td:nth-child(5)").all_inner_texts()]
    assert values == sorted(values, reverse=True) and len(set(values)) > 20
    page.keyboard.press("Space")
    values = [abs(float(t)) for t in box.locator("tbody td:nth-child(5)").all_inner_texts()]
    assert values == sorted(values)
    assert box.locator("[aria-sort=ascending]").inner_text().startswith("|cosine|")
    assert complaints == []


def test_a_latent_opens_by_its_link_and_leads_to_its_neighbours(opened, path, features, until):
    page, complaints, _ = opened(path)
    link = page.locator("#result2-list tbody a").nth(3)
    name = link.inner_text()
    link.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".latent:not([hidden])")
    assert heading(page) == name.capitalize()
    assert page.evaluate("document.activeElement.parentElement.className") == "latent"
    number = int(name.split()[1])
    feature = features(n=70, tokens=900)[number]
    text = page.locator(".latent").inner_text()
    assert f"({feature.fires:,})" in text and f"{feature.strongest:.3g} at most" in text
    marks = page.locator(".latent .examples").first.locator("mark.at")
    assert marks.first.get_attribute("title") == f"{feature.top[0].activation:.3g}"
    assert page.locator(".latent .histogram").get_attribute("role") == "img"
    counts = page.locator(".latent figure tbody tr").count()
    used = np.flatnonzero(feature.histogram)
    assert counts == used[-1] - used[0] + 1
    near = page.locator(".latent .beside a").first
    assert near.inner_text() == f"latent {feature.near[0].latent}"
    near.click()
    until(
        page,
        f"document.querySelector('.latent > :first-child').textContent !== '{name.capitalize()}'",
    )
    assert heading(page) == f"Latent {feature.near[0].latent}"
    page.go_back()
    until(
        page,
        f"document.querySelector('.latent > :first-child').textContent === '{name.capitalize()}'",
    )
    page.get_by_role("button", name="Close and return").click()
    assert page.evaluate("document.activeElement.textContent") == name
    assert not page.locator(".latent").is_visible() and complaints == []


def test_an_address_opens_a_latent_and_a_wrong_one_does_nothing(opened, path, tmp_path):
    from_disk = tmp_path / "a.html"
    from_disk.write_bytes(path.read_bytes())
    page, complaints, _ = opened(from_disk)
    page.goto(from_disk.as_uri() + "#result2-12")
    page.reload()
    page.wait_for_selector(".latent:not([hidden])")
    assert heading(page) == "Latent 12"
    for wrong in ("result2-9999", "result9-1", "%00", "x" * 9999, "constructor-1"):
        page.evaluate("h => { location.hash = h; }", wrong)
    page.wait_for_timeout(100)
    assert complaints == []


def test_a_click_on_the_curve_and_a_key_in_the_list_choose_a_layer(
    opened, path, features, full, until
):
    page, complaints, _ = opened(path)
    view = page.locator("#result1-layers")
    curve, found, _ = linked(features, full)
    order = np.argsort(-np.abs(found.alignment[found.fires > 0, 0]))
    best = f"latent {order[0]}"
    assert view.locator("tbody a").first.inner_text() == best
    assert view.locator("tbody tr").count() == 10
    assert f"{100 * found.density[order[0]]:.2g} %" in view.locator("tbody tr").first.inner_text()
    assert view.locator("tbody mark").count() > 0  # its top example
    # by mouse, on another layer: there is no dictionary, and the page says where there is
    page.locator("#fig1").scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    dot = page.locator("#fig1 .scatterlayer .trace").locator("path.point")
    boxes = page.evaluate("""(() => {
      const p = document.querySelector('#fig1 .plot');
      const area = p.querySelector('.nsewdrag').getBoundingClientRect();
      const axis = p._fullLayout.xaxis, y = p._fullLayout.yaxis;
      return [area.left + axis.d2p(5), area.top + y.d2p(0.9)];
    })()""")
    assert dot.count() > 0
    page.mouse.move(boxes[0] - 3, boxes[1])
    page.mouse.move(*boxes)
    page.wait_for_timeout(200)
    page.mouse.click(*boxes)
    until(page, "document.querySelector('#result1-layers-choice').value === '5'")
    assert "No dictionary of this page reads there" in view.inner_text()
    assert f"{curve.accuracy[5]:.3g}" in view.inner_text()
    # by keys, back
    page.locator("#result1-layers-choice").focus()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    assert view.locator("code").first.inner_text() == "resid_post.2"
    view.locator("tbody a").first.focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".latent:not([hidden])")
    assert heading(page) == best.capitalize() and complaints == []


def test_points_are_found_by_arrows_and_by_mouse(opened, path):
    page, complaints, _ = opened(path)
    canvas, tip = page.locator("#result2-map .points"), page.locator("#result2-map .tip")
    canvas.focus()
    first = tip.inner_text()
    assert first.startswith("latent ")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert tip.inner_text() != first
    name = tip.inner_text().split(" · ")[0]
    page.keyboard.press("Enter")
    page.wait_for_selector(".latent:not([hidden])")
    assert heading(page) == name.capitalize()
    # the map of inputs: a click shows the input
    inputs = page.locator("#result3-map .points")
    inputs.scroll_into_view_if_needed()
    inputs.focus()
    at = page.evaluate("""(() => {
      const over = document.querySelector('#result3-map .over'), c = over.getContext('2d');
      const pixels = c.getImageData(0, 0, over.width, over.height);
      let x = 0, y = 0, n = 0;
      for (let i = 3; i < pixels.data.length; i += 4) if (pixels.data[i]) {
        x += (i >> 2) % over.width; y += Math.floor((i >> 2) / over.width); n += 1;
      }
      const box = over.getBoundingClientRect(), scale = over.width / box.width;
      return [box.left + x / n / scale, box.top + y / n / scale];
    })()""")
    page.mouse.click(*at)
    assert page.locator("#result3-map .detail").inner_text().startswith("input ")
    assert "The city number" in page.locator("#result3-map .detail").inner_text()
    page.locator("#result3-map summary").click()
    table = page.locator("#result3-map tbody tr")
    table.nth(49).wait_for()  # it is built when it is opened
    assert table.count() == 50 and "unsafe" in table.first.inner_text()
    page.get_by_label("Search the points").fill("number 41")
    table.nth(1).wait_for(state="detached")
    assert table.count() == 1 and complaints == []


def test_the_map_changes_its_colours_with_the_scheme(opened, path, until):
    page, _, _ = opened(path)
    read = """(() => { const c = document.querySelector('#result3-map .points');
      return c.toDataURL(); })()"""
    light = page.evaluate(read)
    page.emulate_media(color_scheme="dark")
    until(page, f"{read} !== {json.dumps(light)}")
    page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(read) == light


def test_attacks_in_features_stay_text(opened, features, full, attacks, tmp_path):
    text = " ".join(attacks[k] for k in attacks if k not in ("long", "surrogate"))
    for i, hostile in enumerate((text, attacks["long"], attacks["surrogate"])):
        plain = linked(features, full, latents=12)
        found = plain[1]
        name = hostile.replace("\ud800", "c")  # pandas holds no lone surrogates
        probe = f"facts.{name[:300]}"
        raised = np.zeros((12, 2), np.int64)
        changed = replace(
            found, words=tuple(hostile for _ in found.words), labels=(name,),
            about={name: hostile}, predicts=np.zeros(12, np.int64), named=np.ones(12, bool),
            probes=(probe,), raised=raised, lowered=raised, raised_logits=raised * 1.0,
            lowered_logits=raised * 1.0,
        )  # fmt: skip
        where = replace(plain[2], texts=tuple(hostile for _ in plain[2].texts), labels=(name,) * 60)
        layers = (name[:200], *plain[0].hookpoints[1:])
        curve = replace(plain[0], name=probe, hookpoints=layers)
        page_path = Report([curve, changed, where], title=hostile).write(tmp_path / f"{i}.html")
        page, complaints, requests = opened(page_path, 390)
        page.evaluate("location.hash = 'result2-3'")
        page.wait_for_selector(".latent:not([hidden])")
        page.get_by_label("Search the latents").fill("<script>")
        page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
        page.evaluate("document.querySelectorAll('canvas').forEach(c => c.focus())")
        assert complaints == [] and requests[0] == page_path.as_uri() and len(requests) == 1
        assert page.evaluate("window.hit") is None
        assert page.locator("img").count() == 0
        assert page.locator("main script:not([type])").count() == 0
        assert not set(page.locator(".latent").inner_text()) & set("\u202e\u2066\x00")
        assert page.evaluate(OVERFLOW) <= 0


def test_images_stand_under_their_grid(opened, features, tmp_path):
    found = features(n=5, tokens=40)
    pixels = np.full((4, 12, 12, 3), 120, np.uint8)
    images = {"document": np.arange(4), "pixels": pixels, "grid": np.array([2, 5])}
    changed = replace(found, images=images)
    page, complaints, _ = opened(Report(changed).write(tmp_path / "images.html"))
    page.evaluate("location.hash = 'result1-2'")
    page.wait_for_selector(".latent:not([hidden])")
    shown = page.locator(".latent .picture")
    assert shown.count() >= 4
    first = found[2].top[0]
    row, column = first.position // 5 + 1, first.position % 5 + 1
    said = f"image {first.document}, strongest at row {row}, column {column}: "
    assert str(shown.first.locator("img").get_attribute("alt")).startswith(said)
    assert shown.first.locator(".veil i").count() == 10
    at = shown.first.locator(".veil i").nth(first.position)
    assert at.get_attribute("class") == "at" and float(at.evaluate("e => e.style.opacity")) < 0.01
    assert shown.first.locator("img").evaluate("e => e.naturalWidth") == 12
    assert complaints == []


def test_the_first_latents_stand_without_a_script(browser, path):
    context = browser.new_context(java_script_enabled=False, offline=True)
    page = context.new_page()
    page.goto(path.as_uri())
    assert page.locator("#result2-list .still tbody tr").count() == 50
    assert page.locator("button").count() == 0
    context.close()


def serious(page):
    """What axe-core finds serious or critical."""
    api = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="axe-playwright-python is in the extra dev"
    )
    found = api.Axe().run(page).response["violations"]
    return [
        (v["id"], v["impact"], json.dumps([n["html"][:120] for n in v["nodes"]])[:600])
        for v in found
        if v["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(opened, path, scheme):
    page, _, _ = opened(path, 1280, scheme)
    page.evaluate("location.hash = 'result2-3'")
    page.wait_for_selector(".latent:not([hidden])")
    page.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    page.wait_for_timeout(200)
    assert serious(page) == []


def test_axe_sees_what_is_wrong(opened, path):
    page, _, _ = opened(path)
    page.evaluate("""(() => {
      const bad = document.createElement('input'); bad.type = 'search';
      document.querySelector('main').append(bad);
    })()""")
    assert [v[0] for v in serious(page)] == ["label"]
