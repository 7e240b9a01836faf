"""Set before any test imports TensorFlow, and inherited by the processes that tests start."""

import os
from collections import Counter

# Errors only.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
# The numbers that tests compare with are those of a CPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items):
    """Files of many slow tests begin first: no worker is to be left alone with one of them."""
    slow = Counter(item.path for item in items if item.get_closest_marker("slow"))
    items.sort(key=lambda item: -slow[item.path])
