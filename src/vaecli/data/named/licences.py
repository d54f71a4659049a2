"""What the authors of the published sets say about their use, for model cards."""

from __future__ import annotations

LICENCES = {
    "digits": "MIT, as vaecli, which draws them",
    "mnist": "CC BY-SA 3.0",
    "fashion-mnist": "MIT",
    "kmnist": "CC BY-SA 4.0",
    "emnist-letters": "none stated; made from NIST Special Database 19",
    "emnist-balanced": "none stated; made from NIST Special Database 19",
    "omniglot": "MIT",
    "usps": "none stated",
    "svhn": "for non-commercial use only",
    "cifar10": "none stated",
}
