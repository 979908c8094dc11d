"""What the classes of the known data sets are called."""

import string

_NAMES: dict[str, tuple[str, ...]] = {
    # Xiao, Rasul and Vollgraf 2017 (arXiv:1708.07747), table 2.
    "fashion-mnist": (
        "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
    ),
}  # fmt: skip

# EMNIST's order (Cohen et al. 2017, arXiv:1702.05373), which LEAF's FEMNIST has too.
_CHARACTERS = (*string.digits, *string.ascii_uppercase, *string.ascii_lowercase)


def class_names(dataset: str, num_classes: int) -> tuple[str, ...]:
    """A name a class; numbers where none are known."""
    known = _NAMES.get(dataset, _CHARACTERS if "femnist" in dataset else ())
    return known if len(known) == num_classes else tuple(map(str, range(num_classes)))
