# What engine.sh and base_image.sh both need to know of a Debian machine; sourced by them, which bring say and die.
# shellcheck shell=bash

# Prints a field of the machine's os-release file; nothing when there is none.
release_field() {
    local file=${MODELBAKE_OS_RELEASE:-/etc/os-release}
    [[ -r $file ]] || return 0
    sed -n "s/^$1=//p" "$file" | tr -d "\"'"
}

# Installs packages of the machine's own release; the package lists are fetched only when those at hand will not do.
apt_install() {
    local log=$1
    shift
    say "installing $*"
    local install=(env DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install "$@")
    "${install[@]}" >"$log" 2>&1 || { apt-get -q update && "${install[@]}"; } >>"$log" 2>&1 || {
        tail -n 20 "$log" >&2
        die 7 "apt-get could not install $*: put right what it says above, then run this again"
    }
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
