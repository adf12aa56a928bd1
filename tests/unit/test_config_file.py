"""Files and overrides to a checked config, and back."""

from __future__ import annotations

import importlib.util
import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pyvision_rl.config import Config, SftDataConfig, SftStageConfig, TasksConfig, TrainConfig
from pyvision_rl.config_file import (
    dump_config,
    find_config,
    load_config,
    packaged_configs,
    packaged_studies,
    resolved,
)
from pyvision_rl.errors import ConfigError

ROOT = Path(__file__).parents[2]

TOML = """
seed = 3
[tasks]
name = "jsonl"
path = "a.jsonl"
[train]
steps = 7
[sandbox.figure]
"figure.dpi" = 50
[[sft.stages]]
name = "warm"
steps = 5
[[sft.stages.data]]
kind = "pairs"
[[sft.stages]]
name = "main"
steps = 9
data = []
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(TOML)
    return path


def test_file_gives_the_config(file):
    config = load_config(file)
    assert config.seed == 3
    assert config.tasks == TasksConfig(path="a.jsonl")
    assert config.train.steps == 7
    assert config.train.learning_rate == TrainConfig().learning_rate
    assert [s.name for s in config.sft.stages] == ["warm", "main"]
    assert config.sft.stages[0].data == (SftDataConfig(kind="pairs"),)


@pytest.mark.parametrize(
    ("override", "read"),
    [
        ("train.steps=11", lambda c: c.train.steps == 11),
        ("train.learning_rate=2e-4", lambda c: c.train.learning_rate == 2e-4),
        ("train.freeze_vision=true", lambda c: c.train.freeze_vision is True),
        ("policy.model=runs/a b/c", lambda c: c.policy.model == "runs/a b/c"),
        ("policy.model='7'", lambda c: c.policy.model == "7"),
        ("policy.model=", lambda c: c.policy.model == ""),
        ("policy.model=a=b", lambda c: c.policy.model == "a=b"),
        ("train.betas=[0.8, 0.9]", lambda c: c.train.betas == (0.8, 0.9)),
        ("sft.stages.1.steps=1", lambda c: [s.steps for s in c.sft.stages] == [5, 1]),
        ("sft.stages.0.data.0.count=4", lambda c: c.sft.stages[0].data[0].count == 4),
        ('sandbox.figure."figure.dpi"=30', lambda c: c.sandbox.figure == {"figure.dpi": 30}),
        ("probe.tasks.limit=5", lambda c: c.probe.tasks == TasksConfig(limit=5)),
        ("probe.category_weights.easy=2", lambda c: c.probe.category_weights == {"easy": 2}),
        ("tasks.options={size=3}", lambda c: c.tasks.options == {"size": 3}),
        (" train.steps = 12 ", lambda c: c.train.steps == 12),
    ],
)
def test_override_sets_one_key(file, override, read):
    assert read(load_config(file, [override]))


def test_later_overrides_win(file):
    assert load_config(file, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("train.stepz=1", ("--set", "train.stepz", "did you mean 'steps'")),
        ("trian.steps=1", ("--set", "trian", "did you mean 'train'")),
        ("train.steps=many", ("--set", "train.steps = 'many'", "valid integer")),
        ("train.steps=0", ("--set", "train.steps = 0", "greater than 0")),
        ("train.optimizer=sgd", ("train.optimizer = 'sgd'", "'adamw' or 'muon'")),
        ("seed.x=1", ("seed = 3 holds no keys",)),
        ("sft.stages.2.steps=1", ("sft.stages is a list of 2", "'2'")),
        ("sft.stages.warm.steps=1", ("sft.stages is a list of 2", "'warm'")),
        ("sft.stages.9=1", ("sft.stages is a list of 2",)),
        ("train.steps", ("section.key=value",)),
        ("=3", ("section.key=value",)),
        ("a..b=3", ("section.key=value",)),
        ("train.steps\nseed=3", ("section.key=value",)),
    ],
)
def test_wrong_override_is_named(file, override, words):
    with pytest.raises(ConfigError) as error:
        load_config(file, [override])
    for word in words:
        assert word in str(error.value)
    assert str(file) not in str(error.value)


def test_value_cannot_smuggle_in_keys(file):
    config = load_config(file, ['policy.model="a"\nseed=99'])
    assert config.policy.model == '"a"\nseed=99'


def test_misspelt_key_in_a_file_names_file_and_nearest_key(file):
    file.write_text("[rollout]\ngroup_sise = 4\n")
    with pytest.raises(ConfigError) as error:
        load_config(file, ["seed=1"])
    message = str(error.value)
    assert str(file) in message
    assert "rollout.group_sise" in message
    assert "did you mean 'group_size'" in message
    assert "--set" not in message


@pytest.mark.parametrize(
    ("name", "text", "word"),
    [
        ("a.toml", "seed = ", "not valid TOML"),
        ("a.json", "{", "not valid JSON"),
        ("a.json", "[1]", "holds no config"),
        ("a.json", '{"config": 3}', "holds no config"),
        ("a.json", '{"schema": 99, "config": {}}', "schema 99"),
    ],
)
def test_broken_file_is_named(tmp_path, name, text, word):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ConfigError, match=word) as error:
        load_config(path)
    assert str(path) in str(error.value)


def test_file_that_an_editor_marked_as_utf8_is_read(tmp_path):
    path = tmp_path / "marked.toml"
    path.write_bytes("seed = 7\r\n".encode("utf-8-sig"))
    assert load_config(path).seed == 7


def test_file_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "a.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"a\.toml"):
        load_config(path)


def test_run_folder_loads_to_the_same_config(file, tmp_path):
    config = load_config(file, ["policy.temperature=0.5"])
    record = {"schema": 1, "verb": "rl", "config": resolved(config)}
    (tmp_path / "run.json").write_text(json.dumps(record))
    assert load_config(tmp_path / "run.json") == config
    assert load_config(tmp_path) == config
    assert load_config(tmp_path, ["train.steps=8"]).train.steps == 8


_names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8)
_configs = st.builds(
    Config,
    seed=st.integers(0, 2**40),
    tasks=st.none()
    | st.builds(
        TasksConfig,
        path=_names,
        limit=st.none() | st.integers(1, 99),
        options=st.dictionaries(_names, st.integers() | _names | st.lists(st.booleans())),
    ),
    train=st.builds(TrainConfig, learning_rate=st.floats(1e-12, 1.0), steps=st.integers(1, 9)),
)


@given(_configs)
def test_dump_loads_to_an_equal_config(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("dump") / "c.json"
    path.write_text(dump_config(config), encoding="utf-8")
    assert load_config(path) == config


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.booleans())
def test_scalars_survive_an_override(tmp_path_factory, value):
    path = tmp_path_factory.mktemp("set") / "c.toml"
    path.write_text("[tasks]\n")
    text = json.dumps(value)
    assert load_config(path, [f"tasks.options.x={text}"]).tasks.options["x"] == value


def test_config_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Config().train.steps = 3  # type: ignore[misc]


def test_packaged_configs_are_found_by_bare_name():
    known = packaged_configs()
    studies = packaged_studies()
    assert known.keys() | studies.keys() == {p.stem for p in (ROOT / "configs").glob("*.toml")}
    assert not known.keys() & studies.keys()
    for name, path in known.items():
        assert find_config(name) == path
        assert find_config(f"{name}.toml") == path


def test_unknown_config_suggests_a_packaged_one():
    known = packaged_configs()
    if not known:
        pytest.skip("no configs in this checkout")
    name = next(iter(known))
    with pytest.raises(ConfigError, match=f"did you mean '{name}'"):
        find_config(name[:-1] + "_")


def test_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"without a run\.json"):
        find_config(str(tmp_path))


@pytest.mark.parametrize("path", sorted(packaged_configs().values()), ids=lambda p: p.stem)
def test_shipped_configs_load(path):
    config = load_config(path)
    assert tomllib.loads(path.read_text())
    assert load_config(path) == config


def test_reference_page_is_fresh_and_complete():
    spec = importlib.util.spec_from_file_location("make_config", ROOT / "docs" / "make_config.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    page = module.config_reference()
    fresh = (ROOT / "docs" / "config.md").read_text() == page
    assert fresh, "docs/config.md is stale: run `make docs`"
    for section in (Config, TrainConfig, SftStageConfig):
        for name in section.model_fields:
            assert f"| `{name}` |" in page


def test_override_reaches_into_a_section_that_a_run_left_out(tmp_path):
    # A resolved config writes such a section as null.
    path = tmp_path / "run.json"
    path.write_text(dump_config(Config()))
    config = load_config(path, ["probe.tasks.limit=5"])
    assert config.probe.tasks == TasksConfig(limit=5)


@pytest.mark.parametrize("name", ["local", "scripted"])
def test_options_that_a_built_in_policy_would_not_read_are_refused(file, name):
    with pytest.raises(ConfigError, match=rf"policy\.options = .*'{name}' takes no options"):
        load_config(file, [f"policy.name={name}", "policy.options.cache=1"])
    config = load_config(file, ["policy.name=mine:Policy", "policy.options.cache=1"])
    assert config.policy.options == {"cache": 1}
