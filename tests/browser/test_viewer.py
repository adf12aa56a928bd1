"""The viewer in a browser: what people do with it, and what a model's text must not do."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pyvision_rl.runs import RunReader, read_rollouts
from pyvision_rl.runs_codec import encode
from pyvision_rl.types import EndReason, GiveAnswer
from pyvision_rl.view.export import export_folder
from pyvision_rl.view.steps import index_step
from tests.view_example import HOSTILE, saved_groups, write_run

STEPS = (1, 2, 3)
PAGES = (
    *("training", "samples", "notes", "about", "eval", "2", "1/0", "1/0/0", "1/2/0", "1/3/0"),
    *("1/4", "1/4/0", "task/needle-4"),
)
SEEN = "document.getElementById('count').textContent"


def records():
    return [record for step in STEPS for record in saved_groups(step)]


def test_every_page_is_drawn_without_an_error_and_asks_for_its_own_files_only(tab, site):
    one = tab()
    for place in PAGES:
        page = one.go(place)
        assert page.locator("main h1").count() == 1, place
        assert "Not here" not in page.locator("h1").inner_text(), page.inner_text("main")
    assert not one.errors
    assert one.requests
    assert all(url.startswith((site.as_uri(), "data:")) for url in one.requests)


def test_a_place_that_is_not_there_is_said(tab):
    one = tab()
    for place in ("99/0/0", "1/99", "1/0/77", "nowhere", "task/unknown"):
        assert one.go(place).locator("main").inner_text().strip()
        assert one.page.locator(".turn").count() == 0
    assert "no rollout 77" in one.go("1/0/77").locator("main").inner_text()


@pytest.mark.parametrize(
    ("query", "keeps"),
    [
        ("correct=none", lambda r: r.trajectory.reward is None),
        ("correct=right&calls_min=1", lambda r: _correct(r) and r.trajectory.num_tool_calls >= 1),
        ("end=turn_limit", lambda r: r.trajectory.end == "turn_limit"),
        ("kept=kept", lambda r: r.reason is None),
        ("kept=zero_std", lambda r: r.reason == "zero_std"),
        ("q=door", lambda r: "door" in r.task.input.question),
        ("q=117+open", lambda r: r.trajectory.answer == "117"),
        ("media=video", lambda r: any(m.kind == "video" for m in r.task.input.media)),
        ("reward_max=0.5", lambda r: r.trajectory.reward and r.trajectory.reward.total <= 0.5),
        ("step_min=2&step_max=2", None),
    ],
)
def test_a_filter_leaves_what_the_records_say(tab, query, keeps):
    page = tab().go(f"samples?{query}")
    page.wait_for_function(f"() => {SEEN} !== ''")
    wanted = sum(bool(keeps(r)) for r in records()) if keeps else len(saved_groups(2))
    assert 0 < wanted < len(records())
    assert page.evaluate(SEEN) == f"{wanted} of {len(records())} trajectories"


def _correct(record):
    return record.trajectory.reward is not None and record.trajectory.reward.correct


def test_a_filter_is_set_kept_in_the_address_and_its_first_row_opened(tab):
    one = tab()
    page = one.go("samples")
    page.get_by_label("Answer").select_option("wrong")
    page.get_by_label("Search").fill("digit")
    page.get_by_role("button", name="Sort by reward").click()
    assert {"correct=wrong", "q=digit", "sort=reward"} <= set(one.place().split("?")[1].split("&"))
    row = page.locator(".rows .row").first
    address = row.get_attribute("href")
    row.click()
    page.wait_for_selector(".turn")
    assert one.place() == address
    assert page.locator(".title .mark").get_attribute("aria-label") == "wrong"
    page.go_back()
    page.wait_for_selector(".rows .row")
    assert page.get_by_label("Search").input_value() == "digit"


def test_keys_lead_through_samples_groups_and_steps(tab):
    one = tab()
    page = one.go("1/0/0")
    for keys, place in (
        ("j", "#1/0/1"),
        ("j j j", "#1/1/0"),
        ("k", "#1/0/3"),
        ("J", "#1/1/0"),
        ("u", "#1/1"),
        ("K", "#1/0"),
        ("g", "#1"),
        ("]", "#2"),
        ("[", "#1"),
        ("t", "#training"),
        ("/", "#samples"),
    ):
        one.press(keys)
        page.wait_for_function("p => location.hash.split('?')[0] === p", arg=place)
    page.wait_for_function("() => document.activeElement.id === 'f-q'")
    one.press("Escape ?")
    assert page.locator("#keys").is_visible()
    one.press("Escape")
    assert not page.locator("#keys").is_visible()
    one.press("j Enter")
    page.wait_for_selector(".turn")
    assert one.place() == "#1/0/1"


def test_a_group_shows_rewards_advantages_and_why_each_was_kept_or_not(tab):
    page = tab().go("1/3")
    group = [r for r in saved_groups(1) if r.task.id == "plain-1"]
    cards = page.locator(".rollout")
    assert cards.count() == len(group)
    for card, record in zip(cards.all(), group, strict=True):
        fate = card.locator(".fate .chip").inner_text()
        assert fate == ("kept" if record.reason is None else record.reason.replace("_", " "))
        graded = record.trajectory.reward is not None
        assert card.locator(".part.total").count() == int(graded)


def test_a_trajectory_shows_code_output_error_and_pictures_in_their_turns(tab):
    page = tab().go("1/0/1")
    first, second, third = page.locator(".turn").all()
    assert "NameError: name 'imgae'" in first.locator(".error").inner_text()
    assert "image_clue_0.crop" in second.locator(".code code").inner_text()
    assert second.locator(".labelled pre").inner_text().strip() == "(60, 40)"
    assert second.locator(".shown .thumb img").first.evaluate("i => i.decode().then(() => 1)")
    assert third.locator(".boxed").inner_text() == "1"


def test_a_crop_lies_where_the_sandbox_said_and_opens_at_native_size(tab):
    page = tab().go("1/0/0")
    execution = saved_groups(1)[0].trajectory.turns[0].execution
    left, top, right, bottom = execution.sources[0].box
    page.locator(".from .thumb").first.click()
    page.get_by_role("button", name="Own size").click()
    picture = page.locator("#zoom img").bounding_box()
    box = page.locator("#zoom .box").bounding_box()
    assert (picture["width"], picture["height"]) == (640, 420)
    found = (box["x"] - picture["x"], box["y"] - picture["y"], box["width"], box["height"])
    assert found == pytest.approx((left, top, right - left, bottom - top), abs=1)
    page.keyboard.press("Escape")
    assert not page.locator("#zoom").is_visible()


def test_a_timeline_draws_the_frames_that_were_fetched_and_shown(tab):
    page = tab().go("1/2/0")
    lanes = page.locator(".lane")
    assert lanes.count() == 2
    shown = lanes.nth(0).locator("rect.shown")
    assert [float(r.get_attribute("x")) for r in shown.all()] == list(range(0, 240, 20))
    assert "and 3 more that were not noted" in lanes.nth(0).inner_text()


def test_raw_text_and_log_probabilities_come_when_asked_for(tab):
    one = tab()
    page = one.go("1/0/0")
    assert not [url for url in one.requests if "/data/t" in url]
    page.get_by_role("button", name="Log-probabilities").click()
    page.wait_for_selector("#turn-1 .tok")
    written = saved_groups(1)[0].trajectory.turns[0]
    assert page.locator("#turn-1 .tok").count() == written.num_tokens
    page.get_by_role("button", name="Raw text").click()
    page.wait_for_selector(".segment")
    sampled = page.locator(".segment.sampled pre").all_inner_texts()
    assert "image_clue_0.crop" in sampled[0]
    assert not one.errors


def test_hostile_text_is_shown_and_does_nothing(tab):
    one = tab()
    one.page.on("dialog", lambda box: one.errors.append(box.message))
    for place in ("training", "about", "samples", "1", "1/4", "1/4/0", "2/4/3"):
        page = one.go(place)
        page.wait_for_timeout(50)
        assert page.evaluate("window.HACKED") is None, place
        # The override would show "exe.png" for what is "gnp.exe".
        assert "\u202e" not in page.locator("body").inner_text(), place
        assert page.locator("script").count() == page.evaluate("document.scripts.length")
        assert page.locator("main img[src=x], main script").count() == 0
    text = page.locator(".turn .prose").first.inner_text()
    assert "<script>window.HACKED=1</script>" in text
    assert "U+202E" in text
    one.go("1/4").get_by_text("The same prompt at").click()
    page.wait_for_selector(".compare")
    one.go("2/4/3")
    for name in ("Log-probabilities", "Raw text"):
        page.get_by_role("button", name=name).click()
    page.wait_for_selector(".segment")
    assert page.evaluate("window.HACKED") is None
    assert HOSTILE.split()[0] in page.locator(".segment.sampled pre").first.inner_text()
    assert not one.errors


def test_the_policy_of_the_page_refuses_markup_inline_scripts_and_foreign_files(tab):
    one = tab()
    page = one.go("training")
    page.evaluate(
        """() => {
          const tell = (name, act) => { try { act(); } catch { window[name] = "refused"; } };
          tell("markup", () => { document.body.innerHTML += "<b>x</b>"; });
          tell("address", () => { document.createElement("script").src = "data/x.js"; });
          tell("element", () => PVRL.h("img", { src: "https://example.org/x.png" }));
          tell("handler", () => PVRL.h("b", { onclick: "1" }));
        }"""
    )
    for name in ("markup", "address", "element", "handler"):
        assert page.evaluate(f"window.{name}") == "refused", name
    with pytest.raises(Exception, match="not a data file"):
        page.evaluate("PVRL.again('../../x')")


def test_huge_text_waits_behind_a_control_that_says_how_much(tab):
    page = tab().go("training")
    page.evaluate("document.getElementById('main').append(PVRL.longText('ab '.repeat(400000)))")
    node = page.locator("main > .long")
    assert len(node.text_content()) < 10_000
    node.get_by_role("button", name="Show all 1,200,000 characters").click()
    assert len(node.text_content()) == 1_200_000


def test_highlighting_changes_no_character(tab):
    page = tab().go("training")
    codes = [HOSTILE, "'''open", 'f"{a}" # c\n"x', "é = 0x_f+1.5e3j @d\n\tdef f(self):", "'\\", ""]
    found = page.evaluate(
        "codes => codes.map((c) => PVRL.pythonTokens(c).map((t) => t[1]).join(''))", codes
    )
    assert found == codes
    kinds = page.evaluate("PVRL.pythonTokens('for x in \"a\": print(1)  # c').map((t) => t[0])")
    assert {"keyword", "string", "builtin", "number", "comment"} <= set(kinds)


def test_a_broken_picture_and_a_missing_one_say_so(tab, site, tmp_path):
    broken = tmp_path / "site"
    shutil.copytree(site, broken)
    for file in (broken / "thumbs").iterdir():
        file.write_bytes(b"RIFF nothing")
    page = tab((broken / "index.html").as_uri()).go("1/0/0")
    page.wait_for_selector("text=this picture cannot be shown")
    page = tab((broken / "index.html").as_uri()).go("3/0/0")
    assert page.locator(".missing").count() > 0


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_pages_fit_a_telephone_and_text_stands_out(tab, theme):
    one = tab(viewport={"width": 390, "height": 844}, color_scheme=theme)
    for place in PAGES:
        page = one.go(place)
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, place
        faint = [found for found in page.evaluate(CONTRASTS) if found["contrast"] < 4.5]
        assert not faint, (place, faint)
    ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (int(ground.split("(")[1].split(",")[0]) < 60) == (theme == "dark")


CONTRASTS = """() => {
  const parse = (c) => (c.match(/[\\d.]+/g) || []).map(Number);
  const light = ([r, g, b]) => [r, g, b].map((v) => v / 255)
    .map((v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4))
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const ground = (node) => {
    for (let n = node; n; n = n.parentElement) {
      const c = parse(getComputedStyle(n).backgroundColor);
      if (c.length === 3 || (c.length === 4 && c[3] === 1)) return c;
    }
    return [255, 255, 255];
  };
  const kinds = new Map();
  for (const node of document.querySelectorAll("main *, header *")) {
    const own = [...node.childNodes].some((n) => n.nodeType === 3 && n.data.trim());
    if (!own || !node.checkVisibility() || node.closest(".pic, .tok, svg, option")) continue;
    const [a, b] = [light(parse(getComputedStyle(node).color)), light(ground(node))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    const what = `${node.tagName}.${node.className}`;
    if (!kinds.has(what) || kinds.get(what) > contrast) kinds.set(what, contrast);
  }
  return [...kinds].map(([what, contrast]) => ({ what, contrast }));
}"""


def test_the_button_changes_the_colours_and_remembers(tab):
    one = tab(color_scheme="light")
    page = one.go("training")
    page.locator("#theme").click()
    page.locator("#theme").click()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "dark"


def test_curves_mark_alarms_read_off_values_and_lead_to_a_step(tab):
    one = tab()
    page = one.go("training")
    names = page.locator(".chart figcaption b").all_inner_texts()
    assert {"Reward", "Accuracy", "Tool calls", "Entropy"} <= set(names)
    chart = page.locator(".chart[data-metric=Reward]")
    assert "entropy_collapse" in chart.locator(".marks .alarm title").text_content()
    plot = chart.locator(".plot")
    box = plot.bounding_box()
    plot.hover(position={"x": 46, "y": box["height"] / 2})
    page.wait_for_function("() => document.querySelector('.at').textContent.startsWith('step 1')")
    value = page.evaluate("PVRL.num(PVRL.state.run.metrics.columns.reward[0])")
    assert chart.locator(".readout").inner_text() == value
    plot.click(position={"x": 46, "y": box["height"] / 2})
    page.wait_for_function("() => location.hash === '#1'")
    assert page.locator(".grouprow").count() == 5


def test_a_study_has_a_curve_and_a_spread_for_every_variant(tab, study_site):
    one = tab((study_site / "index.html").as_uri())
    page = one.go("training")
    chart = page.locator(".chart[data-metric=Reward]")
    assert chart.locator(".curve").count() == chart.locator(".band").count() == 2
    page.locator(".runs a").first.click()
    page.wait_for_function("() => document.documentElement.dataset.ready")
    assert "/runs/variants/" in page.url
    assert not one.errors


def test_a_single_file_holds_everything(tab, single):
    one = tab(single.as_uri())
    page = one.go("1/0/0")
    image = page.locator(".turn .thumb img").first
    image.scroll_into_view_if_needed()
    assert image.evaluate("i => i.decode().then(() => i.naturalWidth)") > 0
    page.get_by_role("button", name="Raw text").click()
    page.wait_for_selector(".segment")
    one.go("1/4/0")
    assert page.evaluate("window.HACKED") is None
    own = single.as_uri()
    assert {url.split("#")[0] for url in one.requests if not url.startswith("data:")} == {own}
    assert not one.errors


def test_a_page_grows_with_the_run_it_shows(tab, served):
    run, url = served
    one = tab(url)
    page = one.go("training")
    assert page.locator("#run-live").is_visible()
    steps = page.locator("section[aria-label='Steps'], .short tbody tr")
    assert steps.count() == 2
    grown = write_run(run.parent / "later", 3)
    shutil.copy(grown / "rollouts" / "step_000003.jsonl", run / "rollouts")
    page.wait_for_function("() => document.querySelectorAll('.short tbody tr').length === 3")
    one.go("3/0/0")
    assert page.locator(".turn").count() == 3
    assert not one.errors


def test_a_note_is_written_to_the_run_folder_when_served(tab, served):
    run, url = served
    one = tab(url)
    page = one.go("1/0/2")
    page.get_by_label("Tags").fill("guess, <b>")
    page.get_by_label("Remark").fill(HOSTILE.replace("\ud800", "").replace("\x00", ""))
    page.get_by_role("button", name="Add", exact=True).click()
    page.wait_for_selector(".notes li")
    (line,) = (run / "notes.jsonl").read_text().splitlines()
    note = json.loads(line)
    assert (note["step"], note["rollout"], note["tags"]) == (1, 2, ["guess", "<b>"])
    one.go("notes")
    assert page.locator(".notes a").first.get_attribute("href") == "#1/0/2"
    assert page.evaluate("window.HACKED") is None
    assert not one.errors


def test_a_note_on_files_stays_in_the_browser_and_can_be_downloaded(tab):
    one = tab(accept_downloads=True)
    page = one.go("1/0/2")
    page.get_by_label("Remark").fill("looks right by chance")
    page.get_by_role("button", name="Add", exact=True).click()
    page.wait_for_selector(".notes li")
    page.reload()
    page.wait_for_selector(".notes li")
    one.go("notes")
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Download as JSONL").click()
    (line,) = Path(waiting.value.path()).read_text().splitlines()
    assert set(json.loads(line)) == {"time", "step", "task", "rollout", "tags", "text"}


def test_another_run_stands_beside_item_by_item(tab, run, tmp_path):
    other = write_run(tmp_path / "other", 1, seed=1)
    export_folder(run, tmp_path / "site", against=other)
    one = tab((tmp_path / "site" / "index.html").as_uri())
    page = one.go("eval")
    mine, theirs = grades(run), grades(other)
    common = {task for task in mine if mine[task] is not None and theirs.get(task) is not None}
    counts = {
        "only this run right": sum(mine[t] and not theirs[t] for t in common),
        "only other right": sum(theirs[t] and not mine[t] for t in common),
        "both right": sum(mine[t] and theirs[t] for t in common),
        "both wrong": sum(not mine[t] and not theirs[t] for t in common),
        "graded in one only": len(mine) - len(common),
    }
    buttons = page.locator(".flips button")
    told = [words.split(" ", 1) for words in buttons.all_inner_texts()]
    shown = {words.replace("\n", " "): int(count) for count, words in told}
    assert shown == {"all": len(mine)} | {k: v for k, v in counts.items() if v}
    assert sum(counts.values()) == len(mine)
    page.get_by_role("button", name="both right").click()
    assert page.locator(".items .row").count() == counts["both right"]
    assert page.locator(".items .row .k-theirs").count() == counts["both right"]
    assert not one.errors


def scores(accuracy, low=None, high=None, se=None):
    """What a result tells of a category: its numbers, and its estimate if it has an interval."""
    interval = None if low is None else {"low": low, "high": high, "method": "Wilson score, 95 %"}
    numbers = {"accuracy": accuracy, "accuracy_se": se, "tasks": 10}
    return numbers, {"accuracy": accuracy, "accuracy_interval": interval}


def test_a_result_opens_with_its_own_intervals(tab, tmp_path):
    run = write_run(tmp_path / "run", 1, verb="rescore")
    # All right is not certainly right; of one task nothing is known; "old" has an error only.
    parts = {"easy": scores(1.0, 0.7225, 1.0, 0.0), "one": scores(1.0)}
    parts |= {"all": scores(0.5, 0.25, 0.75), "old": scores(0.5, se=0.1)}
    overall = scores(0.6, 0.4, 0.8, 0.1)
    result = {
        "headline": {"mean_of_tasks": 0.625},
        "overall": overall[0],
        "categories": {name: numbers for name, (numbers, _) in parts.items()},
        "estimates": {
            "overall": overall[1],
            "categories": {name: estimate for name, (_, estimate) in parts.items()},
        },
    }
    (run / "result.json").write_text(json.dumps(result))
    export_folder(run, tmp_path / "site")
    one = tab((tmp_path / "site" / "index.html").as_uri())
    page = one.go()
    assert page.locator("h1").inner_text() == "Evaluation"
    drawn = {}
    for number, row in enumerate(page.locator(".bars .score").all()):
        mark = row.locator(".whisker")
        name = f"{row.locator('.name').inner_text()} {number}"
        where = "e => [e.style.left, e.style.width].map(parseFloat)"
        drawn[name] = [round(n, 2) for n in mark.evaluate(where)] if mark.count() else None
    assert drawn == {
        "all 0": [40, 40],
        "easy 1": [72.25, 27.75],
        "one 2": None,
        "all 3": [25, 50],
        "old 4": [30.4, 39.2],
    }
    assert "Wilson score, 95 %; 1.96 standard errors" in page.locator("main").inner_text()
    cards = page.locator(".cards").inner_text()
    assert "40.0 to 80.0" in cards
    assert "0.625" in cards.partition("accuracy")[0]
    assert not one.errors


def test_groups_of_equal_spread_share_a_rank_as_in_the_data(tab, run):
    page = tab().go("1")
    expected = list(index_step(1, run / "rollouts" / "step_000001.jsonl").ranks())
    assert len(set(expected)) < len(expected), "some are equal"
    ranks = "n => [...Array(n).keys()].map((g) => PVRL.state.index.rank(1, g))"
    assert page.evaluate(ranks, len(expected)) == expected


def change(run, step, changed):
    """Write a step's trajectories once more, otherwise."""
    file = run / "rollouts" / f"step_{step:06d}.jsonl"
    lines = [json.dumps(encode(changed(s), tokens=False)) for s in list(read_rollouts(file))]
    file.write_text("\n".join(lines) + "\n")


def test_a_group_of_which_nothing_was_graded_comes_last(tab, tmp_path):
    run = write_run(tmp_path / "run", 1)
    first = next(read_rollouts(run / "rollouts" / "step_000001.jsonl")).task.id

    def ungraded(saved):
        if saved.task.id != first:
            return saved
        return replace(saved, trajectory=replace(saved.trajectory, reward=None))

    change(run, 1, ungraded)
    export_folder(run, tmp_path / "site")
    one = tab((tmp_path / "site" / "index.html").as_uri())
    page = one.go("1")
    ids = page.evaluate("() => PVRL.state.order.map((row) => PVRL.state.index.task[row])")
    names = page.evaluate("() => PVRL.state.index.tasks.map((task) => task.id || task)")
    ids = [names[number] for number in ids]
    assert len(set(ids)) > 1
    assert ids[0] != first
    assert ids[-1] == first
    assert not one.errors


def test_an_answer_of_one_letter_is_not_looked_for_in_the_tag_behind_it(tab, tmp_path):
    run = write_run(tmp_path / "run", 1)
    text = "It is\n<answer>\n\\boxed{a}\n</answer>"

    def one_letter(saved):
        if not saved.trajectory.turns:
            return saved
        *turns, last = saved.trajectory.turns
        last = replace(last, text=text, action=GiveAnswer("a"))
        return replace(saved, trajectory=replace(saved.trajectory, turns=(*turns, last)))

    change(run, 1, one_letter)
    export_folder(run, tmp_path / "site")
    one = tab((tmp_path / "site" / "index.html").as_uri())
    page = one.go("1/0/0")
    said = page.locator("main").inner_text()
    assert "It is" in said
    assert "nswer>" not in said.replace("<answer>", "").replace("</answer>", "")
    assert not one.errors


def grades(path):
    """Task id -> whether more than half of the samples that count are right; None without any."""
    found = {}
    for saved in RunReader(path).trajectories():
        reward = saved.trajectory.reward
        samples = found.setdefault(saved.task.id, [])
        if reward is not None or saved.trajectory.end is EndReason.FAILED:
            samples.append(reward is not None and reward.correct)
    return {task: sum(s) > len(s) / 2 if s else None for task, s in found.items()}
