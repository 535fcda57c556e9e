#!/usr/bin/env bash
# Makes sure that the base image is in the Docker engine: pulls it, or makes a stand-in of Debian's packages where no registry answers.
#
# Exit codes: 0 the image is there, 2 usage, 3 the registry does not know the image, 7 the machine is not able.
set -euo pipefail

readonly LABEL=io.modelbake.base=debian-packages
# What every Python container needs and no more; pip comes with each virtual environment (ensurepip's wheels are in python3-venv).
readonly PACKAGES=python3,python3-venv,ca-certificates

usage() {
    cat <<'TEXT'
usage: scripts/base_image.sh [IMAGE]

Makes sure that IMAGE (default python:3.11-slim) is in the Docker engine. Where no registry answers, a Debian machine makes
a stand-in of its own release's packages, with the label io.modelbake.base=debian-packages.

MODELBAKE_PULL_WAIT  seconds to wait for the registry's first answer (default 45)
TEXT
}

say() { printf 'base image: %s\n' "$*"; }
die() {
    local code=$1
    shift
    printf 'base image: %s\n' "$*" >&2
    exit "$code"
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=scripts/debian.sh
source "$here/debian.sh"
work=
clean_up() { [[ -z $work ]] || rm -rf "$work"; }
trap clean_up EXIT

report() {
    local image=$1 facts
    facts=$(docker image inspect --format '{{.Id}} {{index .Config.Labels "io.modelbake.base"}}' "$image")
    say "$image is there: ${facts%% *}, $(docker image ls --format '{{.Size}}' "$image" | head -n 1)"
    [[ $facts != *debian-packages* ]] ||
        say "it is a stand-in made of Debian's packages, not the official image (label $LABEL)"
}

# Pulls. Returns 0 when the image is there and 1 when no registry answered; ends the script when one answered with a no.
# Nothing is printed by a pull before the registry's first answer, so only that silence is bounded: a slow download goes on.
pull() {
    local image=$1 limit=$2 output=$work/pull pid waited=0
    say "pulling $image"
    docker pull "$image" >"$output" 2>&1 &
    pid=$!
    while kill -0 "$pid" 2>/dev/null && [[ ! -s $output ]]; do
        if ((waited >= limit * 5)); then
            kill "$pid" 2>/dev/null || true
            wait "$pid" || true
            say "no answer from the registry of $image within $limit s"
            return 1
        fi
        sleep 0.2
        waited=$((waited + 1))
    done
    if wait "$pid"; then return 0; fi
    case $(<"$output") in
    *"manifest unknown"* | *"not found"* | *"access denied"* | *"no matching manifest"* | *toomanyrequests* | *unauthorized*)
        die 3 "the registry has no image $image for you: $(tail -n 1 "$output")" ;;
    *"no space left"*)
        die 7 "the disk is full: $(tail -n 1 "$output")" ;;
    esac
    say "no registry answers: $(tail -n 1 "$output")"
    return 1
}

# Prints the Python version that an image's name asks for, as 3.11; fails for what Debian's packages cannot stand in for.
wanted_python() {
    local name=${1#docker.io/} codename=$2
    name=${name#library/}
    [[ $name =~ ^python:([0-9]+\.[0-9]+)(-slim)?(-([a-z]+))?$ ]] || return 1
    [[ -z ${BASH_REMATCH[4]} || ${BASH_REMATCH[4]} == "$codename" ]] || return 1
    printf '%s\n' "${BASH_REMATCH[1]}"
}

# The Python version that this machine's Debian release provides, as 3.11.
debian_python() {
    apt-cache policy python3 | sed -nE 's/^ *Candidate: ([0-9]+\.[0-9]+).*/\1/p'
}

make_stand_in() {
    local image=$1 advice="give this machine access to the image's registry, or load the image (docker load), and run this again" codename wanted have
    [[ $(release_field ID) == debian && $(id -u) == 0 ]] ||
        die 7 "a stand-in for $image can be made on Debian as root only: $advice"
    codename=$(release_field VERSION_CODENAME)
    wanted=$(wanted_python "$image" "$codename") ||
        die 7 "Debian $codename's packages cannot stand in for $image (only for python:X.Y, -slim): $advice"
    command -v mmdebstrap >/dev/null || apt_install "$work/apt.log" mmdebstrap
    mkdir "$work/sources" "$work/root"
    derive_sources "$codename" "$work/sources"
    have=$(debian_python)
    [[ -n $have ]] || { apt-get -q update >"$work/apt.log" 2>&1 || true; have=$(debian_python); }
    [[ $have == "$wanted" ]] ||
        die 7 "$image asks for Python $wanted and Debian $codename has ${have:-none}: $advice"
    say "making $image of Debian $codename's packages"
    # $1 in the hooks is the new root. The official image has its interpreter in /usr/local/bin, as python3 and python.
    # shellcheck disable=SC2016
    mmdebstrap --mode=root --variant=apt --include="$PACKAGES" --aptopt='APT::Install-Recommends "false"' \
        --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-include=/usr/share/doc/*/copyright' \
        --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/info/*' \
        --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/share/lintian/*' \
        --customize-hook='ln -s ../../bin/python3 "$1/usr/local/bin/python3"; ln -s python3 "$1/usr/local/bin/python"' \
        --customize-hook='find "$1/usr" -name __pycache__ -type d -prune -exec rm -rf {} +' \
        --customize-hook='rm -f "$1/etc/hostname" "$1/etc/resolv.conf" "$1/var/log/apt/"* "$1/var/log/"*.log "$1/var/cache/ldconfig/aux-cache"' \
        "$codename" "$work/root/root.tar" "$work/sources"/* >"$work/mmdebstrap.log" 2>&1 || {
        tail -n 20 "$work/mmdebstrap.log" >&2
        die 7 "mmdebstrap failed, above is the end of its log: put right what it names and run this again"
    }
    # BuildKit, not docker import: that writes the time of day into the image, and the same packages should give the same digest.
    cat >"$work/root/Dockerfile" <<TEXT
FROM scratch
ADD root.tar /
ENV PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8
LABEL $LABEL
CMD ["python3"]
TEXT
    docker buildx build -q --provenance=false --build-arg SOURCE_DATE_EPOCH="$SOURCE_DATE_EPOCH" -t "$image" "$work/root" >/dev/null ||
        die 7 "the engine did not take the image: its message is above"
}

main() {
    local image=${1:-python:3.11-slim} limit=${MODELBAKE_PULL_WAIT:-45} settings
    case $image in
    -h | --help)
        usage
        return 0
        ;;
    -*) usage >&2; exit 2 ;;
    esac
    [[ $# -le 1 ]] || { usage >&2; exit 2; }
    [[ $limit =~ ^[0-9]+$ ]] || die 2 "MODELBAKE_PULL_WAIT must be a number of seconds, not '$limit'"
    settings=$("$here/engine.sh" env) || exit $?
    eval "$settings"
    if ! docker image inspect "$image" >/dev/null 2>&1; then
        work=$(mktemp -d)
        export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-0}
        pull "$image" "$limit" || make_stand_in "$image"
    fi
    report "$image"
}

main "$@"
