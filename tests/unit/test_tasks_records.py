"""Records are read one after the other, found again, and never crash who reads them."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyvision_rl.errors import ConfigError, TaskError
from pyvision_rl.tasks import records
from pyvision_rl.tasks.records import RecordFile


def read(folder: Path, data: bytes, name: str = "a.json") -> list[records.Record]:
    path = folder / name
    path.write_bytes(data)
    return list(RecordFile(path))


def numbered(folder: Path, text: str) -> list[tuple[int, Any]]:
    return [(each.number, each.value) for each in read(folder, text.encode())]


LEAVES = st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text(max_size=20)
VALUES = st.recursive(LEAVES, lambda v: st.lists(v, max_size=3), max_leaves=5)
OBJECTS = st.dictionaries(st.text(max_size=8), VALUES, max_size=4)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(OBJECTS, max_size=6),
    indent=st.sampled_from([None, 0, 3]),
    ascii_only=st.booleans(),
    filler=st.integers(0, 3),
)
def test_every_record_of_an_array_is_read_and_found_again(
    tmp_path_factory: pytest.TempPathFactory,
    values: list[dict[str, Any]],
    indent: int | None,
    ascii_only: bool,
    filler: int,
) -> None:
    # Longer than a block, so that records and characters lie across its border.
    values = [{**value, "pad": "漢" * (filler * records.BLOCK // 7)} for value in values]
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    path = tmp_path_factory.mktemp("r") / "a.json"
    path.write_bytes(text.encode())
    file = RecordFile(path)
    found = list(file)
    assert [each.value for each in found] == values
    assert [each.number for each in found] == list(range(1, len(values) + 1))
    assert [file.at(each.place) for each in found] == values


@settings(max_examples=200, deadline=None)
@given(data=st.binary(max_size=60) | st.text('[]{},:"\\ud8tfn10.- \n', max_size=60).map(str.encode))
def test_no_bytes_crash_the_reader(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    folder = tmp_path_factory.mktemp("r")
    for name in ("a.json", "a.jsonl"):
        try:
            found = read(folder, data, name)
        except TaskError:
            continue  # no array at all
        assert all(isinstance(each.value, dict | str) for each in found)
        numbers = [each.number for each in found]
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("text", "good", "word"),
    [
        ("[{}", 1, "found the end of the file"),
        ("[{},]", 1, "Expecting value"),
        ("[{} {}]", 1, "wants a comma"),
        ("[{}]x", 1, "'x' behind the end"),
        ("[{}, nope, {}]", 1, "Expecting value"),
        ('[{}, {"a": "b', 1, "Unterminated string"),
        ('[{}, {"a": "\x01"}]', 1, "Invalid control character"),
        ("[{}, " + "[" * 100_000, 1, "recursion"),
        ("[{}, " + "1" * 5000 + "]", 1, "digits"),
    ],
    ids=range(9),
)
def test_where_an_array_breaks_is_a_fault_with_its_number(
    tmp_path: Path, text: str, good: int, word: str
) -> None:
    found = numbered(tmp_path, text)
    assert found[:good] == [(number, {}) for number in range(1, good + 1)]
    ((number, fault),) = found[good:]
    assert number == good + 1
    assert word in fault
    assert "nothing behind it is read" in fault


def test_what_is_no_object_is_a_fault_and_the_rest_is_read(tmp_path: Path) -> None:
    found = numbered(tmp_path, '[1, {"a": 2}, "x", null, [{}], {}]')
    assert [number for number, _ in found] == [1, 2, 3, 4, 5, 6]
    faults = [value for _, value in found if isinstance(value, str)]
    assert faults == [f"a {name}, wants an object" for name in ("int", "str", "NoneType", "list")]


def test_a_mark_of_byte_order_shifts_no_place(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b'\xef\xbb\xbf[{"a": 1}, {"b": 2}]')
    file = RecordFile(tmp_path / "a.json")
    assert [file.at(each.place) for each in file] == [{"a": 1}, {"b": 2}]


def test_lines_keep_their_numbers_and_places(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"a": 1}\n\n{nope\n{"b": 2}')
    file = RecordFile(tmp_path / "a.jsonl")
    found = list(file)
    assert [each.number for each in found] == [1, 3, 4]
    assert file.at(found[2].place) == {"b": 2}
    assert "not JSON" in str(found[1].value)


def test_rows_of_parquet_are_found_again(tmp_path: Path) -> None:
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    values = [{"a": n, "nested": {"list": [str(n)]}} for n in range(10)]
    table = arrow.Table.from_pylist(values)
    parquet.write_table(table, tmp_path / "a.parquet", row_group_size=3)
    file = RecordFile(tmp_path / "a.parquet")
    found = list(file)
    assert [each.value for each in found] == values
    assert [file.at(each.place) for each in reversed(found)] == values[::-1]


def test_a_file_that_changed_is_not_read_as_if_it_had_not(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1}]')
    file = RecordFile(path)
    (found,) = file
    path.write_text('[{"a": 10}]')
    with pytest.raises(TaskError, match="changed since"):
        file.at(found.place)


@pytest.mark.parametrize(("name", "word"), [("none.json", "no such file"), ("a.csv", "allowed")])
def test_what_is_no_file_of_records_is_bad_usage(tmp_path: Path, name: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        RecordFile(tmp_path / name)


def test_a_long_array_costs_the_memory_of_a_block(tmp_path: Path) -> None:
    # 40 blocks; all of them as Python objects would be more than 40 MiB.
    path = tmp_path / "a.json"
    record = json.dumps({"question": "x" * 2000})
    path.write_text("[" + ",\n".join([record] * (20 * records.BLOCK // 1000)) + "]")
    assert path.stat().st_size > 40 * records.BLOCK
    tracemalloc.start()
    count = sum(1 for _ in RecordFile(path))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert count == 20 * records.BLOCK // 1000
    assert peak < 10 * records.BLOCK
