# Words of the scripts that are made of pages (script.rs). One page runs as one shell.
set -euo pipefail
cd "$SCRATCH"

# where the script is; its last line in the log is where it failed
at() { printf '\n== %s\n' "$1"; }

# a new page: what `make up` wrote is what a person has read
page() {
    at "$1"
    [ ! -f target/up/env ] || { . target/up/env; export KUBECONFIG; }
}

# background COMMANDS: until this script ends, however it ends
background() {
    set -m
    ( eval "$1" ) >>"$SCRATCH/background.log" 2>&1 &
    watched $!
    set +m
}

# watched PID: its group does not outlive this script, however that ends
watched() {
    ( tail --pid=$$ -f /dev/null; kill -- "-$1" ) >/dev/null 2>&1 &
}

# until_shown TEXT COMMANDS: what people end with Ctrl-C
until_shown() {
    local shown="$SCRATCH/shown.log"
    : >"$shown"
    set -m
    ( eval "$2" ) >"$shown" 2>&1 &
    local job=$!
    watched $job
    set +m
    local end=$((SECONDS + 120))
    until grep -qF -- "$1" "$shown"; do
        kill -0 $job 2>/dev/null && [ $SECONDS -lt $end ] || { cat "$shown"; echo "nothing was said of: $1"; return 1; }
        sleep 0.1
    done
    cat "$shown"
    kill -- -$job
    wait $job 2>/dev/null || true
}

# one_of CODES COMMANDS: ends with one of these codes
one_of() {
    local code=0
    ( eval "$2" ) || code=$?
    case " $1 " in
        *" $code "*) ;;
        *) echo "ended with $code: $2"; return 1 ;;
    esac
}

# what there was, where something failed
dump() {
    [ $? = 0 ] && return
    [ ! -f target/up/env ] || { . target/up/env; export KUBECONFIG; }
    printf '\n-- what there is\n'
    kubectl get fettle --output wide || true
    kubectl get devicegroups,devicerollouts,firmwares,configprofiles --output yaml | grep -E '^    name:|message:|reason:' || true
    tail -n 6 "$SCRATCH/background.log" target/up/logs/fettle-*.log 2>/dev/null || true
}
trap dump EXIT
