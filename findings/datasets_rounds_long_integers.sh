#!/usr/bin/env bash
# datasets 5.2.0: an integer of more than 64 bits in a JSONL file comes back as a rounded float.
#
# Expected: an answer in JSON, 12345678901234567890123, stays an integer, as with json.loads, or is refused.
# Seen: the whole column becomes float64: the long one is 1.2345678901234568e+22 and every small one a float, so
# that 2 is written "2.0" in a prompt or compared as text. Exact answers of arithmetic and number theory are gone.
# megatron_r1 reads JSONL with Python's own json, strictly (json_reader.py).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q --disable-pip-version-check datasets==5.2.0
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder" <<'PYTHON'
import json
import sys
from pathlib import Path

import datasets

datasets.disable_progress_bars()
folder = Path(sys.argv[1])
for answers, kept in [([2**62, 2], True), ([12345678901234567890123, 2], False)]:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": "How many?", "answer": answer}) + "\n" for answer in answers))
    data = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(folder / str(kept)))
    found = list(data["answer"])
    print(f"{answers} came back as {found}, {data.features['answer']}")
    assert (list(map(str, found)) == list(map(str, answers))) == kept, "changed"
PYTHON
