"""`python -m tests.vectors.reader`: check all files without the library."""

import json
import sys
from pathlib import Path

from . import verify, verify_refusal

folder = Path(__file__).parent.parent
files = {path.name: json.loads(path.read_text(encoding="ascii")) for path in sorted(folder.glob("*.json"))}
for name, content in files.items():
    sys.stdout.write(f"{name}: {verify(content)} checked\n")
refusals = files["negative.json"]["refused_by_clients"]
for case in refusals:
    verify_refusal(case, files[case["session"]])
sys.stdout.write(f"negative.json: {len(refusals)} refusals by clients checked\n")
