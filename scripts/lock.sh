#!/usr/bin/env bash
# Writes the locks anew from pyproject.toml and locks/*.in: every package at one version, with the hashes of all its files.
#
# Needs uv (pip install uv). torch.txt is written by hand: its CPU build is on no index that a lock could name.
set -euo pipefail
cd "$(dirname "$0")/.."

compile=(uv pip compile --quiet --generate-hashes --no-header --no-annotate --no-emit-index-url --no-emit-find-links
    --python-version 3.11 --no-emit-package torch --no-emit-package modelbake)
find_links=$(python3 -m pip config get global.find-links 2>/dev/null || true)
for folder in $find_links; do compile+=(--find-links "$folder"); done

"${compile[@]}" pyproject.toml locks/build.in --extra dev -o locks/dev.txt
# All others are parts of it at the same versions.
sed -n 's/^\([A-Za-z0-9._-]*==[^ ]*\).*/\1/p' locks/dev.txt >locks/.constraints
trap 'rm -f locks/.constraints' EXIT
"${compile[@]}" pyproject.toml --extra convert -c locks/.constraints -o locks/convert.txt
"${compile[@]}" pyproject.toml locks/build.in --extra fetch --extra registry -c locks/.constraints -o locks/fetch.txt
"${compile[@]}" locks/runtime.in --no-deps -c locks/.constraints -o locks/runtime.txt
