#!/bin/sh
# Runs every row of docs/benchmarks.md, one after another, on servers of its own, and prints their
# results. Takes about an hour, and up to 20 GB of disk.
#
#   cargo build --release && docs/benchmarks.sh | tee benchmarks.txt
#
# TOWPATH   the program [target/release/towpath]
# WORK_DIR  where its servers keep their data; not a RAM disk, or fsync costs nothing [/var/tmp]
# ROUNDS, DURATION, HOLD                                                      [5, 3s, 2m]
# SPACE_OFF a setting that turns the space task off; without it its row is left out
# ROWS      names of rows, to run only these
set -eu
cd "$(dirname "$0")/.."

towpath=${TOWPATH:-target/release/towpath}
rounds=${ROUNDS:-5} duration=${DURATION:-3s} hold=${HOLD:-2m}
work=$(mktemp -d "${WORK_DIR:-/var/tmp}/towpath-benchmarks.XXXXXX")
chmod 755 "$work"
pids=
failed=

finish() {
    for pid in $pids; do kill "$pid" 2>/dev/null || true; done
    for pid in $pids; do wait "$pid" 2>/dev/null || true; done
    rm -rf "$work"
}
trap finish EXIT
trap 'exit 130' INT TERM HUP

# start PORT DIRECTORY [ARGUMENT...]: a server, and waits until it serves.
start() {
    port=$1 dir=$2
    shift 2
    "$towpath" serve --listen "127.0.0.1:$port" --data-dir "$dir" \
        --set server.shutdown_delay=0s --set database.max_connections=200 "$@" \
        >"$work/$port.log" 2>&1 &
    pids="$! $pids"
    tries=0
    until "$towpath" healthcheck --url "http://127.0.0.1:$port" 2>/dev/null; do
        tries=$((tries + 1))
        if [ "$tries" -ge 60 ]; then
            cat "$work/$port.log" >&2
            exit 1
        fi
        sleep 1
    done
}

# row NAME ARGUMENT...: one run of the benchmark.
row() {
    name=$1
    shift
    case " ${ROWS:-$name} " in *" $name "*) ;; *) return 0 ;; esac
    printf '\n=== %s\n\n' "$name"
    "$towpath" bench --url "$one" --data-dir "$work/one" \
        --rounds "$rounds" --duration "$duration" "$@" || failed="$failed $name"
}

one=http://127.0.0.1:19401
two=http://127.0.0.1:19402
other=http://127.0.0.1:19403
start 19401 "$work/one"
start 19402 "$work/one"
database="postgres://towpath@localhost/towpath?host=$work/one/pg/run"

row sends --scenario send --connections 128
row cycles
row cycles-10 --batch 10 --size 100
row cycles-10-1k --batch 10 --size 1024
row latency --scenario send --connections 1
row baseline-sends --scenario send --connections 64 --baseline-database-url "$database"
row baseline-cycles --connections 64 --baseline-database-url "$database"
row two-servers --against "$one,$two"
row backlog-1M --condition backlog=1M
row in-flight --condition in-flight=200k
row delayed --condition delayed=1M
row idle-queues --condition idle-queues=10k
row held-snapshot --condition "held-snapshot=$hold" --database-url "$database"
row held-snapshot-steady --condition "held-snapshot=$hold" --rate 2000 --database-url "$database"
row backlog-10M --condition backlog=10M
if [ -n "${SPACE_OFF:-}" ]; then
    start 19403 "$work/other" --set "$SPACE_OFF"
    row space-off --against "$other" --against-data-dir "$work/other"
fi

if [ -n "$failed" ]; then
    echo "these rows failed:$failed" >&2
    exit 1
fi
