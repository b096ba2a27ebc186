#!/usr/bin/env bash
# datasets 5.2.0: strings of a JSONL file that look like dates come back as datetime objects.
#
# Expected: a JSON string is a Python string after load_dataset("json"), as it is after json.loads.
# Seen: a column whose strings are all dates is of the type timestamp[s]: the answer "2024-01-05" becomes
# datetime(2024, 1, 5, 0, 0), whose text "2024-01-05 00:00:00" no completion equals, and a field that a trainer
# tokenizes is no string. One string that is no date keeps the whole column as it was, so that one file of a
# data set may differ from the next.
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
for last, kept in [("2024-02-29", False), ("next Monday", True)]:
    rows = [{"prompt": "Which day?", "answer": answer} for answer in ("2024-01-05", last)]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = datasets.load_dataset("json", data_files=str(file), split="train", cache_dir=str(folder / last))
    answer = data[0]["answer"]
    print(f"beside {last!r}: {answer!r}, {data.features['answer']}")
    assert (answer == "2024-01-05") == kept, "changed"
PYTHON
