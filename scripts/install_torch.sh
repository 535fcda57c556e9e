#!/usr/bin/env bash
# Installs the pinned torch for the processor into a Python environment: install_torch.sh PYTHON LOCKS [CPU_INDEX].
#
# PyPI's build for Linux on x86-64 is made for graphics cards and gigabytes of further packages. So the CPU build goes first: from
# CPU_INDEX, PyTorch's own index of such builds, where it answers, or from what pip is configured with, such as a wheel folder. Where
# neither has it, PyPI's build will do if it is one for the processor. The locks' hashes decide what is accepted.
set -euo pipefail

if [[ $# -lt 2 || $# -gt 3 ]]; then
    echo "usage: install_torch.sh PYTHON LOCKS [CPU_INDEX]" >&2
    exit 2
fi
python=$1 locks=$2 index=${3:-https://download.pytorch.org/whl/cpu}
if [[ $index == *@* ]]; then
    echo "torch: TORCH_INDEX holds a user name or password, which would be seen in the image's history; put that index into pip's configuration" >&2
    exit 8
fi

answers() {
    "$python" - "$1/torch/" 2>/dev/null <<'PY'
import sys, urllib.request
urllib.request.urlopen(urllib.request.Request(sys.argv[1], method="HEAD"), timeout=5)
PY
}

install=("$python" -m pip install --quiet --no-deps --require-hashes)
more=()
if answers "$index"; then more=(--extra-index-url "$index"); fi
"${install[@]}" ${more[@]+"${more[@]}"} -r "$locks/torch-cpu.txt" || {
    echo "torch: the CPU build is not to be had, so the one that pip's index has" >&2
    "${install[@]}" -r "$locks/torch.txt"
}

if ! "$python" -c 'from importlib.metadata import requires; raise SystemExit(any("cuda" in r or "nvidia" in r for r in requires("torch") or []))'; then
    echo "torch: pip's index gave the build for graphics cards, which does not start alone. Set TORCH_INDEX to an index of CPU builds," >&2
    echo "or put the CPU wheel into a folder that pip's find-links names, then run this again." >&2
    exit 7
fi
