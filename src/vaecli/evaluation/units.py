"""What a loss means: a sentence about it, its lower bound, and bits per dimension."""

from __future__ import annotations

import math

import numpy as np
import torch

from vaecli.config import Binarize, ModelConfig
from vaecli.data.dataset import Images
from vaecli.model.likelihoods import LIKELIHOODS
from vaecli.model.network import FLOW_COUPLINGS, PRIOR_COMPONENTS


def bits_per_dim(nats: float, pixels: int) -> float:
    """Nats per image as bits per pixel value: nats / (D ln 2)."""
    return nats / (pixels * math.log(2))


def entropy_floor(images: Images) -> float:
    """Entropy of the grey levels in nats per image: the lowest possible grey-scale BCE."""
    counts = torch.zeros(256, dtype=torch.float64)
    for part in images.parts():
        counts += torch.from_numpy(np.bincount(part.ravel(), minlength=256))
    probability = torch.arange(256, dtype=torch.float64) / 255
    entropy = -torch.special.xlogy(probability, probability)
    entropy -= torch.special.xlogy(1 - probability, 1 - probability)
    return float((counts * entropy).sum()) / len(images)


def describe(config: ModelConfig, binarize: Binarize = "none") -> str:
    """Sentences on what the loss of this model measures."""
    bernoulli = config.likelihood == "bernoulli"
    given = f" {CONDITIONAL}" if config.classes else ""
    return _PROTOCOLS[binarize if bernoulli else config.likelihood] + given


def measure(config: ModelConfig, binarize: Binarize) -> str:
    """What the loss measures; only losses of one measure compare."""
    given = ", of an image given its label" if config.classes else ""
    if config.likelihood == "bernoulli":
        return f"Bernoulli, binarize {binarize}{given}"
    return ("probability of 256 levels" if has_levels(config) else "density in [0, 1]") + given


def is_grey(config: ModelConfig, binarize: Binarize) -> bool:
    """Whether the loss is the grey-scale BCE, which is not a normalised likelihood."""
    return config.likelihood == "bernoulli" and binarize == "none"


def has_levels(config: ModelConfig) -> bool:
    """Whether the likelihood is over 256 grey levels, so that bits per dimension are defined."""
    return LIKELIHOODS[config.likelihood].levels


PRIORS = {
    "normal": "N(0, I)",
    "gmm": "mixture of Gaussians fitted to the latents of training images",
    "mixture": f"learned mixture of {PRIOR_COMPONENTS} Gaussians",
    "flow": f"learned flow of {FLOW_COUPLINGS} couplings",
}
"""What each prior is, by name."""


def about_prior(name: str) -> str:
    """What is to be known of numbers under a prior other than N(0, I), after a sentence."""
    if name == "normal":
        return ""
    normal = "N(0, I)" if name == "gmm" else "the normal of the prior's mean and variance there"
    return (
        f" Prior: {PRIORS[name]}. The rate is a Monte Carlo estimate, at the draw of the"
        f" distortion; kl_per_dim is the KL to {normal}, and does not add up to it."
    )


CONDITIONAL = "All numbers are of log p(x|label), the class of each image being given."
"""What is to be known of the numbers of a model with `--condition labels`."""

_PROTOCOLS = {
    "none": (
        "Grey-scale BCE: pixels in [0, 1] under a Bernoulli; an upper bound on the expected"
        " loss of dynamically binarized images, not a normalised likelihood of the grey ones."
    ),
    "dynamic": (
        "Dynamic binarization: each pixel drawn black or white with its grey level's probability,"
        " once for this evaluation; Bernoulli likelihood of the binary images."
    ),
    "static": (
        "Static binarization: each pixel drawn black or white once, from vaecli's own constant (not"
        " the files of Larochelle); Bernoulli likelihood of the binary images."
    ),
    "continuous-bernoulli": (
        "Density of grey levels in [0, 1] under a continuous Bernoulli, without dequantization:"
        " nats of a density, which may be negative and cannot be compared with a Bernoulli loss."
    ),
    "gaussian": (
        "Density of grey levels in [0, 1] under a Gaussian with one learned sigma, without"
        " dequantization: nats of a density, which may be negative and compare with no Bernoulli"
        " loss."
    ),
    "logistic": "Probability of the 256 grey levels under a discretized logistic.",
    "logistic-mixture": (
        "Probability of the 256 levels of every value under a discretized mixture of logistics"
        " with coupled channels."
    ),
}
