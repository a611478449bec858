# Runs one throw-away PostgreSQL for as long as the test process lives.
#
#     sh postgres.sh BIN PORT [COMMAND PREFIX …]
#
# BIN holds the server's programs; the prefix runs them as another user, because PostgreSQL refuses to run as root.
# PREPARE is a command that it runs before the server starts, OPTIONS are more options for the server. Prints the
# cluster's directory once it answers. Standard input is a pipe whose other end only the test process holds: it closes
# when that process ends, however it ends. Then this script removes the cluster and its directory.
set -eu
bin=$1 port=$2
shift 2

directory=$(mktemp -d)
finish() {
    # A server that a test has suspended must run again before it can stop.
    kill -s CONT "$(head -n 1 "$directory/data/postmaster.pid" 2>/dev/null)" 2>/dev/null || true
    "$@" "$bin/pg_ctl" -D "$directory/data" -m immediate stop >/dev/null 2>&1 || true
    rm -rf "$directory"
}
trap 'finish "$@"' EXIT
trap 'exit 1' HUP INT TERM
[ $# -eq 0 ] || chown postgres "$directory"

init() {
    "$@" "$bin/initdb" -D "$directory/data" -U postgres --auth trust --encoding UTF8 --locale C.UTF-8 --no-sync \
        --no-instructions $LOCALE >"$directory/initdb.log" 2>&1
}
# A build without ICU has the locale that is built in since version 17.
LOCALE='--locale-provider icu --icu-locale en-US'
init "$@" || {
    grep -q 'ICU is not supported' "$directory/initdb.log" && {
        LOCALE='--locale-provider builtin --builtin-locale C.UTF-8'
        init "$@"
    }
} || {
    cat "$directory/initdb.log" >&2
    exit 1
}
(cd "$directory" && "$@" sh -c "$PREPARE")
"$@" "$bin/pg_ctl" -D "$directory/data" -l "$directory/data/log" -w -t 30 -o "-p $port -c listen_addresses=127.0.0.1 \
    -c unix_socket_directories=$directory -c max_connections=200 -c fsync=off -c full_page_writes=off \
    -c synchronous_commit=off $OPTIONS" start >/dev/null 2>&1 || {
    cat "$directory/data/log" >&2
    exit 1
}
echo "$directory"
cat >/dev/null
