"""The class-balanced subset of Fashion-MNIST that ships with the package.

5,000 training and 1,000 test images of 28×28 grey levels in ten classes, from

    H. Xiao, K. Rasul and R. Vollgraf, Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine Learning
    Algorithms (2017), arXiv:1708.07747; MIT licence, see ``LICENSE`` in this folder.

``make_subset.py`` chose them by a fixed seed, and says how to make the file again.
"""

from __future__ import annotations

from pathlib import Path

FILE = Path(__file__).with_name("fashion_mnist_subset.npz")
"""The arrays ``train_images, train_labels, test_images, test_labels``, all uint8."""

SHA256 = "4cf9dd1b18fce1fbb6371454d5ea407556cb16d45955395d49fd6e2a5d21c3ff"
"""Of the bytes of ``FILE``; checked whenever it is loaded."""

CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)
"""What the labels 0 to 9 stand for."""
