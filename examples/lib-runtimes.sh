# shellcheck shell=bash
# What the examples of container runtimes share, on top of lib.sh: cgroups of their own, an /etc and a /usr/local whose
# changes vanish, the installed hook, a root file system, and an OCI bundle.
#
# Sourced first by `run`, which is started three times: to make a cgroup and remove it at the end, in that cgroup as the
# root of all cgroups, and on the host that lib.sh makes.

case ${EXAMPLE_STAGE-} in
    '')
        if [ "$(id -u)" = 0 ]; then
            EXAMPLE_STAGE=1 exec unshare --mount --propagation private -- "$BASH" "$0"
        fi
        ;; # lib.sh says what is wrong
    1)
        trap : INT TERM # what is below this process ends, and then this tidies up
        at=/sys/fs/cgroup name=criu-veth-example-$$
        mount -t tmpfs none /sys/fs/cgroup
        for controller in unified systemd cpu cpuacct cpuset memory devices freezer pids blkio; do
            mkdir $at/$controller
            case $controller in
                unified) options=(-t cgroup2) ;;
                systemd) options=(-t cgroup -o "none,name=systemd") ;;
                *) options=(-t cgroup -o "$controller") ;;
            esac
            mount "${options[@]}" none $at/$controller 2>/dev/null || continue
            mkdir "$at/$controller/$name"
            if [ $controller = cpuset ]; then
                for file in cpuset.cpus cpuset.mems; do cat "$at/cpuset/$file" >"$at/cpuset/$name/$file"; done
            fi
        done
        status=0
        (
            for file in "$at"/*/"$name/cgroup.procs"; do echo $BASHPID >"$file"; done
            EXAMPLE_STAGE=2 exec unshare --cgroup -- "$BASH" "$0"
        ) || status=$?
        for _ in {1..200}; do # the last of its processes may still be dying
            left=$(find $at -depth -path "*/$name*" -type d -exec rmdir {} + 2>&1) || true
            [ -n "$left" ] || break
            sleep 0.05
        done
        exit $status
        ;;
esac

# shellcheck source=examples/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

[ ! -e "$project/.runtimes/bin/crun" ] || PATH=$HOME/bin:$project/.runtimes/bin:$PATH
mkdir -p layers/{etc,usr-local} layers/work-{etc,usr-local} root
for name in etc usr/local; do
    layer=${name/\//-}
    mount -t overlay -o "lowerdir=/$name,upperdir=layers/$layer,workdir=layers/work-$layer" overlay "/$name"
done
mkdir -p /etc/criu
mount -t tmpfs -o mode=755 tmpfs /etc/criu
mount --bind / root
umount -R -l /sys && mount -t sysfs sysfs /sys && mount -t cgroup2 cgroup2 /sys/fs/cgroup

need() { # PROGRAM...
    local program
    for program; do
        command -v "$program" >/dev/null || fail "there is no $program: tools/setup runtimes"
    done
}

# Start a command that leaves a container behind, which must have nothing of ours open.
detached() { # COMMAND...
    show "$@"
    "$@" </dev/null >/dev/null 2>&1 || fail "exit status $?: $*"
}

host_bridge() {
    run ip link add br0 type bridge
    run ip address add 10.0.0.1/24 dev br0
    run ip link set br0 up
}

# The veth that a CNI plugin would make: web0 on br0, eth0 in the container.
plug() { # PID
    run ip link add web0 mtu 1400 type veth peer name eth0 mtu 1400 netns "$1"
    run ip link set web0 master br0 alias 'web, front' up
    run nsenter -t "$1" -n ip address add 10.0.0.2/24 dev eth0
    run nsenter -t "$1" -n ip link set lo up
    run nsenter -t "$1" -n ip link set eth0 up
    wait_for accepts 10.0.0.2
}

accepts() { (: <>"/dev/tcp/$1/7000") 2>/dev/null; } # ADDRESS

as_before() {
    expect 'mtu 1400' 'master br0' 'alias web, front' -- ip link show dev web0
}

# The smallest bundle that runc and crun checkpoint: the server on this machine's file system, read-only.
bundle() { # DIR
    mkdir "$1"
    "$project/.venv/bin/python3" -I -S - "$1/config.json" "$PWD/root" "$(realpath "$project/.venv/bin/python3")" "$server" <<'PYTHON'
import json, sys
file, root, python, server = sys.argv[1:]
kinds = ("pid", "network", "ipc", "uts", "mount")
json.dump({
    "ociVersion": "1.0.2", "hostname": "web", "root": {"path": root, "readonly": True},
    "process": {"user": {"uid": 0, "gid": 0}, "cwd": "/", "env": ["PATH=/usr/bin:/bin"],
                "args": [python, "-I", "-S", "-c", server]},
    "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"},
               {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"}],
    "linux": {"namespaces": [{"type": kind} for kind in kinds], "cgroupsPath": "/web",
              "resources": {"devices": [{"allow": True, "access": "rwm"}]}},
}, open(file, "w"), indent=2)
PYTHON
}
