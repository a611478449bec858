# Functions that the scripts beside it share: run a throw-away PostgreSQL or MariaDB, start servers, load them with wrk, end them, and
# print tables of the results. Each script sources this file, with its own name in $script.
#
# PROFILE=dev takes the binaries of `cargo build`, as scripts/test does, and leaves out peers that are not built. It shows that a
# script works; its numbers mean nothing. PROFILE=profiling is a release build with line information for perf.

export DB_POOL=${DB_POOL:-16} PGHOST=127.0.0.1 PGUSER=postgres PGDATABASE=postgres
target=${CARGO_TARGET_DIR:-target}
profile=${PROFILE:-release}
case $profile in
release) built=$target/release release=(--release) ;;
profiling) built=$target/profiling release=(--profile profiling) ;;
dev) built=$target/debug release=() ;;
*) echo "$script: PROFILE is release, profiling or dev, not $profile" >&2; exit 2 ;;
esac
wharf=$built/wharf
scratch=$(mktemp -d)

need() { # PROGRAM PACKAGE
    command -v "$1" >/dev/null || { echo "$script: needs $1 (Debian's package $2)" >&2; exit 2; }
}

build() { # CARGO'S ARGUMENTS …
    cargo build "${release[@]}" --locked "$@"
}

# Builds the named programs of benches/peers in a release run. $peers lists the programs that exist.
peers=()
build_peers() { # NAME …
    local name of=${built##*/}
    if [ "$profile" = release ]; then
        # From its own directory, whose .cargo/config.toml says how SQLite is built there.
        (mkdir -p "$target/peers" && target=$(realpath "$target/peers") && cd benches/peers &&
            cargo build --release --locked --target-dir "$target" "${@/#/--bin=}")
    fi
    for name; do
        [ ! -x "$target/peers/$of/$name" ] || peers+=("$name")
    done
}
peer() { echo "$target/peers/${built##*/}/$1"; } # NAME

declare -A port pid
finish() {
    local each
    for each in "${pid[@]}"; do
        kill -CONT "$each" 2>/dev/null || true
        kill "$each" 2>/dev/null || true
    done
    rm -rf "$scratch"
}
trap finish EXIT

free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# TechEmpower's `world` table in a cluster that the tests' own keeper ends when this script's end of the pipe closes.
start_postgres() {
    bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
    [ -n "$bin" ] || { echo "$script: needs PostgreSQL's server (Debian's package postgresql)" >&2; exit 2; }
    local as_postgres=()
    [ "$(id -u)" -ne 0 ] || as_postgres=(setpriv --reuid=postgres --regid=postgres --init-groups)
    PGPORT=$(free_port); export PGPORT
    coproc KEEPER { PREPARE=true OPTIONS= sh tests/support/postgres.sh "$bin" "$PGPORT" "${as_postgres[@]}"; }
    read -r _ <&"${KEEPER[0]}"
    "$bin/psql" -q -v ON_ERROR_STOP=1 <<'SQL'
create table world (id int primary key, randomnumber int not null);
insert into world select i, 1 + floor(random() * 10000)::int from generate_series(1, 10000) i;
create table if not exists account (id int primary key, balance int not null);
insert into account select i, 1000000 from generate_series(1, 10000) i on conflict do nothing;
create table if not exists note (id serial primary key, author varchar(40) not null, body varchar(200) not null);
vacuum analyze world, account;
SQL
}

# The same table in a MariaDB that the tests' own keeper ends when this script's end of the pipe closes. Its URL is in MYSQL_URL.
start_mariadb() {
    PATH=$PATH:/usr/sbin need mariadbd mariadb-server
    local mysql_port directory server
    mysql_port=$(free_port)
    # A shell has one coprocess at most, and PostgreSQL's keeper is one.
    exec {mariadb_keeper}> >(PREPARE=true OPTIONS= DISK= PATH=$PATH:/usr/sbin sh tests/support/mariadb.sh "$mysql_port" >"$scratch/mariadb")
    until [ -s "$scratch/mariadb" ]; do sleep 0.1; done
    directory=$(<"$scratch/mariadb")
    PATH=$PATH:/usr/sbin sh "$directory/start" >/dev/null 2>&1 {mariadb_keeper}>&- &
    server=(mariadb --no-defaults --socket "$directory/socket" --user root)
    for _ in $(seq 600); do
        "${server[@]}" -e 'select 1' >/dev/null 2>&1 && break
        sleep 0.1
    done
    "${server[@]}" <<'SQL'
create database hello_world;
use hello_world;
create table world (id int primary key, randomnumber int not null);
insert into world select seq, 1 + floor(rand() * 10000) from seq_1_to_10000;
create table account (id int primary key, balance int not null);
insert into account select seq, 1000000 from seq_1_to_10000;
create user bench@'%' identified by 'bench';
grant all on hello_world.* to bench@'%';
SQL
    export MYSQL_URL="mysql://bench:bench@127.0.0.1:$mysql_port/hello_world"
}

# The same table in an SQLite file, whose name is in SQLITE_FILE.
start_sqlite() {
    SQLITE_FILE=$scratch/world.db; export SQLITE_FILE
    python3 - "$SQLITE_FILE" <<'PYTHON'
import random, sqlite3, sys
with sqlite3.connect(sys.argv[1]) as file:
    file.execute("create table world (id integer primary key, randomnumber integer not null)")
    file.executemany("insert into world values (?, ?)", ((i, random.randint(1, 10000)) for i in range(1, 10001)))
PYTHON
}

# Starts a server with a PORT of its own and waits for a row of its /db, for a minute because valgrind makes a start slow.
start() { # NAME COMMAND …
    local name=$1; shift
    port[$name]=$(free_port)
    PORT=${port[$name]} "$@" >/dev/null 2>"$scratch/$name.log" &
    pid[$name]=$!
    python3 - "http://127.0.0.1:${port[$name]}/db" <<'PYTHON' || { echo "$script: $name does not answer" >&2; tail "$scratch/$name.log" >&2; exit 1; }
import json, sys, time, urllib.request
for _ in range(1200):
    try:
        with urllib.request.urlopen(sys.argv[1], timeout=2) as answer:
            sys.exit(sorted(json.load(answer)) != ["id", "randomNumber"])
    except OSError:
        time.sleep(0.05)
sys.exit(1)
PYTHON
}

# User and system time of a process, in ticks.
ticks() { awk '{ print $14 + $15 }' "/proc/$1/stat"; } # PID
to_ms='function ms(t) { return t ~ /us$/ ? t / 1000 : t ~ /ms$/ ? t + 0 : t * 1000 }'
measure() { # NAME PATH CONNECTIONS
    local before after report
    before=$(ticks "${pid[$1]}")
    report=$(wrk -t2 -c"$3" -d"${seconds}s" --latency "http://127.0.0.1:${port[$1]}$2")
    after=$(ticks "${pid[$1]}")
    awk -v cpu=$((after - before)) -v hz="$(getconf CLK_TCK)" "$to_ms"'
        $1 == "50%" { p50 = ms($2) } $1 == "99%" { p99 = ms($2) }
        $2 == "requests" && $3 == "in" { count = $1 } $1 == "Requests/sec:" { rate = $2 }
        /Non-2xx|Socket errors/ { wrong = wrong $0 }
        END { printf "%.0f %.2f %.2f %.1f %s\n", rate, p50, p99, cpu / hz * 1e6 / count, wrong }' <<<"$report"
}

# Loads the servers one after the other with LABEL:PATH:CONNECTIONS, each as often as there are rounds, and prints the means.
# It skips a label for the servers for which `leaves_out NAME LABEL` succeeds, because they do not serve it.
compare() { # TEST …, the servers' names in $names
    local name round each label path connections
    if [ "$profile" != dev ]; then
        for name in "${names[@]}"; do wrk -t2 -c64 -d2s "http://127.0.0.1:${port[$name]}/db" >/dev/null; done
    fi
    for round in $(seq "$rounds"); do
        for each; do
            IFS=: read -r label path connections <<<"$each"
            for name in "${names[@]}"; do
                leaves_out "$name" "$label" || echo "$label-$connections $name $(measure "$name" "$path" "$connections")" >>"$scratch/results"
            done
        done
        echo "round $round of $rounds done" >&2
    done
    echo "| test | server | req/s | p50 ms | p99 ms | CPU µs/req | errors |"
    echo "|---|---|---|---|---|---|---|"
    awk '{ k = $1 " | " $2; if (!(k in n)) order[++m] = k; n[k]++; r[k] += $3; a[k] += $4; z[k] += $5; c[k] += $6
           $1 = $2 = $3 = $4 = $5 = $6 = ""; sub(/^ +/, ""); e[k] = e[k] $0 }
         END { for (i = 1; i <= m; i++) { k = order[i]
           printf "| %s | %.0f | %.2f | %.2f | %.1f | %s |\n", k, r[k]/n[k], a[k]/n[k], z[k]/n[k], c[k]/n[k], e[k] == "" ? "0" : e[k] } }' "$scratch/results"
}

heading() { # WHAT
    echo "# $1$(date -u +%F), $(nproc) cores ($(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo))"
    echo
    [ "$profile" != dev ] || { echo "Built without optimization, to show that the script works; the numbers say nothing."; echo; }
}
