#!/usr/bin/env bash
# Gives a machine a Docker Engine with buildx: uses the one that answers, or sets one up on Debian as root.
#
# Everything it makes stands under one folder, ${MODELBAKE_ENGINE_DIR:-/var/lib/modelbake-engine}; docs/engine.md tells the rest.
# Exit codes: 0 done, 2 usage, 3 (status only) not running, 7 the machine is not able, with a message that says what to install.
set -euo pipefail

# Debian 12 has no buildx and an engine without the containerd image store: they come from the next release (debian.sh).
readonly ENGINE_PACKAGES=(docker.io docker-cli docker-buildx docker-compose containerd tini)
readonly PLUGIN_PACKAGES=(docker-buildx docker-compose)

usage() {
    cat <<'TEXT'
usage: scripts/engine.sh install|start|stop|status|env

  install  use the Docker engine that answers, or set one up (Debian, as root)
  start    install if need be, then start that engine; does nothing when one answers
  stop     stop the engine that this script started, and no other
  status   say which engine there is; exit 0 when one answers, 3 when none does
  env      print lines for: eval "$(scripts/engine.sh env)"

MODELBAKE_ENGINE_DIR   folder for everything this makes (default /var/lib/modelbake-engine)
MODELBAKE_ENGINE_WAIT  seconds to wait for the engine to answer (default 60)
TEXT
}

say() { printf 'engine: %s\n' "$*"; }
warn() { printf 'engine: %s\n' "$*" >&2; }
die() {
    local code=$1
    shift
    warn "$*"
    exit "$code"
}

# shellcheck source=scripts/debian.sh
source "$(dirname "${BASH_SOURCE[0]}")/debian.sh"

state_dir=${MODELBAKE_ENGINE_DIR:-/var/lib/modelbake-engine}
[[ $state_dir == /* ]] || state_dir=$PWD/$state_dir
prefix=$state_dir/prefix          # the unpacked packages; appears by one rename, so its presence means it is whole
plugins_prefix=$state_dir/plugins # the same for an engine that only lacks the client's plugins
config_dir=$state_dir/config      # DOCKER_CONFIG: our plugins beside links to the user's own settings
shim_dir=$state_dir/bin           # an iptables that works, where the machine's default one does not
exec_root=$state_dir/exec
socket=$state_dir/docker.sock
pidfile=$state_dir/dockerd.pid
log=$state_dir/dockerd.log
readonly state_dir prefix plugins_prefix config_dir shim_dir exec_root socket pidfile log

# Administrators' programs (iptables, modprobe) are not in everybody's PATH.
PATH=$PATH:/usr/sbin:/sbin

# ---- what there is ---------------------------------------------------------------------------------------------------

# macOS has no timeout(1); there the client's own limits must do.
bounded() {
    local seconds=$1
    shift
    if command -v timeout >/dev/null; then timeout "$seconds" "$@"; else "$@"; fi
}

# The docker client to ask with: the machine's own, else the unpacked one. Fails when there is none.
client() {
    command -v docker || { [[ -x $prefix/usr/bin/docker ]] && printf '%s\n' "$prefix/usr/bin/docker"; }
}

# Prints the version of the engine that the caller's settings (DOCKER_HOST, context) lead to; fails when none answers.
reachable_version() {
    local docker
    docker=$(client) || return 1
    bounded 15 "$docker" version --format '{{.Server.Version}}' 2>/dev/null
}

# The same for our own engine, whatever the caller's settings are.
own_version() {
    [[ -S $socket && -x $prefix/usr/bin/docker ]] || return 1
    DOCKER_HOST=unix://$socket bounded 15 "$prefix/usr/bin/docker" version --format '{{.Server.Version}}' 2>/dev/null
}

has_buildx() {
    local docker
    docker=$(command -v docker) && bounded 15 "$docker" buildx version >/dev/null 2>&1
}

# True when the pid in a file is a live process whose command line names that file's owner (a pid may have been reused).
alive() {
    local file=$1 mark=$2 pid
    [[ -s $file ]] || return 1
    pid=$(<"$file")
    [[ $pid =~ ^[0-9]+$ && -r /proc/$pid/cmdline ]] || return 1
    tr '\0' ' ' <"/proc/$pid/cmdline" | grep -qF -- "$mark"
}
own_alive() { alive "$pidfile" "--pidfile $pidfile"; }

# ---- what the machine is ---------------------------------------------------------------------------------------------

readonly INSTALL_ADVICE="install Docker Engine 25 or newer with its buildx plugin (https://docs.docker.com/engine/install/; \
Docker Desktop or colima do on macOS), start it, and run this again"

# ---- install ---------------------------------------------------------------------------------------------------------

# runc and iptables come from the machine's own release: a newer release's need its newer libc.
install_own_packages() {
    local missing=()
    command -v runc >/dev/null || missing+=(runc)
    command -v iptables >/dev/null || missing+=(iptables)
    [[ ${#missing[@]} -eq 0 ]] || apt_install "$state_dir/apt.log" "${missing[@]}"
}

# A DOCKER_CONFIG that has our plugins, and the user's logins, contexts and other plugins by links.
link_config() {
    local from=$1 user=${DOCKER_CONFIG:-${HOME:-/root}/.docker} file
    mkdir -p "$config_dir/cli-plugins"
    if [[ $user != "$config_dir" ]]; then
        for file in config.json contexts; do ln -sfn "$user/$file" "$config_dir/$file"; done
        for file in "$user"/cli-plugins/*; do
            [[ ! -x $file ]] || ln -sfn "$file" "$config_dir/cli-plugins/${file##*/}"
        done
    fi
    for file in "$from"/usr/libexec/docker/cli-plugins/*; do
        ln -sfn "$file" "$config_dir/cli-plugins/${file##*/}"
    done
}

installed() { [[ -x $prefix/usr/sbin/dockerd ]] && command -v runc >/dev/null && command -v iptables >/dev/null; }

cmd_install() {
    local version plugins
    if version=$(reachable_version) && has_buildx; then
        say "Docker $version with buildx answers already: nothing to do"
    elif [[ -n ${version:-} && -z $(own_version || true) ]]; then
        plugins=$prefix
        [[ -d $plugins ]] || plugins=$plugins_prefix
        if [[ ! -d $plugins ]]; then
            require_debian_root "Docker $version answers but its client has no buildx plugin" "$INSTALL_ADVICE"
            take_lock "$state_dir" MODELBAKE_ENGINE_DIR
            unpack_packages "$plugins" "$INSTALL_ADVICE" "${PLUGIN_PACKAGES[@]}"
        fi
        link_config "$plugins"
        say "Docker $version answers, its client's plugins are in place: eval \"\$(scripts/engine.sh env)\""
    elif installed; then
        link_config "$prefix"
        say "installed already in $prefix"
    else
        require_debian_root "no Docker engine answers" "$INSTALL_ADVICE"
        take_lock "$state_dir" MODELBAKE_ENGINE_DIR
        install_own_packages
        [[ -x $prefix/usr/sbin/dockerd ]] || unpack_packages "$prefix" "$INSTALL_ADVICE" "${ENGINE_PACKAGES[@]}"
        link_config "$prefix"
        say "installed Docker $("$prefix/usr/bin/docker" version --format '{{.Client.Version}}' 2>/dev/null || true) in $prefix"
    fi
}

# ---- start and stop --------------------------------------------------------------------------------------------------

# Modules may be built in, or loading them may be nobody's business in a container: the engine's own word is the judge.
load_modules() {
    local module
    command -v modprobe >/dev/null || return 0
    for module in overlay bridge br_netfilter iptable_nat; do modprobe -q "$module" 2>/dev/null || true; done
}

# Debian's iptables speaks nftables; a kernel without that may still have the older interface.
choose_iptables() {
    local name
    rm -rf "$shim_dir"
    mkdir -p "$shim_dir"
    iptables -t nat -n -L >/dev/null 2>&1 && return 0
    iptables-legacy -t nat -n -L >/dev/null 2>&1 ||
        die 7 "this kernel gives no NAT table to iptables ($(iptables -t nat -n -L 2>&1 | head -n 1)): a container engine needs one"
    for name in iptables ip6tables iptables-save iptables-restore; do
        ln -sfn "$(command -v "${name/tables/tables-legacy}")" "$shim_dir/$name"
    done
}

clear_stale() {
    local containerd_pid=$exec_root/containerd/containerd.pid
    own_alive || rm -f "$pidfile" "$socket"
    alive "$containerd_pid" "$exec_root/containerd" || rm -f "$containerd_pid"
}

# dockerd mounts its data folder upon itself and, when it is killed, leaves that behind: the folder could not be removed.
unmount_data() {
    [[ $(id -u) != 0 ]] || ! mountpoint -q "$state_dir/data" 2>/dev/null || umount "$state_dir/data"
}

cmd_start() {
    local version why waited=0 limit=${MODELBAKE_ENGINE_WAIT:-60}
    [[ $limit =~ ^[0-9]+$ ]] || die 2 "MODELBAKE_ENGINE_WAIT must be a number of seconds, not '$limit'"
    if version=$(own_version); then
        say "the engine is running already (Docker $version at unix://$socket)"
        return 0
    fi
    if version=$(reachable_version); then
        cmd_install
        describe "$(client)" "$version"
        return 0
    fi
    [[ ${#socket} -le 107 ]] || die 2 "$socket is too long for a socket's name: choose a shorter MODELBAKE_ENGINE_DIR"
    installed || (cmd_install)
    require_debian_root "no Docker engine answers" "$INSTALL_ADVICE"
    take_lock "$state_dir" MODELBAKE_ENGINE_DIR
    if version=$(own_version); then return 0; fi # another start was quicker
    link_config "$prefix"
    clear_stale
    load_modules
    choose_iptables
    [[ -f $state_dir/daemon.json ]] || {
        # The build cache holds every step of every bundle's build: without a bound it fills the disk.
        printf '%s\n' '{"features": {"containerd-snapshotter": true}, "builder": {"gc": {"enabled": true, "defaultKeepStorage": "15GB"}}}' \
            >"$state_dir/daemon.json.new"
        mv "$state_dir/daemon.json.new" "$state_dir/daemon.json"
    }
    PATH=$shim_dir:$prefix/usr/bin:$prefix/usr/sbin:$PATH setsid dockerd \
        --config-file "$state_dir/daemon.json" --data-root "$state_dir/data" --exec-root "$exec_root" \
        --pidfile "$pidfile" --host "unix://$socket" </dev/null >"$log" 2>&1 9>&- &
    local pid=$!
    until version=$(own_version); do
        why=
        ((waited < limit * 2)) || why="did not answer within $limit s"
        kill -0 "$pid" 2>/dev/null || why="ended before it answered"
        [[ -z $why ]] || {
            kill "$pid" 2>/dev/null || true
            tail -n 20 "$log" >&2
            die 7 "the engine $why; above is the end of $log: put right what it names, then run this again"
        }
        sleep 0.5
        waited=$((waited + 1))
    done
    say "started Docker $version at unix://$socket; now: eval \"\$(scripts/engine.sh env)\""
}

cmd_stop() {
    local pid waited=0
    if ! own_alive; then
        unmount_data
        say "no engine of this script's is running"
        return 0
    fi
    [[ $(id -u) == 0 ]] || die 7 "stopping the engine takes root: sudo scripts/engine.sh stop"
    take_lock "$state_dir" MODELBAKE_ENGINE_DIR
    pid=$(<"$pidfile")
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do
        ((waited < 120)) || die 7 "the engine (process $pid) has not stopped after 60 s: see $log"
        sleep 0.5
        waited=$((waited + 1))
    done
    clear_stale
    unmount_data
    say "stopped"
}

# ---- status and env --------------------------------------------------------------------------------------------------

describe() {
    local docker=$1 version=$2 driver
    say "Docker $version answers at ${DOCKER_HOST:-the address of the current docker context}"
    # DriverStatus names the snapshotter's type only when images are kept in containerd's store.
    driver=$(bounded 15 "$docker" info --format '{{.Driver}} {{json .DriverStatus}}' 2>/dev/null || true)
    if [[ $driver == *io.containerd.snapshotter* ]]; then
        say "images are kept in the containerd image store (${driver%% *})"
    else
        warn "WARN: images are kept in the ${driver%% *} store, not the containerd image store: OCI output, attestations and uncompressed or zstd layers do not work; turn on features.containerd-snapshotter in the engine's daemon.json"
    fi
}

cmd_status() {
    local version docker
    if version=$(reachable_version); then
        docker=$(client)
        describe "$docker" "$version"
        has_buildx || warn "WARN: the docker client has no buildx plugin: eval \"\$(scripts/engine.sh env)\" after scripts/engine.sh install"
    elif version=$(own_version); then
        DOCKER_HOST=unix://$socket describe "$prefix/usr/bin/docker" "$version"
        say "this shell does not use it yet: eval \"\$(scripts/engine.sh env)\""
    else
        say "no Docker engine answers: scripts/engine.sh start"
        return 3
    fi
}

# The unpacked client goes first in PATH: it is the engine's own release, so what a build does is the same on every machine.
print_client() {
    [[ ! -x $prefix/usr/bin/docker || $PATH == "$prefix/usr/bin:"* ]] ||
        printf 'export PATH=%s:"%s"\n' "$(quoted "$prefix/usr/bin")" "\$PATH"
    printf 'export DOCKER_CONFIG=%s\n' "$(quoted "$config_dir")"
}

cmd_env() {
    local version
    if version=$(reachable_version) && [[ ${DOCKER_HOST:-} != "unix://$socket" ]]; then
        printf '# Docker %s answers already: its address stays as it is\n' "$version"
        has_buildx || [[ ! -d $config_dir/cli-plugins ]] || print_client
    elif own_version >/dev/null; then
        printf 'export DOCKER_HOST=%s\n' "$(quoted "unix://$socket")"
        print_client
    else
        die 7 "no Docker engine answers: scripts/engine.sh start"
    fi
}

main() {
    [[ $# -eq 1 ]] || { usage >&2; exit 2; }
    case $1 in
    install) cmd_install ;;
    start) cmd_start ;;
    stop) cmd_stop ;;
    status) cmd_status ;;
    env) cmd_env ;;
    -h | --help | help) usage ;;
    *)
        warn "unknown command '$1'"
        usage >&2
        exit 2
        ;;
    esac
}

main "$@"
