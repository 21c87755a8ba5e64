"""What the optimiser moves, how fast, and what decays."""

from __future__ import annotations

import torch

from p5_t5.modeling.p5 import P5Config, P5ForConditionalGeneration
from p5_t5.modeling.parameter_groups import parameter_groups


def test_queries_move_slower_by_the_root_of_their_width_and_norms_do_not_decay() -> None:
    shape = {"d_model": 16, "d_ff": 32, "d_kv": 4, "num_heads": 2, "num_layers": 2}
    model = P5ForConditionalGeneration(P5Config(vocab_size=50, **shape))
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, 0.5)
    grouped = [names[id(p)] for group in groups for p in group["params"]]
    assert sorted(grouped) == sorted(names.values())  # each once
    for group in groups:
        for parameter in group["params"]:
            name = names[id(parameter)]
            assert group["rate_scale"] == (0.5 if name.endswith(".q.weight") else 1.0)
            assert group["weight_decay"] == (0.0 if "norm" in name else 0.5)
    torch.optim.AdamW(groups)
