"""What a turn asks for, whatever a policy writes."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.parsing import CODE_CLOSE, parse, split_code
from pyvision_rl.types import Action, GiveAnswer, Malformed, RunCode, StopReason

END, STOP, LENGTH = StopReason.END, StopReason.STOP_STRING, StopReason.LENGTH


def code(source: str) -> str:
    return f"<code>\n```python\n{source}\n```\n</code>"


def answer(text: str) -> str:
    return f"<answer>\n{text}\n</answer>"


def why(action: Action) -> str:
    assert isinstance(action, Malformed), action
    return action.why


def test_code_turn_ends_at_the_stop_string() -> None:
    text = "Let me look.\n" + code("x = 1\nprint(x)")
    assert text.endswith(CODE_CLOSE)
    assert parse(text, STOP) == RunCode("x = 1\nprint(x)")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        (code("a = 1") + " then " + code("b = 2"), "b = 2"),
        ("```python\na = 1\n```\nand\n```python\nb = 2\n```", "b = 2"),
        (code("a = 1") + "\n```python\nb = 2\n```", "a = 1"),
        (code("a = 1") + "\n<code>\nno fence\n</code>", "a = 1"),
        ("<code>\n```python\na = 1\n```", "a = 1"),
        ("<code>```python\na = 1```</code>", "a = 1"),
        ("<code>```python a = 1 ```</code>", "a = 1"),
        ("<code>\n```py\na = 1\n```\n</code>", "a = 1"),
        ("<code>\n```Python3 \r\na = 1\r\n```\r\n</code>", "a = 1"),
        ("```\nnot python\n```\n```python\na = 1\n```", "a = 1"),
        ("```python\na = 1\n```\n```json\n{}\n```", "a = 1"),
        ("```python\nnever closed\n```python\na = 1\n```", "a = 1"),
        ("I use <code> tags: " + code("a = 1"), "a = 1"),
    ],
    ids=range(13),
)
def test_the_last_complete_block_is_run(text: str, source: str) -> None:
    assert parse(text, END) == RunCode(source)


def test_code_may_hold_backticks() -> None:
    source = "s = '```'\nt = '''\n x ```python y\n'''"
    assert parse(code(source), STOP) == RunCode(source)


def test_indented_block_is_made_flush_and_inner_indent_is_kept() -> None:
    block = "<code>\n  ```python\n\n    for i in x:\n        print(i)\n\n  ```\n</code>"
    assert parse(block, STOP) == RunCode("for i in x:\n    print(i)")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (answer(r"\boxed{42}"), "42"),
        (answer(r"\boxed{1} or \boxed{2}"), "2"),
        (answer(r"\boxed{\frac{1}{2}}"), r"\frac{1}{2}"),
        (answer(r"\boxed{{1, 2}}"), "{1, 2}"),
        (answer(r"\boxed{\{1, 2\}}"), r"\{1, 2\}"),
        (answer(r"\boxed{\}}"), r"\}"),
        (answer(r"\boxed {x}"), "x"),
        (answer(r"\boxed{7} and \boxed{8"), "7"),
        (answer(r"{ \boxed{7}"), "7"),
        (answer(r"\boxed{'A'}"), "A"),
        (answer(r'\boxed{"two words"}'), "two words"),
        (answer(r"\boxed{'A}"), "'A"),
        (answer(r"\boxed{'A', 'C'}"), "'A', 'C'"),
        (answer(r"\boxed{'A' and 'C'}"), "'A' and 'C'"),
        (answer(r'\boxed{"STOP" and "GO"}'), '"STOP" and "GO"'),
        (answer(r"\boxed{'John's car'}"), "John's car"),
        (answer(r"\boxed{'rock 'n' roll'}"), "rock 'n' roll"),
        (answer(r"\boxed{'A, C'}"), "A, C"),
        (answer(r"""\boxed{"the words 'yes' and 'no'"}"""), "the words 'yes' and 'no'"),
        (answer("plain"), "plain"),
        (answer(r"\boxed{unclosed"), r"\boxed{unclosed"),
        (answer(r"\boxed{1}") + answer(r"\boxed{2}"), "2"),
        (answer(r"\boxed{1}") + answer(""), "1"),
        (answer(r"\boxed{1}") + answer(r"\boxed{}"), "1"),
        (answer(r"\boxed{1}") + " then </answer>", "1"),
        ("the <answer> tag: " + answer(r"\boxed{1}"), "1"),
        (answer(r"\boxed{1}") + "<answer>\\boxed{2}", "1"),
    ],
)
def test_answer_is_the_last_box_of_the_last_answer_block(text: str, value: str) -> None:
    assert parse(text, END) == GiveAnswer(value)


def test_answer_wins_over_code_and_an_empty_answer_does_not() -> None:
    assert parse(answer(r"\boxed{1}") + code("x"), STOP) == GiveAnswer("1")
    assert parse(answer(" ") + code("x"), STOP) == RunCode("x")
    assert parse(answer(r"\boxed{''}") + code("x"), STOP) == RunCode("x")


def test_a_cut_turn_counts_only_with_a_complete_answer() -> None:
    assert parse(answer(r"\boxed{1}") + " and", LENGTH) == GiveAnswer("1")
    for text in (code("x"), r"<answer>\boxed{1}", "thinking"):
        assert "cut off" in why(parse(text, LENGTH))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("I do not know.", "neither"),
        ("", "neither"),
        ("<code>\nprint(1)\n</code>", "```python fence"),
        ("<code>\n```python\nprint(1)", "```python fence"),
        (code("  \n "), "code block is empty"),
        ("<answer>5", "not closed"),
        (answer(""), "empty"),
    ],
)
def test_malformed_turns_say_what_is_wrong(text: str, reason: str) -> None:
    assert reason in why(parse(text, END))


@pytest.mark.parametrize(
    "token",
    [
        "<|im_start|>",
        "<|im_end|>",
        "<|endoftext|>",
        "<|vision_start|>",
        "<|vision_end|>",
        "<|image_pad|>",
        "<|video_pad|>",
    ],
)
def test_a_control_token_makes_any_turn_malformed(token: str) -> None:
    for text in (answer(r"\boxed{1}") + token, code(f"print('{token}')")):
        reason = why(parse(text, END))
        assert token.strip("<|>") in reason
        assert token not in reason


PIECES = st.sampled_from(
    [
        *(
            "<code>",
            "</code>",
            "<answer>",
            "</answer>",
            "```python",
            "```",
            "```py\n",
            "\n",
            "\r\n",
        ),
        *("\\boxed{", "{", "}", "\\", "'", '"', " ", "\t", "x = 1", "<", "<|im_end|>", "\\}", "`"),
    ]
)


@given(
    st.one_of(st.text(), st.lists(st.one_of(PIECES, st.text(max_size=3))).map("".join)),
    st.sampled_from(StopReason),
)
def test_any_text_gives_exactly_one_action_and_none_is_empty(text: str, stop: StopReason) -> None:
    action = parse(text, stop)
    match action:
        case RunCode(source):
            assert source.strip()
            assert stop is not LENGTH
        case GiveAnswer(value):
            assert value.strip()
        case Malformed(reason):
            assert reason


@given(st.text(alphabet="ab \n{}'`\\", min_size=1).filter(str.strip))
def test_code_comes_back_as_it_was_written(source: str) -> None:
    # Neither a fence on its own line nor outer blank space is part of a source.
    if "```" in source or source != source.strip():
        source = "pass"
    assert parse(f"<code>\n```python\n{source}\n```\n</code>", STOP) == RunCode(source)


HOSTILE = [
    *("<code>", "<answer>", "</answer>", "<answer></answer>", "<code>```python\n"),
    *("```python", "```python\n", "```", "\n```", "``` \t", "` ", " ", "\t\n", "\r\n", "\\", "<|"),
    *("\\boxed", "\\boxed{", "\\boxed ", "{", "}", "{}", "<answer>\\boxed{", "<|im_start|"),
]


@pytest.mark.parametrize("piece", HOSTILE, ids=repr)
def test_hostile_text_takes_linear_time(piece: str) -> None:
    def seconds(text: str) -> float:
        began = time.process_time()
        parse(text, END)
        return time.process_time() - began

    filler = piece * (300_000 // len(piece))
    for text in (
        filler,
        answer(filler),
        f"<answer>{filler}",
        code(filler),
        f"```python\n{filler}",
        "<code>\n```python\n" + filler + "x\n```\n</code>",
    ):
        # A quadratic pass over 300 kB takes minutes; a linear one takes hundredths of a second.
        assert seconds(text) < 3


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a " + code("x = 1") + " b", ("a <code>\n```python", "x = 1", "```\n</code> b")),
        ("x = 1 " + code("x = 1"), ("x = 1 <code>\n```python", "x = 1", "```\n</code>")),
        ("```py\n  a\n    b\n```", ("```py", "a\n  b", "```")),
        (code("a") + code("b"), (code("a") + "<code>\n```python", "b", "```\n</code>")),
        ("no code", ("no code", "", "")),
        ("", ("", "", "")),
    ],
)
def test_a_turn_is_split_around_the_code_that_runs(text: str, parts: tuple[str, str, str]) -> None:
    before, source, after = split_code(text)
    assert (before.strip(), source, after.strip()) == parts


@given(st.lists(st.sampled_from(["<code>", "</code>", "```python\n", "```", "\n", " ", "x"])))
def test_splitting_keeps_all_text_and_finds_the_code_that_runs(pieces: list[str]) -> None:
    text = "".join(pieces)
    before, source, after = split_code(text)
    assert text.startswith(before)
    assert text.endswith(after)
    assert len(before) + len(after) <= len(text)
    action = parse(text, END)
    assert source == (action.code if isinstance(action, RunCode) else "")
