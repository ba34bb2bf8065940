# shellcheck shell=bash disable=SC2154
# What get-criu, get-kernel and get-python share: packages of another Debian suite, fetched from this machine's archive with an APT
# of its own, and a directory that is replaced only when the new one is complete.
#
# Sourced after say.sh by a script that sets `marker`, the name of a file, and `without_debian`, a hint. `begin` sets
# `suite`, `prefix` and `work`, which holds what is fetched and `new`, the directory to be.

archive_help() {
    cat <<'TEXT'
environment:
  DEBIAN_MIRROR   archive to take instead, as in a "deb" line
  DEBIAN_KEYRING  keyring that has to have signed it
TEXT
}

# Ready to download from SUITE, and to put the result where PREFIX is.
begin() { # SUITE PREFIX
    require_debian
    suite=$1 prefix=$(realpath -m -- "$2")
    require_replaceable "$prefix"
    keyring=$(find_keyring)
    mirror=$(find_mirror)

    # Beside PREFIX, so that the last step is a rename within one file system.
    mkdir -p -- "$(dirname -- "$prefix")" || exit
    work=$(mktemp -d -- "$prefix.XXXXXX" 2>/dev/null) || die "cannot write beside $prefix"
    trap 'rm -rf -- "$work"' EXIT

    configure_apt
    refresh_index
}

require_debian() {
    local tool
    for tool in apt-get apt-config dpkg-deb; do
        command -v "$tool" >/dev/null || die "there is no $tool here: this program needs Debian" "$without_debian"
    done
}

require_replaceable() { # PREFIX
    [ ! -e "$1" ] && [ ! -L "$1" ] && return
    [ -f "$1/$marker" ] && return
    [ -d "$1" ] && [ -z "$(ls -A -- "$1")" ] && return
    die "$1 exists and was not made by this program" "name a directory that is empty or does not exist"
}

find_keyring() {
    local path
    if [ -n "${DEBIAN_KEYRING-}" ]; then
        realpath -e -- "$DEBIAN_KEYRING" 2>/dev/null || die "keyring $DEBIAN_KEYRING does not exist"
        return
    fi
    for path in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg}; do
        [ -r "$path" ] && echo "$path" && return
    done
    die "Debian's archive keyring is missing" "apt-get install debian-archive-keyring"
}

# The first archive of this machine that carries Debian's "main". Its origin is known only after
# the first "apt-get update"; until then the name of the release has to do. A wrong guess is
# harmless: the signature would not be Debian's.
find_mirror() {
    local uri
    if [ -n "${DEBIAN_MIRROR-}" ]; then
        echo "$DEBIAN_MIRROR"
        return
    fi
    # shellcheck disable=SC2016  # APT expands these
    uri=$(apt-get indextargets --format '$(ORIGIN)|$(COMPONENT)|$(RELEASE)|$(REPO_URI)' |
        awk -F'|' '($1 == "Debian" || $1 == "") && $2 == "main" && $3 !~ /security/ && $4 !~ /^cdrom:/ \
            { print $4; exit }') || true
    [ -n "$uri" ] || die "none of this machine's APT sources is a Debian archive" \
        "set DEBIAN_MIRROR to one that the machine can reach"
    echo "$uri"
}

# A world of APT's own. Of the machine's configuration only what concerns fetching is kept (proxies,
# time-outs): its hooks run commands, and some of those clean the machine's caches. An empty
# status file makes nothing count as installed, so each library that a program needs is fetched with it.
configure_apt() {
    local state=$work/apt line
    mkdir -p "$state/lists/partial" "$state/archives/partial"
    : >"$state/status"
    {
        apt-config dump | grep -E '^(Acquire|APT::Architecture)' | grep -v '^Acquire::IndexTargets' || true
        cat <<CONF
Dir::Etc::Main "/dev/null";
Dir::Etc::Parts "/dev/null";
Dir::Etc::SourceList "$state/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State "$state";
Dir::State::Lists "$state/lists";
Dir::State::Status "$state/status";
Dir::Cache "$state";
Dir::Cache::Archives "$state/archives";
Dir::Log "$state";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Get::AllowUnauthenticated "false";
APT::Default-Release "$suite";
APT::Install-Recommends "false";
APT::Sandbox::User "$(id -un)";
CONF
    } >"$state/apt.conf"
    export APT_CONFIG=$state/apt.conf
    for line in $(suites); do
        echo "deb [signed-by=$keyring] $mirror $line main"
    done >"$state/sources.list"
}

suites() {
    # Experimental is no whole distribution: what it does not hold comes from sid.
    case $suite in experimental | rc-buggy) echo sid ;; esac
    echo "$suite"
}

refresh_index() {
    local log=$work/update.log own
    apt-get -qq --error-on=any update >"$log" 2>&1 && return
    sed 's/^/    /' "$log" >&2
    # shellcheck disable=SC1091
    own=$(. /etc/os-release && echo "${VERSION_CODENAME:-sid}")
    if /usr/lib/apt/apt-helper -qq download-file "${mirror%/}/dists/$own/InRelease" "$work/probe" >/dev/null 2>&1; then
        die "this machine's Debian archive has no usable suite \"$suite\"" \
            "try forky, sid or experimental; a missing key comes with a newer debian-archive-keyring"
    fi
    die "cannot reach this machine's Debian archive" "see what \"apt-get update\" says, or set DEBIAN_MIRROR"
}

# Download PACKAGEs and all that they depend on to $work/apt/archives.
fetch() { # PACKAGE...
    fetch_by install -y --download-only "$@"
}

# Download PACKAGEs and nothing else.
fetch_alone() { # PACKAGE...
    (cd "$work/apt/archives" && fetch_by download "$@")
}

fetch_by() { # APT-GET'S WORD... PACKAGE...
    local log=$work/download.log
    apt-get -qq "$@" >"$log" 2>&1 && return
    sed 's/^/    /' "$log" >&2
    die "cannot $* from $suite"
}

# Unpack all that was fetched.
unpack_into() { # DIR
    local deb
    mkdir -p "$1"
    for deb in "$work"/apt/archives/*.deb; do
        dpkg-deb -x "$deb" "$1"
    done
}

# Set `loader`, the C library's program loader, and the array `libraries`, the places that it is to look in: both as paths
# below ROOT, into which packages were unpacked.
find_libraries() { # ROOT
    local place
    loader=$(cd "$1" && find . \( -name 'ld-linux*.so.?' -o -name 'ld64.so.?' \) -type f -print -quit)
    [ -n "$loader" ] || die "the C library of $suite has no program loader that is known here"
    loader=${loader#./} libraries=()
    # Before Debian 13 the packages spread the libraries over two places.
    for place in {usr/,}lib/"$(basename "$(dirname "$loader")")"; do
        [ ! -d "$1/$place" ] || libraries+=("$place")
    done
}

# Put $work/new where PREFIX is. The LINEs say what it is, in the file that marks it as replaceable.
publish() { # LINE...
    printf '%s\n' "suite $suite" "$@" >"$work/new/$marker"
    [ ! -e "$prefix" ] || mv -T -- "$prefix" "$work/old"
    mv -T -- "$work/new" "$prefix" || {
        [ ! -e "$work/old" ] || mv -T -- "$work/old" "$prefix"
        die "cannot put the result in $prefix"
    }
}
