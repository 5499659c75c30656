"""Which precision a training takes, and a bfloat16 training on a CPU from start to export."""

import pytest
from cli import ENCODE_SECONDS, TINY, memo_dist, tiny_corpus

from memo_dist.errors import UsageError
from memo_dist.models.identity import weights_dtype
from memo_dist.models.loading import native_bfloat16
from memo_dist.training import model


@pytest.fixture
def cpu(monkeypatch, request):
    """A machine without GPU whose CPU multiplies bfloat16 itself, or does not."""
    monkeypatch.setattr(model.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(model, "native_bfloat16", lambda: request.param)


@pytest.mark.parametrize("cpu", [True], indirect=True)
@pytest.mark.parametrize(
    ("precision", "width", "expected"),
    [("auto", 576, True), ("auto", 64, False), ("auto", 0, False), ("fp32", 576, False),
     ("bf16", 64, True)],
)  # fmt: skip
def test_auto_takes_bfloat16_where_the_cpu_has_it_and_the_model_is_wide(
    cpu, precision, width, expected
):
    assert model.use_bf16(precision, width) is expected


@pytest.mark.parametrize("cpu", [False], indirect=True)
def test_bfloat16_is_refused_where_it_would_be_emulated(cpu):
    assert not model.use_bf16("auto", 576)
    with pytest.raises(UsageError, match=r"train\.precision=bf16 needs a GPU or a CPU"):
        model.use_bf16("bf16", 576)


@pytest.mark.skipif(not native_bfloat16(), reason="this CPU does not multiply bfloat16 itself")
def test_a_bfloat16_training_on_a_cpu_ends_in_a_verified_export(tmp_path):
    corpus, run = tiny_corpus(tmp_path / "corpus"), tmp_path / "run"
    keys = (*TINY, "train.precision=bf16", "train.epochs=4", "train.trained_layers=1")
    done = memo_dist("encode", corpus, "--run", run, *keys, seconds=ENCODE_SECONDS)
    assert done.returncode == 0, done.stderr
    assert weights_dtype(run / "memory" / "shard-0") == "bfloat16"
    asked = memo_dist("ask", run, "Who runs the company?", "--json")
    assert asked.returncode == 0, asked.stderr
