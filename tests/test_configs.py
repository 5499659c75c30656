"""Every shipped configuration runs as it is, and wrong ones are refused with their key."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from bad_values import SPANNING, schema_cases
from cli import memo_dist, tiny_corpus

from memo_dist.cli.main import run as run_cli
from memo_dist.config import Config, load_config, to_yaml
from memo_dist.config.help import describe
from memo_dist.config.keys import key_specs
from memo_dist.config.knowledge_schema import SWITCHES
from memo_dist.config.load import flatten, known_keys
from memo_dist.config.rules import check_rules, choices, lookup
from memo_dist.config.schema import TrainConfig
from memo_dist.config.shipped import configs_folder, shipped_config
from memo_dist.config.stages import changed_keys, stage_hash
from memo_dist.errors import UsageError
from memo_dist.training.deepspeed_seam import engine_config, read_deepspeed_file, zero_stage

CONFIGS = Path(__file__).parent.parent / "configs"
PRICES = CONFIGS / "prices.yaml"  # data of `compare`, not a configuration
YAML_FILES = sorted(set(CONFIGS.rglob("*.yaml")) - {PRICES})
ZERO_FILES = sorted((CONFIGS / "deepspeed").glob("*.json"))
STAGES = ("corpus", "synthesis", "train", "export")


def name_of(file):
    return str(file.relative_to(CONFIGS))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return tiny_corpus(tmp_path_factory.mktemp("corpus") / "documents")


def refusal(*overrides, files=()):
    with pytest.raises(UsageError) as caught:
        load_config(files, overrides)
    return str(caught.value)


# -- what is shipped -------------------------------------------------------------------------------


def test_the_promised_files_are_there():
    names = {name_of(file) for file in (*YAML_FILES, *ZERO_FILES)}
    zero = {f"deepspeed/zero-{kind}.json" for kind in (0, 1, 2, 3, "offload")}
    encode = {f"encode-{size}.yaml" for size in ("laptop", "8gpu", "64gpu")}
    smoke = {f"smoke/{kind}.yaml" for kind in ("scratch", "two-ranks", "zero3")}
    assert {"demo.yaml", "demo-full.yaml", *encode, *smoke, *zero} <= names
    assert configs_folder() == CONFIGS
    assert shipped_config("smoke/scratch") in YAML_FILES


@pytest.mark.parametrize("file", YAML_FILES, ids=name_of)
def test_dry_run_from_any_folder(file, corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = tmp_path / "run"
    code = run_cli(["encode", str(corpus), "--run", str(run), "--config", str(file), "--dry-run"])
    printed = capsys.readouterr()
    assert code == 0, printed.err
    config = load_config([file])
    assert f"{config.corpus.shards} shard(s) on {config.memory.base}" in printed.out
    assert f"ZeRO {zero_stage(config.train)}" in printed.out
    assert "3 documents" in printed.out
    assert not list(tmp_path.iterdir())


def test_dry_run_as_a_process(corpus, tmp_path):
    file = CONFIGS / "smoke" / "zero3.yaml"
    done = memo_dist(
        "encode", corpus, "--run", tmp_path / "run", "--config", file, "--dry-run", "train.epochs=2"
    )
    assert done.returncode == 0, done.stderr
    assert "2 epochs" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("file", YAML_FILES, ids=name_of)
def test_a_comment_says_what_it_is_for(file):
    assert file.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("file", ZERO_FILES, ids=name_of)
def test_deepspeed_files_pass_the_seam(file):
    train = TrainConfig(deepspeed=str(file))
    merged = engine_config(train, bf16=False, rows_per_rank=4)
    expected = {"zero-offload": 2}.get(file.stem) or int(file.stem.removeprefix("zero-"))
    assert zero_stage(train) == merged["zero_optimization"]["stage"] == expected
    assert merged["gradient_clipping"] == train.clip
    with pytest.raises(UsageError, match=f"stage {expected}; set only one"):
        zero_stage(replace(train, zero_stage=1 if expected != 1 else 2))


@pytest.mark.parametrize("content", ["[1]", "{", '{"bf16": {"enabled": true}}'])
def test_a_bad_deepspeed_file_is_refused(content, tmp_path):
    file = tmp_path / "zero.json"
    file.write_text(content)
    with pytest.raises(UsageError, match=r"train\.deepspeed="):
        read_deepspeed_file(str(file))


# -- loading ---------------------------------------------------------------------------------------


def test_defaults_then_files_then_overrides(tmp_path):
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text("train: {epochs: 5, lr: 1.0e-4}\nrun: {seed: 3}\n")
    second.write_text("train: {epochs: 6}\n")
    config = load_config([first, second], ["run.seed=4"])
    assert (config.train.epochs, config.train.lr, config.run.seed) == (6, 1e-4, 4)
    assert config.train.clip == TrainConfig().clip
    assert load_config([second, first]).train.epochs == 5


def test_what_is_printed_loads_again(tmp_path):
    config = load_config([CONFIGS / "encode-8gpu.yaml"], ["evaluate.baselines=[oracle]"])
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    assert load_config([file]) == config


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("train.epoch=3", "unknown key 'train.epoch' (did you mean 'train.epochs'?)"),
        ("trian.epochs=3", "unknown key 'trian.epochs' (did you mean 'train.epochs'?)"),
        ("epochs=3", "unknown key 'epochs'"),
        ("train.epochs=three", "train.epochs='three' has the wrong type"),
        ("train.epochs=2.5", "train.epochs=2.5 has the wrong type"),
        ("synthesis.steps=direct", "write a list, as synthesis.steps=[a,b]"),
        ("launch.setup=. ${HOME}/env", "write a list, as launch.setup=[a,b]"),
        ("train.epochs=null", "train.epochs"),
        ("train.lr=[1]", "train.lr"),
        ("train=3", "'train' is a group of keys"),
        ("train.lr.x=3", "unknown key 'train.lr.x'"),
        ("train.epochs", "is not of the form key=value"),
        ("=3", "is not of the form key=value"),
        ("train.deepspeed=None", "write train.deepspeed=null"),
        ("memory.base=on", "memory.base=True must be text; put it in quotes"),
        ("memory.base=0123", "memory.base=83 must be text; put it in quotes"),
        ("memory.base=[", "is not YAML"),
        ("memory.base=2031-02-30", "is not YAML: day is out of range"),
        ("memory.base=!!timestamp x", "is not YAML"),
        pytest.param("train.epochs=" + "9" * 5000, "is not YAML", id="digits"),
        pytest.param("train.betas=" + "[" * 3000, "nested too deeply", id="brackets"),
    ],
)
def test_wrong_overrides(override, expected):
    assert expected in refusal(override)


def test_an_override_below_a_value():
    assert "'lr' was given a value before" in refusal("train.lr=1", "train.lr.x=2")


def test_every_choice_is_taken_as_it_is_typed(tmp_path):
    """YAML reads yes and no as true and false."""
    words = {key: choices(key) for key in known_keys() if choices(key)}
    for place in range(max(map(len, words.values()))):
        typed = {key: allowed[place % len(allowed)] for key, allowed in words.items()}
        overrides = [f"{key}={word}" for key, word in typed.items()]
        found = load_config((), overrides, check=False)
        assert {key: lookup(found, key) for key in typed} == typed
    file = tmp_path / "config.yaml"
    for word in ("yes", "no"):
        file.write_text(f"train:\n  question_loss: {word}\n")
        assert load_config([file]).train.question_loss == word


def test_the_shells_variables_are_kept(tmp_path):
    config = load_config((), ["launch.setup=['export PATH=${HOME}/bin:$PATH']"])
    assert config.launch.setup == ["export PATH=${HOME}/bin:$PATH"]
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    assert load_config([file]) == config


def test_quoted_yaml_traps_are_text():
    assert load_config((), ["memory.base='0123'"]).memory.base == "0123"
    assert load_config((), ["train.lr=3e-4"]).train.lr == pytest.approx(3e-4)


@pytest.mark.parametrize("content", ["- 1", "a: [", "text", "\xff"])
def test_files_that_are_no_configuration(content, tmp_path):
    file = tmp_path / "bad.yaml"
    file.write_bytes(content.encode("latin-1"))
    assert str(file) in refusal(files=[file])


def test_a_file_names_itself_in_its_errors(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("train: {epoch: 1}\n")
    assert f"{file}: unknown key 'train.epoch'" in refusal(files=[file])
    assert "none.yaml" in refusal(files=[tmp_path / "none.yaml"])
    file.write_text("")
    assert f"configuration file {file} is empty" in refusal(files=[file])


# -- rules -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "value", "expected"), schema_cases())
def test_the_schema_refuses_a_bad_value(key, value, expected):
    message = refusal(f"{key}={json.dumps(value)}")
    (line,) = (text for text in message.splitlines() if key in text and expected in text)
    assert str(value).strip("[]'") in line


@pytest.mark.parametrize(("key", "value"), SPANNING.items(), ids=SPANNING)
def test_a_bad_value_is_refused_by_its_key(key, value):
    assert key in refusal(f"{key}={json.dumps(value)}")
    check_rules(Config())


def test_every_number_and_choice_has_a_bad_value():
    """A new key needs a bound, a rule, or a place in this list of keys that take anything."""
    free = {
        "run.seed",
        "run.group_readable",
        "corpus.trusted",
        "generator.model",
        "generator.recording",
        "executive.model",
        "synthesis.reader_model",
        "executive.recording",
        "memory.scratch.intermediate_size",
        "train.gradient_checkpointing",
        "train.async_checkpoint",
        "train.compile",
        "train.deepspeed",
        "cluster.address",
        "launch.questions",
        "track.project",
        "serve.log_questions",
        "serve.vllm_args",
        "compare.embedder",
        "compare.prices",
        "compare.machine",
        "export.familiarity",
        "fusion.backbone",
        "fusion.instruction",
        "fusion.entropy_bias",
        "fusion.sample",
        "fusion.latent.drafts",
        "plan.law",
        "scale.random.lr_exponent",
        "scale.biographies.lr_exponent",
        "scale.reflections.lr_exponent",
        "scale.reflections.run",
        "train.teacher",
        "compare.lora_hypernetwork",
    }
    assert set(known_keys()) == {key for key, *_ in schema_cases()} | set(SPANNING) | free


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("synthesis.steps=[direkt]", "did you mean 'direct'?"),
        ("synthesis.steps=[direct,direct]", "names a step twice"),
        ("synthesis.steps=[]", "leaves nothing to do"),
        ("evaluate.baselines=[bm24]", "did you mean 'bm25'?"),
        ("track.to=[tensorbord]", "did you mean 'tensorboard'?"),
    ],
)
def test_lists_of_names(override, expected):
    assert expected in refusal(override)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["generator.kind=openai", "generator.urls=[http://a/v1]"], "generator.model='' must name"),
        (["generator.kind=openai", "generator.model=m"], "generator.urls=[] must name"),
        (["generator.kind=recorded", "generator.model=m"], "generator.recording='' must name"),
        (["generator.urls=[http://me:secret@host/v1]"], "URL of host carries credentials"),
        (["generator.urls=['http://host/v1?key=secret']"], "URL of host carries credentials"),
        (["launch.setup=['export HF_TOKEN=secret']"], "looks like a key or password"),
        (["launch.sbatch=['--export=A_KEY=secret']"], "looks like a key or password"),
        (["generator.api_key_env=sk-secret"], "the NAME of an environment variable"),
        (["generator.budget_money=1"], "needs generator.price_prompt"),
        (["executive.kind=openai", "executive.model=m"], "executive.urls=[] must name"),
        (["executive.kind=anthropic"], "executive.model='' must name"),
        (["executive.urls=[http://me:secret@host/v1]"], "executive.urls: the URL of host carries"),
        (["executive.urls=['http://[host/v1']"], "executive.urls: one of them is no URL"),
        (["generator.urls=['http://host:99999/v1']"], "generator.urls: one of them is no URL"),
    ],
)
def test_generator_settings_that_do_not_fit_together(overrides, expected):
    message = refusal(*overrides)
    assert expected in message
    assert "secret" not in message


def test_all_broken_rules_are_told_at_once():
    message = refusal("train.epochs=-1", "corpus.shards=0")
    assert "train.epochs=-1" in message
    assert "corpus.shards=0" in message


# -- identity of the stages ------------------------------------------------------------------------

GROUP_REACHES = {
    "corpus": STAGES,
    "run": STAGES[1:],
    "generator": STAGES[1:],
    "synthesis": STAGES[1:],
    "memory": STAGES[2:],
    "train": STAGES[2:],
    "export": STAGES[3:],
    "executive": (),
    "protocol": (),
    "fusion": (),
    "evaluate": (),
    "cluster": (),
    "launch": (),
    "plan": (),
    "update": (),
    "scale": (),
    "track": (),
}
DEFAULT_IDENTITY = {
    "corpus": "2e525cbd131a8c6c8dfa2bb1ea8e03b1a38055546c6a2780cd3e28759e725594",
    "synthesis": "499f1c7f1393baac9c59dad5e01a6ab5fad8b786c72dc6ed0a53d54f56aae078",
    "train": "09f30960a54ab450014880dc76352032810ef49e2d8c6abee2bec18fc439e6e5",
    "export": "144aaa12d22f5527ca8739aba6124ba6dbac151c979e3ab906ddb8862b71c7f6",
}
"""``stage_hash`` of the default configuration.

Another value means that every run folder written before is refused as another configuration, or
that a key no longer decides a result. Change it only together with a line in CHANGELOG.md.
"""


def test_the_identity_of_the_default_configuration_stays():
    assert {stage: stage_hash(Config(), stage) for stage in STAGES} == DEFAULT_IDENTITY


def changed(value):
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        return f"{value}x"
    if isinstance(value, list):
        return value[:-1]
    return value + 1


def with_value(key, value):
    config = Config()
    *path, name = key.split(".")
    node = config
    for part in path:
        node = getattr(node, part)
    setattr(node, name, value)
    return config


def test_the_weight_of_questions_is_identity_where_they_are_trained():
    assert _hash_of(1, 0.1) == _hash_of(1, 0.5)
    assert _hash_of(3, 0.1) != _hash_of(3, 0.5)


def test_what_is_off_is_no_identity_and_switching_it_on_is_a_change():
    """Runs of versions without these keys stay as they are (DEFAULT_IDENTITY holds too)."""
    on = with_value("train.teacher", "model")
    assert stage_hash(on, "train") != stage_hash(Config(), "train")
    assert changed_keys(Config(), on, "train") == {"train.teacher": ("", "model")}
    other = with_value("train.teacher_top", 5)
    assert stage_hash(other, "train") == stage_hash(Config(), "train")
    on.train.teacher_top = 5
    assert stage_hash(on, "train") != stage_hash(with_value("train.teacher", "model"), "train")


def test_the_source_of_a_vocabulary_is_identity_where_one_is_learned():
    def hash_of(base, source):
        config = with_value("memory.scratch.tokenizer", source)
        config.memory.base = base
        return stage_hash(config, "train")

    assert hash_of("smollm2-135m", "corpus") == hash_of("smollm2-135m", "general")
    assert hash_of("scratch", "corpus") != hash_of("scratch", "general")


def _hash_of(shards, weight):
    config = with_value("train.question_weight", weight)
    config.corpus.shards = shards
    return stage_hash(config, "train")


@pytest.mark.parametrize("key", known_keys())
def test_a_key_changes_the_hash_of_exactly_its_stages(key):
    # Not identity here: one shard does not train on questions, no base is built, and what these
    # keys belong to is off.
    unread = ("train.question_weight", "memory.scratch.tokenizer", *SWITCHES)
    identity = key_specs(Config)[key].identity and key not in unread
    reaches = GROUP_REACHES[key.split(".")[0]] if identity else ()
    default = lookup(Config(), key)
    other = with_value(key, changed(default))
    differing = tuple(s for s in STAGES if stage_hash(other, s) != stage_hash(Config(), s))
    assert differing == reaches
    for stage in reaches:
        assert changed_keys(Config(), other, stage) == {key: (default, changed(default))}


# -- help ------------------------------------------------------------------------------------------


def test_every_key_has_a_help_text():
    lines = describe().split("\n")
    keys = [line.split(" = ")[0] for line in lines if not line.startswith("    ")]
    assert keys == known_keys() == sorted(flatten(asdict(Config())))
    for key, text in zip(keys, lines[1::2], strict=True):
        assert len(text.strip()) > 10, key


def test_config_verb_prints_the_resolved_tree(capsys):
    assert run_cli(["config", "--config", str(CONFIGS / "demo.yaml"), "train.epochs=7"]) == 0
    tree = yaml.safe_load(capsys.readouterr().out)
    assert tree["train"]["epochs"] == 7
    assert set(tree) == set(asdict(Config()))


@pytest.mark.parametrize(("reword", "wordings"), [(True, 2), (False, 1)])
def test_an_old_switch_is_accepted_and_noticed_once(tmp_path, capsys, reword, wordings):
    file = tmp_path / "config.yaml"
    file.write_text(f"export: {{reword: {str(reword).lower()}, refusal: 0.5}}\n")
    for _ in range(2):
        assert load_config([file]).export.wordings == wordings
    assert load_config([file]).export.refusal == 0.5
    assert capsys.readouterr().err.count(f"is called export.wordings={wordings} now") == 1
    assert load_config(stored=file).export.wordings == wordings
    assert capsys.readouterr().err == ""
    file.write_text("export: {reword: maybe}\n")
    with pytest.raises(UsageError, match=r"unknown key 'export\.reword'"):
        load_config([file])


def test_the_old_name_of_a_value_is_accepted_and_noticed_once(tmp_path, capsys):
    file = tmp_path / "config.yaml"
    file.write_text("generator: {kind: embedded}\n")
    for _ in range(2):
        assert load_config([file]).generator.kind == "rules"
    assert capsys.readouterr().err.count("is called generator.kind=rules now") == 1
    run_file = tmp_path / "run.yaml"
    run_file.write_text("generator: {kind: embedded}\n")
    assert load_config(stored=run_file).generator.kind == "rules"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("key", "value", "read"),
    [
        ("memory.base", "./mémoire \U0001f9e0: #1", "./mémoire \U0001f9e0: #1"),
        ("memory.base", Path("models") / "base", "models/base"),
        ("train.lr", 1e-5, 1e-5),
        ("synthesis.steps", ("direct", "indirect"), ["direct", "indirect"]),
    ],
)
def test_settings_of_a_program_arrive_as_they_are(key, value, read):
    assert lookup(load_config((), {key: value}), key) == read


def test_wrong_settings_of_a_program_are_refused():
    with pytest.raises(UsageError, match=r"settings: train\.epochs=None has the wrong type"):
        load_config((), {"train.epochs": None})
    with pytest.raises(UsageError, match=r"settings: .*object"):
        load_config((), {"train.epochs": object()})
