"""The encoder without padding against the model's own."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import T5Config, T5ForConditionalGeneration

from p5_t5.decoding import layers
from p5_t5.decoding.encoder import Encoded, encode
from p5_t5.modeling.p5 import P5Config, P5ForConditionalGeneration

SHAPE = {
    "vocab_size": 30, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_heads": 2, "num_layers": 3,
    "decoder_start_token_id": 0,
}  # fmt: skip


@pytest.fixture(scope="module", params=["t5", "gated", "p5"])
def model(request: pytest.FixtureRequest) -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    if request.param == "p5":
        model = P5ForConditionalGeneration(P5Config(**SHAPE)).eval()
        torch.nn.init.normal_(model.encoder.whole_words.embedding.weight)
        model.encoder.whole_words.starts[::3] = True
        return model
    kind = "gated-gelu" if request.param == "gated" else "relu"
    return T5ForConditionalGeneration(T5Config(**SHAPE, feed_forward_proj=kind)).eval()


def inputs_of(lengths: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(sum(lengths))
    ids = torch.randint(2, 30, (len(lengths), max(lengths)), generator=generator)
    mask = (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long()
    return ids * mask, mask


@pytest.mark.parametrize("few", [0, 2**22], ids=["fused", "products"])
@settings(deadline=None, max_examples=15)
@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_its_states_are_the_models_own(
    model: T5ForConditionalGeneration, few: int, lengths: list[int]
) -> None:
    ids, mask = inputs_of(lengths)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layers, "_FEW_SCORES", few)
        encoded = encode(model, ids, mask)
    with torch.no_grad():
        theirs = model.get_encoder()(input_ids=ids, attention_mask=mask)[0]
    real = mask.flatten().bool()
    if len(encoded.states) == mask.numel():  # hardly any padding: it stayed
        assert sum(lengths) > 0.9 * mask.numel()
        states = encoded.states[real]
    else:
        states = encoded.states
    torch.testing.assert_close(states, theirs.flatten(0, 1)[real], atol=1e-5, rtol=1e-4)


def test_states_of_another_encoder_lose_their_padding() -> None:
    states = torch.arange(12.0).view(2, 3, 2)
    encoded = Encoded.of(states, torch.tensor([[1, 1, 1], [1, 0, 0]]))
    assert encoded.states.tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert len(encoded) == 2
    whole = Encoded.of(states, torch.ones(2, 3))
    assert whole.ragged.key_bias(states.dtype) is None
    masked = encoded.ragged.key_bias(states.dtype)
    assert masked is not None and (masked[:, 0, 0] < 0).tolist() == [
        [False] * 3,
        [False, True, True],
    ]
    assert whole.states.shape == (6, 2)
