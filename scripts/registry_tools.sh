#!/usr/bin/env bash
# Gives a machine the programs that the registry's tests and bench compare with: docker-registry, oras, cosign and skopeo.
#
# Uses those on PATH, else unpacks Debian's into one folder, ${MODELBAKE_TOOLS_DIR:-/var/lib/modelbake-tools}, as root.
# Exit codes: 0 done, 2 usage, 3 (path and env only) some are missing, 7 the machine is not able, with what to install.
set -euo pipefail

# Debian 12 has none of these; they come from the next release (debian.sh).
readonly UNPACKED=(docker-registry oras cosign)
# The machine's own release's, because it is linked with that release's libraries.
readonly INSTALLED=(skopeo)

usage() {
    cat <<'TEXT'
usage: scripts/registry_tools.sh install|path|env

  install  use the docker-registry, oras, cosign and skopeo that are there, or set them up (Debian, as root)
  path     print where each of them is, in that order; exit 3 when one is missing
  env      print lines for: eval "$(scripts/registry_tools.sh env)"

MODELBAKE_TOOLS_DIR  folder for what this unpacks (default /var/lib/modelbake-tools)
TEXT
}

say() { printf 'registry tools: %s\n' "$*"; }
die() {
    local code=$1
    shift
    printf 'registry tools: %s\n' "$*" >&2
    exit "$code"
}

# shellcheck source=scripts/debian.sh
source "$(dirname "${BASH_SOURCE[0]}")/debian.sh"

tools_dir=${MODELBAKE_TOOLS_DIR:-/var/lib/modelbake-tools}
[[ $tools_dir == /* ]] || tools_dir=$PWD/$tools_dir
prefix=$tools_dir/prefix # the unpacked packages; appears by one rename, so its presence means it is whole
readonly tools_dir prefix
readonly ADVICE="put docker-registry, oras, cosign and skopeo on PATH, and run this again"

# Ours behind the machine's own: who has these programs chose them.
find_tool() { PATH=$PATH:$prefix/usr/bin type -P "$1"; }

# Of the programs that are named, prints those that are not there.
missing() {
    local name
    for name in "$@"; do find_tool "$name" >/dev/null || printf '%s\n' "$name"; done
}

# Ends the script with code $1 where one of the programs is missing.
require_all() {
    local lacking
    lacking=$(missing "${UNPACKED[@]}" "${INSTALLED[@]}")
    [[ -z $lacking ]] || die "$1" "not found: ${lacking//$'\n'/, }. $2"
}

cmd_install() {
    local lacking
    lacking=$(missing "${UNPACKED[@]}" "${INSTALLED[@]}")
    if [[ -n $lacking ]]; then
        require_debian_root "not found: ${lacking//$'\n'/, }" "$ADVICE"
        take_lock "$tools_dir" MODELBAKE_TOOLS_DIR
        # Asked again, because another run may have been quicker.
        [[ -z $(missing "${UNPACKED[@]}") ]] || unpack_packages "$prefix" "$ADVICE" "${UNPACKED[@]}"
        [[ -z $(missing "${INSTALLED[@]}") ]] || apt_install "$tools_dir/apt.log" "${INSTALLED[@]}"
        require_all 7 "Debian's packages did not bring them: $ADVICE"
        say "installed; now: eval \"\$(scripts/registry_tools.sh env)\""
    fi
    cmd_path
}

cmd_path() {
    local name
    require_all 3 "Say scripts/registry_tools.sh install"
    for name in "${UNPACKED[@]}" "${INSTALLED[@]}"; do find_tool "$name"; done
}

# The machine's own programs stay first.
cmd_env() {
    require_all 3 "Say scripts/registry_tools.sh install"
    [[ ! -d $prefix || :$PATH: == *:$prefix/usr/bin:* ]] || printf 'export PATH="%s":%s\n' "\$PATH" "$(quoted "$prefix/usr/bin")"
}

[[ $# -eq 1 ]] || { usage >&2; exit 2; }
case $1 in
install) cmd_install ;;
path) cmd_path ;;
env) cmd_env ;;
-h | --help | help) usage ;;
*)
    usage >&2
    exit 2
    ;;
esac
