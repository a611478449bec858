# Holds one throw-away MariaDB for as long as the test process lives.
#
#     sh mariadb.sh PORT
#
# PREPARE is a command that runs in the server's directory before the server starts, OPTIONS are more options for the server.
# DISK is the size of a disk of its own for the data; only root can mount one.
# Prints the server's directory, in which `start` starts the server. Standard input is a pipe whose other end only the test
# process holds: it closes when that process ends, however it ends. Then this script ends the server and removes the directory.
set -eu
port=$1

directory=$(mktemp -d)
finish() {
    server=$(cat "$directory/pid" 2>/dev/null || true)
    # The number may belong to another process by now.
    if [ -n "$server" ] && tr '\0' ' ' <"/proc/$server/cmdline" 2>/dev/null | grep -qF -- "--datadir=$directory/data"; then
        kill -s KILL "$server" 2>/dev/null || true
        while kill -s 0 "$server" 2>/dev/null; do sleep 0.01; done
    fi
    # A test may have mounted a small disk there.
    umount "$directory/data" 2>/dev/null || true
    rm -rf "$directory"
}
trap 'finish' EXIT
trap 'exit 1' HUP INT TERM

# Nothing waits for the disk: a test may kill the server, but not the machine.
common="--no-defaults --tmpdir=$directory --skip-name-resolve --skip-log-bin --innodb-flush-method=nosync --innodb-log-file-size=8M"
# Debian's package brings the user `mysql`; the server refuses to run as root.
as_user=
[ "$(id -u)" -ne 0 ] || as_user="setpriv --reuid=mysql --regid=mysql --init-groups"

mkdir "$directory/data"
[ -z "$DISK" ] || mount -t tmpfs -o "size=$DISK" none "$directory/data"
[ -z "$as_user" ] || chown mysql "$directory" "$directory/data"
chmod 755 "$directory"
(cd "$directory" && $as_user sh -c "$PREPARE")
$as_user mariadb-install-db $common --auth-root-authentication-method=normal --skip-test-db --datadir="$directory/data" \
    --innodb-buffer-pool-size=16M >"$directory/install.log" 2>&1 || {
    cat "$directory/install.log" >&2
    exit 1
}
# The number is written first, so that no server is ever unknown to this script.
cat >"$directory/start" <<END
cd "$directory"
echo \$\$ >"$directory/pid"
# Without a log yet, the server says on standard error why it does not start.
exec 2>>"$directory/said"
exec $as_user mariadbd $common --datadir="$directory/data" --socket="$directory/socket" --pid-file="$directory/own.pid" \
    --port=$port --bind-address=127.0.0.1 --log-error="$directory/log.err" --innodb-flush-log-at-trx-commit=2 \
    --innodb-buffer-pool-size=32M --performance-schema=OFF --max-connections=200 --lower-case-table-names=0 \
    --plugin-load-add=auth_ed25519 $OPTIONS "\$@"
END
echo "$directory"
cat >/dev/null
