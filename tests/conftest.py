"""Set before any test imports TensorFlow, and inherited by the processes that tests start."""

import os

# Errors only.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
# The numbers that tests compare with are those of a CPU.
os.environ["CUDA_VISIBLE_DEVICES"] = ""
