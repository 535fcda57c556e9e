# What engine.sh, registry_tools.sh, chromium.sh and base_image.sh need of a Debian machine; sourced by them, which bring say and die.
# shellcheck shell=bash

# Prints a field of the machine's os-release file; nothing when there is none.
release_field() {
    local file=${MODELBAKE_OS_RELEASE:-/etc/os-release}
    [[ -r $file ]] || return 0
    sed -n "s/^$1=//p" "$file" | tr -d "\"'"
}

# Ends the script unless this machine is one on which root can unpack Debian's packages; $1 says what is wanted, $2 what else to do.
require_debian_root() {
    local wanted=$1 advice=$2 version
    [[ $(release_field ID) == debian ]] ||
        die 7 "$wanted, and this script can set that up on Debian only: $advice"
    version=$(release_field VERSION_ID)
    [[ -z $version || $version -ge 12 ]] ||
        die 7 "$wanted, and this is Debian $version; from 12 on this script can set that up: $advice"
    [[ $(id -u) == 0 ]] ||
        die 7 "$wanted: run this as root (with sudo), or $advice"
}

# Holds folder $1, which variable $2 names, for this process until it ends.
take_lock() {
    mkdir -p "$1" || die 7 "cannot make $1: choose another folder with $2"
    exec 9>"$1/lock"
    flock -w 300 9 || die 7 "another ${0##*/} has held $1/lock for five minutes: end it, then run this again"
}

# A word that a shell reads as it stands.
quoted() { printf "'%s'" "${1//\'/\'\\\'\'}"; }

# Runs a command up to three times: an archive or the way to it may fail for a moment.
retried() {
    local attempt
    for attempt in 1 2 3; do
        ! "$@" || return 0
        [[ $attempt == 3 ]] || sleep $((attempt * 3))
    done
    return 1
}

# Installs packages of the machine's own release; the package lists are fetched only when those at hand will not do.
apt_install() {
    local apt_log=$1 # engine.sh has a read-only log
    shift
    say "installing $*"
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$@")
    # shellcheck disable=SC2329  # retried calls it
    install_anew() { apt-get -q update && "${install[@]}"; }
    "${install[@]}" >"$apt_log" 2>&1 || retried install_anew >>"$apt_log" 2>&1 || {
        tail -n 20 "$apt_log" >&2
        die 7 "apt-get could not install $*: put right what it says above, then run this again"
    }
}

# Programs in Go of the next release run on Debian 12, which has none of them or older ones.
readonly SUITE_FOR_12=trixie

# Unpacks packages, $3 and on, into folder $1, which appears by one rename: where it is, it is whole. $2 says what else to do.
# The machine's apt configuration and package state stay as they are. Beside $1 stands what it takes meanwhile, and apt.log.
unpack_packages() {
    local target=$1 advice=$2 folder suite stage deb apt_log
    shift 2
    folder=${target%/*}
    apt_log=$folder/apt.log
    suite=$(release_field VERSION_CODENAME)
    [[ $(release_field VERSION_ID) != 12 ]] || suite=$SUITE_FOR_12
    rm -rf "$folder"/stage.*
    stage=$(mktemp -d "$folder/stage.XXXXXX")
    mkdir -p "$stage"/{parts,lists/partial,cache/archives/partial,debs,root}
    derive_sources "$suite" "$stage/parts"
    : >"$stage/status"
    local apt=(apt-get -q -o Dir::Etc::sourcelist=/dev/null -o "Dir::Etc::sourceparts=$stage/parts"
        -o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null -o APT::Default-Release=
        -o "Dir::State::status=$stage/status" -o "Dir::State::lists=$stage/lists" -o "Dir::Cache=$stage/cache"
        -o APT::Sandbox::User=root -o Acquire::Languages=none)
    # One source that does not answer is no harm while another has the packages, so the download is the judge.
    # shellcheck disable=SC2329  # retried calls it
    download() {
        "${apt[@]}" update || true
        (cd "$stage/debs" && "${apt[@]}" download "$@")
    }
    say "fetching ${*} of Debian $suite"
    retried download "$@" >"$apt_log" 2>&1 || {
        tail -n 20 "$apt_log" >&2
        die 7 "apt could not fetch ${*} of Debian $suite: see $apt_log, check the network, or $advice"
    }
    for deb in "$stage"/debs/*.deb; do
        dpkg -x "$deb" "$stage/root" || die 7 "cannot unpack $deb: is the disk full? ($folder)"
    done
    rm -rf "$target"
    mv "$stage/root" "$target"
    rm -rf "$stage"
}

# Writes into folder $2 copies of the machine's Debian sources that name suite $1, one-line and deb822 files alike.
# For the machine's own release its -updates and -security suites stay too; for another release only the main archive is
# taken. Entries without component main or for other suites are left out: other vendors' archives have no such suite.
derive_sources() {
    local suite=$1 parts=$2 own list_file="" list_parts="" file n=0
    own=$(release_field VERSION_CODENAME)
    eval "$(apt-config shell list_file Dir::Etc::sourcelist/f list_parts Dir::Etc::sourceparts/d)"
    for file in "$list_file" "${list_parts%/}"/*.list "${list_parts%/}"/*.sources; do
        [[ -f $file ]] || continue
        n=$((n + 1))
        case $file in
        *.sources) awk -v own="$own" -v suite="$suite" "$AWK_SUITES$AWK_DEB822" "$file" >"$parts/$n.sources" ;;
        *) awk -v own="$own" -v suite="$suite" "$AWK_SUITES$AWK_ONE_LINE" "$file" >"$parts/$n.list" ;;
        esac
    done
    find "$parts" -type f -empty -delete
    [[ -n $(find "$parts" -type f) ]] ||
        die 7 "no apt source for Debian $own with component main was found: add one to /etc/apt/sources.list.d and run this again"
}

# taken(word): the suite to write for a suite that was read, "" for none.
# shellcheck disable=SC2016  # the dollar signs are awk's
readonly AWK_SUITES='
function taken(word) {
    if (suite == own) return word ~ "^(" own "|stable|oldstable|testing|sid|unstable)(-updates|-security)?$" ? word : ""
    return word == own || word == "stable" || word == "oldstable" ? suite : ""
}'
# shellcheck disable=SC2016
readonly AWK_DEB822='
BEGIN { RS = ""; FS = "\n" }
{
    kept = ""; key = ""; suites = ""; deb = 0; main = 0; enabled = 1
    for (i = 1; i <= NF; i++) {
        if ($i ~ /^#/) continue
        if ($i !~ /^[ \t]/) { key = tolower($i); sub(/:.*/, "", key) }
        value = $i; sub(/^[^ \t:]*:/, "", value)
        count = split(value, words, /[ \t]+/)
        for (w = 1; w <= count; w++) {
            if (key == "types" && words[w] == "deb") deb = 1
            if (key == "components" && words[w] == "main") main = 1
            if (key == "enabled" && tolower(words[w]) ~ /^(no|false|0|off|without|disable)$/) enabled = 0
            if (key == "suites" && taken(words[w]) != "") suites = suites " " taken(words[w])
        }
        if (key != "types" && key != "suites" && key != "components") kept = kept $i "\n"
    }
    if (deb && main && enabled && suites != "") printf "Types: deb\nSuites:%s\nComponents: main\n%s\n", suites, kept
}'
# shellcheck disable=SC2016
readonly AWK_ONE_LINE='
{
    sub(/#.*/, "")
    if (!match($0, /^[ \t]*deb[ \t]+(\[[^]]*\][ \t]+)?/)) next
    head = substr($0, 1, RLENGTH)
    count = split(substr($0, RLENGTH + 1), words, /[ \t]+/)
    main = 0
    for (w = 3; w <= count; w++) if (words[w] == "main") main = 1
    if (main && taken(words[2]) != "") print head words[1] " " taken(words[2]) " main"
}'
