"""The examples of a packed row get what each gets alone, whatever the base's architecture."""

import pytest
import torch
from architectures import APART, PACKED, tiny

from memo_dist.config.schema import TrainConfig
from memo_dist.errors import UsageError
from memo_dist.training import attention, rows
from memo_dist.training.model import load_rank_model, use_bf16
from memo_dist.training.rows import keeps_apart, run_row, set_packed_attention

LENGTHS = [8, 5, 7]


def row() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, 128, (sum(LENGTHS),), generator=torch.Generator().manual_seed(1))
    return ids, torch.cat([torch.arange(length) for length in LENGTHS])[None]


def alone(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat(
            [model(input_ids=one[None], use_cache=False).logits[0] for one in ids.split(LENGTHS)]
        )


@pytest.mark.parametrize("name", [*PACKED, *APART])
def test_a_row_equals_its_examples(name: str, caplog):
    model, (ids, positions) = tiny(name), row()
    expected = alone(model, ids)
    packed = set_packed_attention(model)
    assert packed == (name in PACKED)
    assert packed == ("padded batch" not in caplog.text)
    with torch.no_grad():
        found = run_row(lambda **v: model(**v).logits, ids[None], positions, LENGTHS, packed)[0]
    assert (found - expected).abs().max() <= 1e-4 * expected.std()


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["llama", "lfm2"])
def test_a_short_convolution_is_found_in_any_precision(name: str, kind: torch.dtype):
    model = tiny(name).to(kind)
    with torch.no_grad():  # as large as a trained one
        for key, value in model.named_parameters():
            if "conv" in key:
                value.mul_(20)
    assert set_packed_attention(model) == (name == "llama")


def test_a_model_that_looks_ahead_is_refused():
    with pytest.raises(UsageError, match=r"memory\.base: .* later tokens in Bert"):
        set_packed_attention(tiny("bert"))


@pytest.mark.parametrize("name", ["lfm2", "mpt", "gemma2"])
def test_losses_and_gradients_are_those_of_the_examples(name: str, tmp_path):
    tiny(name).save_pretrained(tmp_path)
    ids, positions = row()
    rows = load_rank_model(tmp_path, TrainConfig(micro_batch_tokens=64, precision="fp32")).rows
    rows.eval()
    keep = torch.cat([torch.arange(a, a + n - 1) for a, n in zip((0, 8, 13), LENGTHS, strict=True)])
    loss = rows(ids[None], positions, LENGTHS, keep, ids[keep + 1])
    loss.backward()
    plain = tiny(name)
    logits = torch.cat(
        [plain(input_ids=one[None], use_cache=False).logits[0] for one in ids.split(LENGTHS)]
    )
    expected = torch.nn.functional.cross_entropy(logits[keep], ids[keep + 1], reduction="sum")
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    other = dict(plain.named_parameters())
    for key, value in rows.model.named_parameters():
        torch.testing.assert_close(value.grad, other[key].grad, rtol=1e-3, atol=1e-3)


def test_frozen_layers_of_a_mixing_model_are_run_apart(tmp_path):
    tiny("lfm2").save_pretrained(tmp_path)
    train = TrainConfig(micro_batch_tokens=64, precision="fp32", trained_layers=1)
    loaded = load_rank_model(tmp_path, train, keep_activations=True)
    assert loaded.frozen is not None
    ids, positions = row()
    with torch.no_grad():
        states = loaded.frozen.run(ids[None], positions, LENGTHS)
        first = loaded.frozen.run(ids[None, 8:13], positions[:, 8:13], [5])
    torch.testing.assert_close(states[:, 8:13], first)


def test_what_differs_from_the_example_alone_is_found():
    model = tiny("llama")
    wrong = [torch.zeros(9, 128), torch.zeros(6, 128)]
    assert not keeps_apart(model, wrong)


@pytest.mark.parametrize(("tokens", "kept"), [(1, True), (6, False)])
def test_a_token_where_rounding_decides_does_not_make_a_model_one_that_mixes(tokens, kept):
    """Two kernels in bfloat16 part at single tokens of real weights, by up to 0.9 deviations."""
    model = tiny("llama").to(torch.bfloat16)
    first, second = rows._tried(model, rows._SEED)
    with torch.no_grad():
        alone = [model(input_ids=one[None], use_cache=False).logits[0] for one in (first, second)]
    assert set_packed_attention(model)
    alone[1][:tokens] += 0.9 * alone[1].std() * torch.randn(alone[1][:tokens].shape)
    assert keeps_apart(model, alone) is kept


def refused(*arguments):
    raise RuntimeError("FlashAttention only support fp16 and bf16 data type")


@pytest.mark.parametrize(
    ("dtype", "width", "capability"),
    [(torch.float32, 16, (9, 0)), (torch.bfloat16, 20, (9, 0)), (torch.bfloat16, 16, (7, 5))],
)
def test_what_the_gpu_kernel_does_not_take_goes_example_by_example(
    monkeypatch, dtype, width, capability
):
    monkeypatch.setattr(attention, "_gpu_kernel", lambda: refused)
    monkeypatch.setattr(attention, "_is_ampere", lambda device: capability >= (8, 0))
    torch.manual_seed(0)
    query = torch.randn(1, 4, sum(LENGTHS), width, dtype=dtype)
    key, value = (torch.randn(1, 2, sum(LENGTHS), width, dtype=dtype) for _ in "kv")
    ends = torch.tensor([0, *LENGTHS]).cumsum(0)
    found = attention._on_gpu(query, key, value, ends, max(LENGTHS), None, None)
    expected, _ = attention.packed_attention(
        torch.nn.Identity(), query, key, value, None, **attention.borders(LENGTHS, query.device)
    )
    torch.testing.assert_close(found, expected)
    monkeypatch.setattr(attention, "_is_ampere", lambda device: True)
    half = [part[..., :16].bfloat16() for part in (query, key, value)]
    with pytest.raises(RuntimeError, match="FlashAttention"):
        attention._on_gpu(*half, ends, max(LENGTHS), None, None)


def test_bfloat16_that_a_gpu_only_emulates_is_not_used(monkeypatch):
    """PyTorch says of a T4 that it supports bfloat16: it emulates it, and its attention cannot."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation
    )
    monkeypatch.setattr("memo_dist.training.model.native_bfloat16", lambda: False)
    assert not use_bf16("auto", 576)
    with pytest.raises(UsageError, match="bf16 needs a GPU"):
        use_bf16("bf16", 576)
