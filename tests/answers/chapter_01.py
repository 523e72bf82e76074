"""Chapter 01: other right answers, and wrong ones without a name of their own."""

import torch
from torch.distributions import Categorical, kl_divergence

RIGHT = {
    "kl": {
        "torch.distributions": lambda p, q: kl_divergence(Categorical(p), Categorical(q)),
    },
}
WRONG = {
    "kl": {
        "small probabilities masked": (
            lambda p, q: torch.where(p > 1e-3, p * (p.clamp(min=1e-30) / q).log(), 0).sum(-1),
            "not",
        ),
    },
}
