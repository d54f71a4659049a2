"""Names of the classes of published sets; their files hold numbers only."""

from __future__ import annotations

import string

_NAMES = {
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    # letters begin with label 1; what looks alike as capital and small letter is one class
    "emnist-letters": ("", *string.ascii_lowercase),
    "emnist-balanced": (*string.digits, *string.ascii_uppercase, *"abdefghnqrt"),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
}


def class_names(name: str) -> dict[int, str]:
    """Names of the classes of the set `name` by label; empty where they are called by numbers."""
    return {label: text for label, text in enumerate(_NAMES.get(name, ())) if text}
