#!/usr/bin/env bash
# Installs what the drivers' scenarios need and a machine lacks, below target/drivers; does nothing where all is there.
set -euo pipefail
cd "$(dirname "$0")/../.."
. ops/prepare.sh

here=sql-tests/drivers
there=$(target_dir)/drivers
mkdir -p "$there"
there=$(cd "$there" && pwd)

# fresh FILE...: whether something that $there/NAME was made of has changed since. NAME comes first.
fresh() {
    local made=$there/$1
    shift
    [ -e "$made" ] && for file in "$@"; do [ "$made" -nt "$file" ] || return 1; done
}

command -v psql >/dev/null || apt_install postgresql-client
command -v cc >/dev/null || apt_install gcc libc6-dev
[ -e /usr/include/postgresql/libpq-fe.h ] || apt_install libpq-dev
[ -e /usr/share/java/postgresql.jar ] || apt_install libpostgresql-jdbc-java
command -v javac >/dev/null || apt_install default-jdk-headless
command -v node >/dev/null || apt_install nodejs
command -v npm >/dev/null || apt_install npm

if ! fresh libpq "$here/libpq/scenario.c"; then
    cc -O1 -Wall -Wextra -Werror -I/usr/include/postgresql "$here/libpq/scenario.c" -o "$there/libpq" -lpq
fi
if ! fresh pgjdbc/Scenario.class "$here/pgjdbc/Scenario.java"; then
    javac -Xlint:all -cp /usr/share/java/postgresql.jar -d "$there/pgjdbc" "$here/pgjdbc/Scenario.java"
fi
if ! fresh sqlx "$here/sqlx/Cargo.lock" "$here/sqlx/src/main.rs"; then
    # It has a lock file and a target directory of its own.
    CARGO_TARGET_DIR=$there/sqlx-target cargo build --quiet --locked --manifest-path "$here/sqlx/Cargo.toml"
    cp "$there/sqlx-target/debug/scenario" "$there/sqlx"
fi
if ! fresh node-postgres/installed "$here/node-postgres/package-lock.json"; then
    mkdir -p "$there/node-postgres"
    cp "$here"/node-postgres/package*.json "$there/node-postgres"
    npm ci --prefix "$there/node-postgres" --ignore-scripts --no-audit --no-fund --loglevel=error >&2
    touch "$there/node-postgres/installed"
fi
if ! fresh python/installed "$here/python/requirements.txt"; then
    python3 -c 'import ensurepip' 2>/dev/null || apt_install python3-venv
    rm -rf "$there/python"
    python3 -m venv "$there/python"
    "$there/python/bin/pip" install -q --require-hashes --only-binary :all: -r "$here/python/requirements.txt" >&2
    touch "$there/python/installed"
fi
