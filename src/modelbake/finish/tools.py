"""Running the programs of macOS and Xcode, and making one clear message of their failures."""

from __future__ import annotations

import shutil
import subprocess

from modelbake.errors import MachineError

# Seconds. A compiler that takes longer than this hangs.
LONGEST = 3600


def said(words: list[str], doing: str, then: str) -> str:
    """What the program says on standard output.

    MachineError where it is not there, fails or hangs, with what it said of it; `doing` names the work, `then` the next step.
    """
    if shutil.which(words[0]) is None:
        raise MachineError(f"{words[0]} is not on this machine, and {doing} needs it. {then}")
    try:
        done = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=LONGEST, check=False)
    except subprocess.TimeoutExpired as error:
        raise MachineError(
            f"`{' '.join(words)}` took longer than {LONGEST} s ({doing}); it was ended. {then}"
        ) from error
    except OSError as error:
        raise MachineError(f"`{' '.join(words)}` cannot be run ({error.strerror}; {doing}). {then}") from error
    if done.returncode != 0:
        reason = (done.stderr.strip() or done.stdout.strip() or "it said nothing")[-2000:]
        raise MachineError(f"`{' '.join(words)}` failed with exit code {done.returncode} ({doing}): {reason}\n{then}")
    return done.stdout.strip()
