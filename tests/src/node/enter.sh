#!/bin/bash
# Becomes the `unshare` whose child is a node's first process; what has to be done for it from outside, a child does that
# outlives it: the cable to this machine, and in the end the sweeping, however that end comes.
# The variables are those of setup.rs. Ends with 75 where another node has this number.
set -euo pipefail

exec 8>"$LOCK"
flock --nonblock 8 || exit 75

sweep() {
    ip link del "$LINK" 2>/dev/null || true
    local folder left
    # a process that was just killed may still be counted in its group
    for _ in {1..200}; do
        left=
        for folder in /sys/fs/cgroup/"$NAME" /sys/fs/cgroup/*/"$NAME"; do
            [ -d "$folder" ] || continue
            find "$folder" -depth -type d -exec rmdir {} + 2>/dev/null || true
            [ ! -d "$folder" ] || left=1
        done
        [ -n "$left" ] || break
        sleep 0.05
    done
}

# `$1` is the pid of `unshare`
outside() {
    trap '' HUP INT TERM
    local child first=
    for _ in {1..1000}; do
        # this one is a child of it, too
        for child in $(cat "/proc/$1/task/$1/children" 2>/dev/null); do
            ! grep -qs "$INIT" "/proc/$child/cmdline" || first=$child
        done
        [ -z "$first" ] || break
        sleep 0.01
    done
    echo "$first" >"$DATA/first.pid"
    # a node that was killed meanwhile is swept all the same
    ip link add "$LINK" type veth peer name eth0 netns "$first" &&
        ip addr add "$HOST_ADDRESS/30" dev "$LINK" && ip link set "$LINK" up &&
        ip route replace "$NET" via "$NODE_ADDRESS" dev "$LINK" onlink && touch "$DATA/cable"
    # The node's processes hold the other end of this pipe, and they alone: it closes with the last of them.
    cat >/dev/null || true
    sweep
    for _ in {1..100}; do
        rm -rf "$DATA" 2>/dev/null && break
        sleep 0.05
    done
    [ -z "$SWEEP" ] || rm -rf "$SWEEP"
}

# what one left that lost even its sweeper
sweep
exec 9> >(outside $$ >>"$LOGS/outside.log" 2>&1)
exec "$UNSHARE" --fork --kill-child=KILL --pid --mount --uts --ipc --net --propagation private -- "$INIT"
