"""P5: a T5 whose encoder also knows which pieces belong to one word.

The whole-word ids are worked out inside the model from the input ids, so that training, validation
and generation can't use them differently, unless the configuration says so.
"""

from __future__ import annotations

from functools import wraps
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    T5Config,
    T5ForConditionalGeneration,
    T5Tokenizer,
)
from transformers import initialization as init
from transformers.models.t5.modeling_t5 import T5Stack

from p5_t5.modeling.dropout import use_byte_dropout
from p5_t5.modeling.training import target_loss

# P5's table has 512 rows; a longer input shares the last one.
WHOLE_WORDS = 512


class P5Config(T5Config):
    """T5's configuration with four more fields.

    Attributes:
        whole_word_embeddings: add an embedding of the word's number to each piece of the input.
        whole_words_in_training_only: leave that embedding out in evaluation mode.
        tie_lm_head: use the input embeddings as output layer, as T5 1.0 does. What enters it is
            scaled as there, unless ``scale_decoder_outputs`` says otherwise.
        embedding_std: deviation of the initial embeddings and output layer; T5's own is 1.0, from
            which a small model hardly learns in its first minutes.
    """

    model_type = "p5"

    whole_word_embeddings: bool = True
    whole_words_in_training_only: bool = False
    tie_lm_head: bool = False
    embedding_std: float = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        """Scales the output as T5 does where nothing else is said: if the head is tied."""
        scale = kwargs.pop("scale_decoder_outputs", self.tie_lm_head)
        super().__post_init__(**kwargs)
        # T5Config derives this from a flag that it overwrites, so a reloaded file would lose it.
        self.scale_decoder_outputs = scale


class _Initialised:
    """Initialises every module of a model that is defined outside of transformers.

    There, transformers skips a module without parameters of its own (its test "all of them are
    loaded" holds for none), which are the very ones at which T5 initialises what lies below: the
    whole model would be left with a deviation of 1. Nothing that was loaded is drawn anew, since
    ``transformers.initialization`` looks at each parameter's own mark.
    """

    def _initialize_weights(self, module: nn.Module, is_custom_code: bool = False) -> None:
        super()._initialize_weights(module, is_custom_code=False)  # type: ignore[misc]


class WholeWords(nn.Module):
    """An embedding of each piece's word number."""

    def __init__(self, config: P5Config) -> None:
        """Makes the table, and room to say which tokens start a word."""
        super().__init__()
        self.special = (config.pad_token_id, config.eos_token_id)
        self.embedding = nn.Embedding(WHOLE_WORDS, config.d_model)
        self.register_buffer("starts", torch.zeros(config.vocab_size, dtype=torch.bool))
        self.starts: torch.Tensor

    def numbers(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The number of each piece's word, counted from one; 0 for the end and padding.

        Args:
            input_ids: shape (batch, length).

        Returns:
            Shape (batch, length).
        """
        pad, end = self.special
        numbers = self.starts[input_ids].cumsum(-1).clamp_(max=WHOLE_WORDS - 1)
        return numbers.masked_fill_((input_ids == pad) | (input_ids == end), 0)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Shape (batch, length) to (batch, length, d_model)."""
        embedded: torch.Tensor = self.embedding(self.numbers(input_ids))
        return embedded


class P5Encoder(_Initialised, T5Stack):
    """T5's encoder with whole-word embeddings."""

    def __init__(self, config: P5Config) -> None:
        """Adds the table of word numbers."""
        super().__init__(config)
        self.whole_words = WholeWords(config)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, WholeWords):
            # Zero, so that a checkpoint without the table starts as exactly itself.
            init.zeros_(module.embedding.weight)
            init.zeros_(module.starts)

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """What the first layer reads: (batch, length) to (batch, length, d_model)."""
        embedded: torch.Tensor = self.embed_tokens(input_ids)
        if self.config.whole_words_in_training_only and not self.training:
            return embedded
        embedded += self.whole_words(input_ids)
        return embedded

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """T5's encoder over the sum of piece and word embeddings, shapes as in T5."""
        if input_ids is not None and inputs_embeds is None:
            inputs_embeds = self.embed(input_ids)
            input_ids = None
        return super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            **kwargs,
        )


class P5ForConditionalGeneration(_Initialised, T5ForConditionalGeneration):
    """T5 with whole-word embeddings and, where wanted, an output layer of its own."""

    config_class = P5Config
    config: P5Config

    def __init__(self, config: P5Config) -> None:
        """Builds T5 and puts P5's encoder in the place of T5's."""
        if not config.tie_lm_head:
            # Before T5 ties the weights for good.
            self._tied_weights_keys = {
                name: source
                for name, source in T5ForConditionalGeneration._tied_weights_keys.items()
                if name != "lm_head.weight"
            }
        super().__init__(config)
        if config.whole_word_embeddings:
            self.encoder: T5Stack = P5Encoder(self.encoder.config)
            self.post_init()
        use_byte_dropout(self)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.embedding_std
        if isinstance(module, P5ForConditionalGeneration):
            init.normal_(module.shared.weight, mean=0.0, std=std)
            if not self.config.tie_lm_head:
                init.normal_(module.lm_head.weight, mean=0.0, std=std)

    # Generation reads T5's signature to know what the model takes.
    @wraps(T5ForConditionalGeneration.forward)
    def forward(self, *args: Any, weights: torch.Tensor | None = None, **kwargs: Any) -> Any:
        """T5's own; with ``weights`` of the labels the loss of ``training.target_loss``."""
        if weights is None:
            return super().forward(*args, **kwargs)
        return self._target_loss(weights, *args, **kwargs)

    def _target_loss(
        self,
        weights: torch.Tensor,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        labels: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        p5 = isinstance(self.encoder, P5Encoder)
        embed = self.encoder.embed if p5 else self.encoder.embed_tokens
        return target_loss(self, embed(input_ids), attention_mask, labels, weights)

    def set_word_starts(self, starts: npt.NDArray[np.bool_]) -> None:
        """Tells the encoder which tokens start a word, shape (vocabulary,)."""
        if isinstance(self.encoder, P5Encoder):
            table = self.encoder.whole_words.starts
            table.zero_()
            table[: len(starts)] = torch.from_numpy(starts)

    def resize_vocabulary(self, size: int) -> None:
        """Makes room for added tokens; new rows are drawn as widely as the old ones lie."""
        old = self.config.vocab_size
        if size <= old:
            return
        self.resize_token_embeddings(size, mean_resizing=False)
        with torch.no_grad():
            for weight in (self.shared.weight, self.lm_head.weight):
                weight[old:].normal_(std=float(weight[:old].std()))
        if isinstance(self.encoder, P5Encoder):
            starts = torch.zeros(size, dtype=torch.bool, device=self.device)
            self.encoder.whole_words.starts = starts


def is_p5(checkpoint: str) -> bool:
    """Whether a checkpoint, a folder or a name on the Hub, is a P5 and no other T5.

    Raises:
        ValueError: there is no such model, or it is not a T5.
    """
    try:
        given = AutoConfig.from_pretrained(checkpoint)
    except OSError as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"{checkpoint}: no model can be read there: {reason}") from error
    if not isinstance(given, T5Config):
        raise ValueError(f"{checkpoint}: expected a T5 or P5 model, found {given.model_type!r}")
    return isinstance(given, P5Config)


def build_model(config: P5Config, checkpoint: str | None = None) -> P5ForConditionalGeneration:
    """A model from scratch, or one that starts from the weights of a T5 checkpoint.

    Args:
        config: its shape, and with a checkpoint only what it says of whole words and dropout.
        checkpoint: a folder or a name on the Hub of any T5 or P5.

    Raises:
        ValueError: the checkpoint is not a T5.
    """
    if checkpoint is None:
        return P5ForConditionalGeneration(config)
    kind = P5ForConditionalGeneration if is_p5(checkpoint) else T5ForConditionalGeneration
    theirs = kind.from_pretrained(checkpoint)
    # T5 1.0 ties its output layer and scales what enters it; 1.1 does neither. Only the loaded
    # weights say it for sure, as the configuration claims a tie for both.
    same = torch.equal(theirs.lm_head.weight, theirs.shared.weight)
    given = theirs.config
    ours_alone = ("whole_word_embeddings", "whole_words_in_training_only", "dropout_rate")
    left_out = ("model_type", "architectures", "tie_lm_head", *ours_alone)
    fields = {name: value for name, value in given.to_dict().items() if name not in left_out}
    fields |= {name: getattr(config, name) for name in ours_alone}
    ours = P5ForConditionalGeneration(P5Config(**fields, tie_lm_head=same))
    _, unknown = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not unknown or not config.whole_word_embeddings
    return ours


AutoConfig.register("p5", P5Config)
AutoModelForSeq2SeqLM.register(P5Config, P5ForConditionalGeneration)
AutoTokenizer.register(P5Config, T5Tokenizer)
