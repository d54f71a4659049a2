"""Names of the classes of published sets; their files hold numbers only."""

from __future__ import annotations

_NAMES = {
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "kmnist": ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
}


def class_names(name: str) -> dict[int, str]:
    """Names of the classes of the set `name` by label; empty where they are called by numbers."""
    return dict(enumerate(_NAMES.get(name, ())))
