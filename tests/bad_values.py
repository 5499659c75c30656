"""Values that a configuration's rules refuse: from the schema for its bounds and choices, and by
hand for the rules that span keys."""

from memo_dist.config.keys import key_specs
from memo_dist.config.rules import lookup
from memo_dist.config.schema import Config

SPANNING = {
    "corpus.languages": ["German"],
    "generator.urls": ["localhost:8000"],
    "generator.api_key_env": "sk-not-a-name",
    "generator.budget_money": 5,
    "synthesis.steps": ["direkt"],
    "memory.base": "",
    "memory.scratch.heads": 3,
    "memory.scratch.hidden_size": 255,
    "train.betas": [0.9],
    "train.batch_tokens": 1000,
    "train.zero_stage": 4,
    "train.lora_targets": [],
    "train.eval_patience": 3,
    "train.eval_target": 0.9,
    "train.select": "recall",
    "train.replay": 1,
    "train.replay_text": "text.txt",
    "train.anchor_kl": 0.5,
    "train.held_out_questions": "people.jsonl",
    "executive.urls": ["ftp://host"],
    "executive.api_key_env": "sk-secret",
    "fusion.latent.memory_layers": [],
    "scale.reflections.documents": [0],
    "scale.reflections.vocabulary": 10,
    "scale.random.sizes": [],
    "scale.random.predict": [10],
    "scale.random.exposures": [5, 5],
    "scale.random.seeds": [],
    "scale.biographies.sizes": [],
    "scale.biographies.predict": [10],
    "scale.biographies.exposures": [5, 5],
    "scale.biographies.seeds": [],
    "scale.reflections.sizes": [],
    "scale.reflections.predict": [10],
    "scale.reflections.exposures": [5, 5],
    "scale.reflections.seeds": [],
    "serve.consolidate_at": "3 am",
    "serve.modes": [],
    "serve.host": "",
    "serve.hosts": ["https://memory.example"],
    "serve.tls_cert": "cert.pem",
    "serve.tls_key": "key.pem",
    "serve.max_replicas": 2,
    "serve.replica_gpus": 1.5,
    "serve.vllm_urls": ["localhost:8000"],
    "serve.vllm_api_key_env": "sk-not-a-name",
    "serve.vllm_command": "",
    "cluster.workers": 3,
    "launch.sbatch": ["qos=high"],
    "launch.setup": ["export API_KEY=sk-1"],
    "launch.mounts": ["data"],
    "launch.job_name": "two words",
    "launch.memory": "64 G",
    "launch.partition": "a b",
    "launch.account": "a b",
    "launch.container": "$(x)",
    "launch.log_folder": "`x`",
    "launch.ray_address": "'",
    "launch.rendezvous": "a\nb",
}
"""For each key with a rule of its own, a value that breaks it."""


def schema_cases():
    """(key, bad value, the message's end) for every bound and every list of words."""
    return [(key, *case) for key, spec in key_specs(Config).items() for case in _cases(key, spec)]


def _cases(key, spec):
    def item(value):
        return [value] if isinstance(lookup(Config(), key), list) else value

    if spec.at_least is not None:
        yield item(spec.at_least - 1), f"must be at least {spec.at_least:g}"
    if spec.above is not None:
        yield item(spec.above), f"must be above {spec.above:g}"
    if spec.between is not None:
        low, high = spec.between
        for value in (low - 1, high + 1):
            yield item(value), f"must be from {low} to {high}"
    if spec.fraction:
        for value in (-0.1, 1.5):
            yield item(value), "must lie between 0 and 1"
    if spec.choices:
        yield f"{spec.choices[0]}x", f"must be one of {', '.join(spec.choices)}"
    if spec.names:
        yield [f"{spec.names[0]}x"], f"names are {', '.join(spec.names)}"
