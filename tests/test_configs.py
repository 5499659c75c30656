"""Every shipped configuration runs as it is, and wrong ones are refused with their key."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml
from cli import memo_dist, tiny_corpus

from memo_dist.cli.main import run as run_cli
from memo_dist.config import Config, load_config, to_yaml
from memo_dist.config.help import describe
from memo_dist.config.load import flatten, known_keys
from memo_dist.config.rules import check_rules, lookup
from memo_dist.config.schema import TrainConfig
from memo_dist.config.shipped import configs_folder, shipped_config
from memo_dist.config.stages import changed_keys, stage_hash
from memo_dist.errors import UsageError
from memo_dist.training.deepspeed_seam import engine_config, read_deepspeed_file, zero_stage

CONFIGS = Path(__file__).parent.parent / "configs"
YAML_FILES = sorted(CONFIGS.rglob("*.yaml"))
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
    ],
)
def test_wrong_overrides(override, expected):
    assert expected in refusal(override)


def test_an_override_below_a_value():
    assert "'lr' was given a value before" in refusal("train.lr=1", "train.lr.x=2")


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
    assert load_config([file]) == Config()


# -- rules -----------------------------------------------------------------------------------------

BAD_VALUES = {
    "corpus.shards": 0,
    "corpus.chunk_chars": 10,
    "corpus.overlap_sentences": -1,
    "corpus.max_document_mb": 0,
    "corpus.max_quarantined_fraction": 1.5,
    "corpus.max_documents": -1,
    "generator.kind": "oracle",
    "generator.structured": "maybe",
    "generator.attempts": 0,
    "generator.urls": ["localhost:8000"],
    "generator.api_key_env": "sk-not-a-name",
    "generator.max_in_flight": 0,
    "generator.requests_per_minute": -1,
    "generator.tokens_per_minute": -1,
    "generator.request_timeout": 0,
    "generator.connect_timeout": 0,
    "generator.retries": -1,
    "generator.patience": 0,
    "generator.hedge_after": -1,
    "generator.hedge_fraction": 2,
    "generator.max_failed_fraction": 1.5,
    "generator.price_prompt": -1,
    "generator.price_cached": -1,
    "generator.price_completion": -1,
    "generator.budget_tokens": -1,
    "generator.budget_money": 5,
    "generator.drain_seconds": -1,
    "synthesis.partitions": 0,
    "synthesis.documents_per_unit": 0,
    "synthesis.steps": ["direkt"],
    "synthesis.phrasings": 0,
    "synthesis.abstain_fraction": -0.1,
    "synthesis.max_rejected_fraction": -0.1,
    "synthesis.extraction": "both",
    "synthesis.call_chars": 100,
    "synthesis.pairs_per_call": 0,
    "synthesis.max_reply_tokens": 10,
    "synthesis.anchors": 0,
    "synthesis.coverage": 1.5,
    "synthesis.coverage_rounds": -1,
    "synthesis.group_documents": 1,
    "synthesis.group_frequency": 1,
    "synthesis.groups_per_document": 0,
    "synthesis.near_duplicate": 2,
    "memory.base": "",
    "memory.max_answer_tokens": 0,
    "memory.calibration_facts": -1,
    "memory.loaded_gb": -1,
    "memory.scratch.vocabulary": 10,
    "memory.scratch.layers": 0,
    "memory.scratch.heads": 3,
    "memory.scratch.hidden_size": 255,
    "train.source": "pdf",
    "train.epochs": -1,
    "train.max_minutes": -1,
    "train.max_steps": -1,
    "train.lr": -1.0,
    "train.schedule": "step",
    "train.warmup_fraction": 2,
    "train.weight_decay": -1,
    "train.betas": [0.9],
    "train.clip": -1,
    "train.batch_tokens": 1000,
    "train.micro_batch_tokens": 8,
    "train.trained_layers": -1,
    "train.zero_stage": 4,
    "train.precision": "fp16",
    "train.checkpoint_minutes": -1,
    "train.checkpoint_steps": -1,
    "train.keep_checkpoints": 0,
    "train.max_failures": -1,
    "train.max_stalled_starts": -1,
    "train.keep_activations_gb": -1,
    "train.method": "qlora",
    "train.lora_rank": 0,
    "train.lora_alpha": 0,
    "train.lora_targets": [],
    "train.dry_batch": "yes",
    "train.eval_steps": -1,
    "train.eval_minutes": -1,
    "train.eval_sample": 0,
    "train.eval_patience": 3,
    "train.eval_target": 0.9,
    "train.select": "recall",
    "export.dtype": "int8",
    "export.refusal": 1.5,
    "export.adapter": "merged",
    "executive.kind": "embedded",
    "executive.structured": "server-side",
    "executive.attempts": 0,
    "executive.urls": ["ftp://host"],
    "executive.api_key_env": "sk-secret",
    "executive.max_in_flight": 0,
    "executive.requests_per_minute": -1,
    "executive.tokens_per_minute": -1,
    "executive.request_timeout": 0,
    "executive.connect_timeout": 0,
    "executive.retries": -1,
    "executive.patience": 0,
    "executive.hedge_after": -1,
    "executive.hedge_fraction": 2,
    "executive.max_reply_tokens": 8,
    "executive.temperature": -1,
    "protocol.variant": "two_turns",
    "protocol.wordings": 0,
    "protocol.questions": 0,
    "protocol.identify_turns": -1,
    "protocol.seek_turns": -1,
    "protocol.pivots": -1,
    "protocol.prune_after": 0,
    "protocol.idle_turns": 0,
    "protocol.max_calls": 1,
    "protocol.max_questions": 0,
    "protocol.max_tokens": -1,
    "protocol.max_seconds": -1,
    "fusion.gate": "lerned",
    "fusion.constant": 1.5,
    "fusion.entropy_slope": -1.0,
    "fusion.examples": 0,
    "fusion.order": "serial",
    "fusion.draft_tokens": -1,
    "fusion.backbone_temperature": 0.0,
    "fusion.memory_temperature": 0.0,
    "fusion.max_lost": 1.5,
    "fusion.latent.every": 0,
    "fusion.latent.memory_layers": [],
    "fusion.latent.heads": 0,
    "fusion.latent.head_width": 0,
    "fusion.latent.examples": 0,
    "fusion.latent.outside": -1.0,
    "fusion.latent.held_out": 1.5,
    "fusion.latent.epochs": 0,
    "fusion.latent.batch": 0,
    "fusion.latent.micro_batch": 0,
    "fusion.latent.lr": 0.0,
    "fusion.latent.distill": -1.0,
    "fusion.latent.locality": -1.0,
    "fusion.latent.noise": -0.5,
    "fusion.latent.places": "answers",
    "evaluate.limit": -1,
    "evaluate.baseline_limit": -1,
    "evaluate.baselines": ["bm24"],
    "evaluate.passages": 0,
    "evaluate.bootstrap": 1,
    "evaluate.batch_size": 0,
    "plan.sample_documents": 0,
    "plan.recall": 1.5,
    "plan.characters": -1,
    "plan.bits_per_character": 0,
    "plan.utilization": 0,
    "plan.ranks": 0,
    "plan.batch": 0,
    "plan.context": 0,
    "plan.backbone_parameters": 0,
    "plan.bootstrap": 1,
    "scale.sources": ["randm"],
    "scale.precision": "fp8",
    "scale.precisions": ["int2"],
    "scale.warmup_fraction": 2,
    "scale.full": 1.5,
    "scale.saturated": -0.1,
    "scale.measurements": 0,
    "scale.checkpoint_minutes": 0,
    "scale.cell_threads": 0,
    "scale.cell_gpu": 2,
    "scale.partitions": 0,
    "scale.max_failures": -1,
    "scale.bootstrap": 1,
    "scale.random.vocabulary": 1,
    "scale.random.length": 0,
    "scale.biographies.text": "poem",
    "scale.biographies.templates": 6,
    "scale.biographies.asked_fraction": 2,
    "scale.biographies.arms": ["noise"],
    "scale.biographies.junk": -1,
    "scale.reflections.documents": [0],
    "scale.reflections.vocabulary": 10,
    "scale.random.sizes": [],
    "scale.random.predict": [10],
    "scale.random.loads": [0],
    "scale.random.predict_loads": [-1],
    "scale.random.exposures": [5, 5],
    "scale.random.seeds": [],
    "scale.random.lr": 0,
    "scale.random.lr_check": [0],
    "scale.random.batch_tokens": 0,
    "scale.random.least_layers": 0,
    "scale.biographies.sizes": [],
    "scale.biographies.predict": [10],
    "scale.biographies.loads": [0],
    "scale.biographies.predict_loads": [-1],
    "scale.biographies.exposures": [5, 5],
    "scale.biographies.seeds": [],
    "scale.biographies.lr": 0,
    "scale.biographies.lr_check": [0],
    "scale.biographies.batch_tokens": 0,
    "scale.biographies.least_layers": 0,
    "scale.reflections.sizes": [],
    "scale.reflections.predict": [10],
    "scale.reflections.loads": [0],
    "scale.reflections.predict_loads": [-1],
    "scale.reflections.exposures": [5, 5],
    "scale.reflections.seeds": [],
    "scale.reflections.lr": 0,
    "scale.reflections.lr_check": [0],
    "scale.reflections.batch_tokens": 0,
    "scale.reflections.least_layers": 0,
    "cluster.launcher": "mpi",
    "cluster.workers": 3,
    "cluster.shards_at_once": -1,
    "cluster.synthesis_workers": -1,
    "cluster.threads": -1,
    "cluster.start_timeout": 0,
    "cluster.nodes": -1,
    "launch.recipe": "rays",
    "launch.nodes": 0,
    "launch.tasks_per_node": -1,
    "launch.gpus_per_node": -1,
    "launch.cpus": -1,
    "launch.minutes": -1,
    "launch.signal_seconds": 1,
    "launch.max_stalled": -1,
    "launch.retries": -1,
    "launch.array_at_once": -1,
    "launch.sbatch": ["qos=high"],
    "launch.setup": ["export API_KEY=sk-1"],
    "launch.mounts": ["data"],
    "launch.container_runtime": "docker",
    "launch.ray_start": "slurm",
    "launch.queue_minutes": 0,
    "launch.job_name": "two words",
    "launch.memory": "64 G",
    "launch.partition": "a b",
    "launch.account": "a b",
    "launch.container": "$(x)",
    "launch.log_folder": "`x`",
    "launch.ray_address": "'",
    "launch.rendezvous": "a\nb",
    "track.to": ["tensorbord"],
}


@pytest.mark.parametrize(("key", "value"), BAD_VALUES.items(), ids=BAD_VALUES)
def test_a_bad_value_is_refused_by_its_key(key, value):
    message = refusal(f"{key}={json.dumps(value)}")
    assert key in message
    check_rules(Config())


def test_every_number_and_choice_has_a_bad_value():
    """A new key needs a rule, or a place in this list of keys that take anything."""
    free = {
        "run.seed",
        "generator.model",
        "generator.recording",
        "executive.model",
        "executive.recording",
        "synthesis.max_question_chars",
        "synthesis.max_answer_chars",
        "memory.scratch.intermediate_size",
        "train.gradient_checkpointing",
        "train.async_checkpoint",
        "train.compile",
        "train.deepspeed",
        "cluster.address",
        "launch.questions",
        "track.project",
        "export.reword",
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
    }
    assert set(known_keys()) == set(BAD_VALUES) | free


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
    "scale": (),
    "track": (),
}
NO_IDENTITY = {
    "corpus.max_quarantined_fraction",
    "generator.urls",
    "generator.api_key_env",
    "generator.recording",
    "generator.max_in_flight",
    "generator.requests_per_minute",
    "generator.tokens_per_minute",
    "generator.request_timeout",
    "generator.connect_timeout",
    "generator.retries",
    "generator.patience",
    "generator.hedge_after",
    "generator.hedge_fraction",
    "generator.max_failed_fraction",
    "generator.price_prompt",
    "generator.price_cached",
    "generator.price_completion",
    "generator.budget_tokens",
    "generator.budget_money",
    "generator.drain_seconds",
    "synthesis.max_rejected_fraction",
    "memory.loaded_gb",
    "train.checkpoint_minutes",
    "train.checkpoint_steps",
    "train.keep_checkpoints",
    "train.max_failures",
    "train.async_checkpoint",
    "train.max_stalled_starts",
    "train.dry_batch",
    "train.zero_stage",
    "train.deepspeed",
    "train.gradient_checkpointing",
    "train.compile",
}


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


@pytest.mark.parametrize("key", known_keys())
def test_a_key_changes_the_hash_of_exactly_its_stages(key):
    reaches = () if key in NO_IDENTITY else GROUP_REACHES[key.split(".")[0]]
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
