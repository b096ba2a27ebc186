#!/usr/bin/env bash
# safetensors 0.8.0 with numpy: a transposed array is stored with its numbers in another order.
#
# Expected: save_file stores the array's values, as numpy.save does, or refuses it, as safetensors.torch does for a
# tensor that is not contiguous.
# Seen: the memory is written as it lies, beside the transposed shape: [[0, 1, 2], [3, 4, 5]].T comes back as
# [[0, 1], [2, 3], [4, 5]] and every other column as the first ones. The docstring asks for contiguous arrays,
# and nothing checks it: a weight that was transposed for an export (Linear or Conv1D) is wrong in the file.
# megatron_r1 writes the files itself (huggingface/safetensors_file.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check safetensors==0.8.0 numpy torch==2.13.0
"$folder/venv/bin/python" - "$folder" <<'PYTHON'
import sys

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch

file = f"{sys.argv[1]}/weights.safetensors"
weight = np.arange(6.0).reshape(2, 3)
arrays = {"whole": weight, "transposed": weight.T, "copied": weight.T.copy(), "columns": weight[:, ::2]}
safetensors.numpy.save_file(arrays, file)
loaded = safetensors.numpy.load_file(file)
for name, array in arrays.items():
    print(f"{name}: {array.tolist()} came back as {loaded[name].tolist()}")
    assert np.array_equal(loaded[name], array) == (name in ("whole", "copied")), "changed"
try:
    safetensors.torch.save_file({"transposed": torch.tensor(weight).T}, file)
except ValueError as error:
    print(f"safetensors.torch: {str(error)[:80]}...")
else:
    raise SystemExit("changed: safetensors.torch takes it")
PYTHON
