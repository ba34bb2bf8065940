"""`criu_veth.Notifier` in a program whose threads begin at the same moment."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
#: What msgspec works out when files are read, in Python code between which threads may change.
READ = """import json, sys
sys.path.insert(0, sys.argv[1])
import msgspec
from criu_veth import config, notifier, state
from criu_veth.errors import InputError
learnt = []
def note(frame, event, _):
    if event == "call" and frame.f_code.co_filename.endswith("msgspec/_utils.py"):
        learnt.append(frame.f_code.co_name)
texts = [
    lambda: config.parse("", ""),
    lambda: config._convert({}, config.Match, "", ""),
    lambda: state.parse(b'{"version": 1}', ""),
    lambda: msgspec.json.decode(b"[]", type=tuple[state.Veth, ...]),
    lambda: msgspec.json.decode(b"null", type=state.State | None),
]
sys.setprofile(note)
for read in texts:
    try:
        read()
    except InputError:
        pass
sys.setprofile(None)
class Other(msgspec.Struct):
    field: int
before = list(learnt)
sys.setprofile(note)
msgspec.json.decode(b'{"field": 1}', type=Other)
sys.setprofile(None)
print(json.dumps([before, learnt]))
"""


def test_files_that_threads_are_the_first_to_read() -> None:
    """Two that had msgspec learn what a file is like, at the same moment, crashed the program."""
    argv = [sys.executable, "-c", READ, str(ROOT)]
    before, of_another_type = json.loads(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    assert before == []
    assert of_another_type != [], "that is how it is seen"
