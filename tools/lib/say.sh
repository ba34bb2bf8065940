# shellcheck shell=bash
# How the programs in tools/ talk: every line begins with the name of the one that speaks.

say() { printf '%s: %s\n' "${0##*/}" "$*"; }

die() { # MESSAGE [HINT]
    printf '%s: error: %s\n' "${0##*/}" "$1" >&2
    [ $# -lt 2 ] || printf '%s: hint: %s\n' "${0##*/}" "$2" >&2
    exit 1
}
