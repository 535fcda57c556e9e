#!/usr/bin/env bash
# Gives a machine a Chromium for the test of the report's page: uses the browser that is there, or installs Debian's package as root.
#
# Exit codes: 0 done, 2 usage, 3 (path only) there is none, 7 the machine is not able, with a message that says what to install.
set -euo pipefail

usage() {
    cat <<'TEXT'
usage: scripts/chromium.sh install|path

  install  use the Chromium or Chrome that is there, or install Debian's package (as root)
  path     print where it is; exit 3 when there is none

MODELBAKE_CHROMIUM  the browser to use, in place of the one found on PATH
TEXT
}

say() { printf 'chromium: %s\n' "$*"; }
die() {
    local code=$1
    shift
    printf 'chromium: %s\n' "$*" >&2
    exit "$code"
}

# shellcheck source=scripts/debian.sh
source "$(dirname "${BASH_SOURCE[0]}")/debian.sh"

find_browser() {
    local name
    if [[ -n ${MODELBAKE_CHROMIUM:-} ]]; then
        command -v "$MODELBAKE_CHROMIUM" || die 7 "MODELBAKE_CHROMIUM names $MODELBAKE_CHROMIUM, which is no program: correct it"
        return 0
    fi
    for name in chromium chromium-browser google-chrome google-chrome-stable; do
        if command -v "$name"; then return 0; fi
    done
    return 1
}

install() {
    local advice="install Chromium or Chrome, or name one in MODELBAKE_CHROMIUM, and run this again" found log
    if found=$(find_browser); then
        say "$found is there"
        return 0
    fi
    [[ -z ${MODELBAKE_CHROMIUM:-} ]] || exit 7
    [[ $(release_field ID) == debian ]] || die 7 "there is no browser, and this script installs one on Debian only: $advice"
    [[ $(id -u) == 0 ]] || die 7 "there is no browser, and installing Debian's takes root (sudo scripts/chromium.sh install): $advice"
    log=$(mktemp)
    apt_install "$log" chromium
    rm -f "$log"
    found=$(find_browser) || die 7 "Debian's package brought no browser on PATH: $advice"
    say "installed $found"
}

[[ $# -eq 1 ]] || { usage >&2; exit 2; }
case $1 in
install) install ;;
path) find_browser || exit 3 ;;
-h | --help | help) usage ;;
*)
    usage >&2
    exit 2
    ;;
esac
