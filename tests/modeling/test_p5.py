from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, T5Config, T5ForConditionalGeneration

from p5_t5.modeling.p5 import P5Config, P5ForConditionalGeneration, build_model

SHAPE = {
    "vocab_size": 60,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_heads": 4,
    "num_layers": 2,
    "decoder_start_token_id": 0,
}
IDS = torch.tensor([[5, 6, 7, 8, 1], [9, 10, 1, 0, 0]])
MASK = (IDS != 0).long()
TARGET = torch.tensor([[0, 3, 4], [0, 5, 6]])


def logits(model: T5ForConditionalGeneration) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        out = model(input_ids=IDS, attention_mask=MASK, decoder_input_ids=TARGET)
    return out.logits


def lively(config: P5Config) -> P5ForConditionalGeneration:
    """A model whose word embeddings are no longer zero."""
    model = P5ForConditionalGeneration(config)
    model.set_word_starts(np.arange(config.vocab_size) % 2 == 1)
    if config.whole_word_embeddings:
        torch.nn.init.normal_(model.encoder.whole_words.embedding.weight)
    return model


def test_every_module_is_initialised_as_t5_does() -> None:
    """Attention and feed-forward layers, which transformers passes over in classes not its own."""
    torch.manual_seed(0)
    ours = P5ForConditionalGeneration(P5Config(**SHAPE))
    theirs = T5ForConditionalGeneration(T5Config(**SHAPE))
    deviations = {n: p.std().item() for n, p in theirs.named_parameters() if p.dim() > 1}
    for name, parameter in ours.named_parameters():
        if name in ("shared.weight", "lm_head.weight"):
            assert parameter.std().item() == pytest.approx(0.1, rel=0.1)
        elif name in deviations:
            assert parameter.std().item() == pytest.approx(deviations[name], rel=0.35), name


@pytest.mark.parametrize(("tied", "scaled"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("whole_words", [True, False])
def test_a_saved_model_loads_as_itself(
    tmp_path: Path, tied: bool, scaled: bool, whole_words: bool
) -> None:
    config = P5Config(
        **SHAPE,
        tie_lm_head=tied,
        scale_decoder_outputs=scaled,
        whole_word_embeddings=whole_words,
    )
    model = lively(config)
    assert model.config.scale_decoder_outputs == scaled
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert isinstance(loaded, P5ForConditionalGeneration)
    assert (loaded.lm_head.weight is loaded.shared.weight) == tied
    torch.testing.assert_close(logits(loaded), logits(model), rtol=0, atol=0)


def test_word_numbers_follow_p5s_rule() -> None:
    model = P5ForConditionalGeneration(P5Config(**SHAPE))
    starts = np.zeros(60, dtype=bool)
    starts[[5, 8, 9]] = True
    model.set_word_starts(starts)
    numbers = model.encoder.whole_words.numbers(IDS)
    assert numbers.tolist() == [[1, 1, 1, 2, 0], [1, 1, 0, 0, 0]]


def test_word_numbers_stop_at_the_last_row_of_the_table() -> None:
    model = P5ForConditionalGeneration(P5Config(**SHAPE))
    model.set_word_starts(np.ones(60, dtype=bool))
    numbers = model.encoder.whole_words.numbers(torch.full((1, 700), 5))
    assert numbers.max() == 511


def test_generation_uses_the_word_embeddings_as_training_does() -> None:
    model = lively(P5Config(**SHAPE)).eval()
    out = model.generate(
        input_ids=IDS,
        attention_mask=MASK,
        max_new_tokens=2,
        min_new_tokens=2,
        output_logits=True,
        return_dict_in_generate=True,
    )
    decoder = out.sequences[:, :-1]
    with torch.no_grad():
        forced = model(input_ids=IDS, attention_mask=MASK, decoder_input_ids=decoder).logits
    torch.testing.assert_close(torch.stack(out.logits, 1), forced, atol=1e-4, rtol=1e-4)
    torch.nn.init.normal_(model.encoder.whole_words.embedding.weight, std=9.0)
    assert not torch.allclose(logits(model), forced[:, :2].mean(), atol=1e-2)


@pytest.mark.parametrize("form", ["relu", "gated-gelu"])
def test_a_t5_checkpoint_starts_as_exactly_itself(tmp_path: Path, form: str) -> None:
    torch.manual_seed(0)
    # T5 1.0 scales its output; 1.1, whose files say that nothing is tied, does not.
    extra = {} if form == "relu" else {"tie_word_embeddings": False}
    theirs = T5ForConditionalGeneration(T5Config(**SHAPE, feed_forward_proj=form, **extra))
    theirs.save_pretrained(tmp_path)
    reloaded = T5ForConditionalGeneration.from_pretrained(tmp_path)
    ours = build_model(P5Config(), str(tmp_path))
    ours.set_word_starts(np.ones(60, dtype=bool))
    torch.testing.assert_close(logits(ours), logits(reloaded), rtol=0, atol=0)
    own = build_model(P5Config(dropout_rate=0.37), str(tmp_path))
    rates = {module.p for module in own.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates == {0.37} == {own.config.dropout_rate}


def test_new_tokens_keep_the_old_rows() -> None:
    model = lively(P5Config(**SHAPE))
    before = model.shared.weight.detach().clone(), model.lm_head.weight.detach().clone()
    model.resize_vocabulary(75)
    assert model.config.vocab_size == 75
    assert model.shared.weight.shape == model.lm_head.weight.shape == (75, 32)
    torch.testing.assert_close(model.shared.weight[:60], before[0])
    torch.testing.assert_close(model.lm_head.weight[:60], before[1])
    assert model.shared.weight[60:].std().item() == pytest.approx(0.1, rel=0.3)


def test_only_a_t5_can_be_a_checkpoint(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(ValueError, match="expected a T5 or P5 model, found 'bert'"):
        build_model(P5Config(), str(tmp_path))


def test_whole_words_may_be_known_in_training_alone() -> None:
    left_out = lively(P5Config(**SHAPE, dropout_rate=0.0, whole_words_in_training_only=True))
    known = P5ForConditionalGeneration(P5Config(**SHAPE, dropout_rate=0.0))
    known.load_state_dict(left_out.state_dict())
    inputs = {"input_ids": IDS, "attention_mask": MASK, "decoder_input_ids": TARGET}
    for training in (True, False):
        with torch.no_grad():
            ours, theirs = (m.train(training)(**inputs).logits for m in (left_out, known))
        assert torch.allclose(ours, theirs) == training
    torch.nn.init.zeros_(known.encoder.whole_words.embedding.weight)
    assert torch.equal(logits(left_out), logits(known))
