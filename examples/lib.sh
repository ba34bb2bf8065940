# shellcheck shell=bash
# What the examples share: a host of their own to run on, a server to checkpoint, and commands that are shown as they
# run.
#
# Sourced first by each example's `run`, which is then started again as the first process of new network, mount and PID
# namespaces. Nothing is made in the machine's own network, files are written to memory only, and all of it ends with
# the script, however that ends.
set -euo pipefail

example=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

fail() { # MESSAGE
    printf '%s: error: %s\n' "${example##*/}/${0##*/}" "$1" >&2
    exit 1
}

machine=$(readlink /proc/self/ns/net)
if [ $$ != 1 ] || [ "${EXAMPLE_MACHINE:-$machine}" = "$machine" ]; then
    [ "$(id -u)" = 0 ] || fail "only root can make network namespaces and run CRIU: sudo $0"
    CRIU=$(realpath -- "${CRIU:-$(cd "$project" && tools/setup criu-path)}")
    export CRIU EXAMPLE_MACHINE=$machine
    exec unshare --net --mount --pid --fork --kill-child --mount-proc --propagation private -- "$BASH" "$example/${0##*/}"
fi

trap 'exit 130' INT
trap 'exit 143' TERM
# A descriptor that was opened below other mounts is one that CRIU cannot dump, so nobody inherits the caller's.
for fd in /proc/self/fd/*; do
    fd=${fd##*/}
    [ "$fd" -le 2 ] || [ "$fd" -ge 255 ] || eval "exec $fd>&-"
done
unset CRIU_VETH_CONFIG CRTOOLS_SCRIPT_ACTION CRIU_SCRIPT_ACTION CRTOOLS_IMAGE_DIR CRTOOLS_INIT_PID CRIU_CONFIG_FILE
export HOME=/run/example LC_ALL=C.UTF-8
umask 022
mount -t tmpfs -o mode=755 tmpfs /run # the hook and CRIU keep things there
[ ! -d /etc/criu ] || mount -t tmpfs -o mode=755 tmpfs /etc/criu
mkdir -p "$HOME/bin" "$HOME/var-lib" "$HOME/work-var-lib" # the key of this host's captures is in /var/lib
mount -t overlay -o "lowerdir=/var/lib,upperdir=$HOME/var-lib,workdir=$HOME/work-var-lib" overlay /var/lib
cd "$HOME"
ln -s "$CRIU" bin/criu
ln -s "$project/.venv/bin/criu-veth" bin/criu-veth
PATH=$HOME/bin:$PATH
ip link set lo up

# --- what is shown

if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; else bold='' dim='' plain=''; fi

say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }

# Print the command as it could be typed, then run it.
run() { # COMMAND...
    show "$@"
    "$@"
}

run_to() { # FILE COMMAND...
    show "${@:2}" '>' "$1"
    "${@:2}" >"$1"
}

show() { # WORD...
    local word line=
    for word; do
        case $word in *[!A-Za-z0-9_@%+=:,./\>-]*) word="'$word'" ;; esac
        line+=" ${word//"$project/"/}"
    done
    printf '%s$%s%s\n' "$dim" "$line" "$plain"
}

# --- what is checked

wait_for() { # COMMAND...
    local end=$((SECONDS + 5))
    until "$@"; do
        [ $SECONDS -le $end ] || fail "still not so after 5 s: $*"
        sleep 0.01
    done
}

# Run a command, show what it prints, and look for these texts in it.
expect() { # TEXT... -- COMMAND...
    local texts=() text shown
    while [ "$1" != -- ]; do
        texts+=("$1")
        shift
    done
    show "${@:2}"
    shown=$("${@:2}") || fail "exit status $?: ${*:2}"
    printf '%s\n' "$shown"
    for text in ${texts[@]+"${texts[@]}"}; do
        case $shown in *"$text"*) ;; *) fail "this should say \"$text\": ${*:2}" ;; esac
    done
}

no_link() { ! ip link show dev "$1" >/dev/null 2>&1; } # IFNAME

expect_no_link() { # IFNAME
    wait_for no_link "$1" # it dies a moment after the container
    run ip link show dev "$1" && fail "$1 is still there"
    return 0
}

# --- a container

# It counts the lines of its whole life, so it can be known again.
server='import socket
lines = 0
listener = socket.create_server(("", 7000))
while True:
    with listener.accept()[0] as connection, connection.makefile("rb") as stream:
        for line in stream:
            lines += 1
            connection.sendall(b"%d %s" % (lines, line))'

# Start the server in a network namespace of its own; its pid is then in $pid.
container() {
    (cd / && exec unshare --net setsid "$project/.venv/bin/python3" -I -S -c "$server") </dev/null >/dev/null 2>&1 &
    pid=$!
    disown
    wait_for listening
}

listening() {
    [ "$(readlink "/proc/$pid/ns/net")" != "$(readlink /proc/self/ns/net)" ] &&
        [ -n "$(nsenter -t "$pid" -n ss -Hltn sport = :7000)" ]
}

checkpoint() { # DIR [OPTION...]
    mkdir "$1"
    run criu dump -t "$pid" -D "$1" -o dump.log --tcp-established "${@:2}" || fail_with "$1/dump.log"
    ! grep '^criu-veth:' "$1/dump.log" || true
}

on_host=() # a prefix, for whoever has another host

restore() { # DIR [OPTION...]
    run "${on_host[@]}" criu restore -D "$1" -o restore.log --tcp-established "${@:2}" -d || fail_with "$1/restore.log"
    [ -e "/proc/$pid" ] || fail "CRIU has restored no process $pid"
    grep '^criu-veth:' "$1/restore.log"
}

fail_with() { # LOG
    grep -e 'Error (' -e '^[^(]' "$1" >&2 || true
    fail "CRIU failed"
}

# --- a client on the host

connect() { # ADDRESS
    [ -z "${client-}" ] || exec {client}>&-
    exec {client}<>"/dev/tcp/$1/7000"
}

# Say a line to the server and expect it back with its number.
ask() { # LINE NUMBER
    local answer=
    printf '  client: %s\n' "$1"
    echo "$1" >&"$client"
    read -r -t 5 -u "$client" answer || fail "the server does not answer"
    printf '  server: %s\n' "$answer"
    [ "$answer" = "$2 $1" ] || fail "the server should have said: $2 $1"
}
