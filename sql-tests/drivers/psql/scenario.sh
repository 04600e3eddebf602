#!/usr/bin/env bash
# psql, as people and their scripts use it. Prints each check's name, a tab, and what came of it.
set -u

# ask ARGUMENT...: psql without the reader's own settings; errors come as `SQLSTATE: words`.
ask() {
    psql -X -q -A -t -v ON_ERROR_STOP=1 -v VERBOSITY=verbose "$@" 2>&1
}

# same WANTED ARGUMENT...: what psql prints is this.
same() {
    local wanted=$1 said
    shift
    said=$(ask "$@") || { problem "$said" && return 1; }
    [ "$said" = "$wanted" ] || { problem "wrong: $said" && return 1; }
}

# fails SQLSTATE ARGUMENT...
fails() {
    local state=$1 said
    shift
    if said=$(ask "$@"); then problem "wrong: it did not fail with $state: $said" && return 1; fi
    case $said in *" $state: "*) ;; *) problem "$said" && return 1 ;; esac
}

# The first thing that went wrong, in one line.
problem() {
    [ -n "$outcome" ] || outcome=$(printf '%s' "$1" | grep -m1 -E 'ERROR|FATAL|wrong|error' | sed -E 's/^(psql:)?.*(ERROR|FATAL):  ([0-9A-Z]{5}): /\3 /')
    [ -n "$outcome" ] || outcome="wrong: $(printf '%s' "$1" | head -1)"
}

check() {
    outcome=
    "$2"
    printf '%s\t%s\n' "$1" "${outcome:-ok}"
}

connect() {
    same 2 -c 'SELECT 1 + 1'
    same UTF8 -c 'SHOW server_encoding'
    same 7 -d "host=127.0.0.1,$PGHOST port=1,$PGPORT target_session_attrs=read-write connect_timeout=5" -c 'SELECT 7'
}

schema() {
    same '' -c 'DROP TABLE IF EXISTS q_item' >/dev/null
    outcome=
    same '' -c 'CREATE TABLE q_item (id bigint PRIMARY KEY, name text NOT NULL, price numeric DEFAULT 1)'
    same '' -c 'CREATE INDEX q_item_name ON q_item (name)'
}

migrations() {
    same '' --single-transaction -c 'ALTER TABLE q_item ADD COLUMN stock integer NOT NULL DEFAULT 0' -c 'CREATE INDEX q_item_stock ON q_item (stock)'
    fails 42P07 --single-transaction -c 'ALTER TABLE q_item ADD COLUMN lost integer' -c 'CREATE TABLE q_item (id bigint PRIMARY KEY)'
    fails 42703 -c 'SELECT lost FROM q_item WHERE id = 1'
}

crud() {
    same '' -c "INSERT INTO q_item (id, name) VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd'), (5, 'e'), (6, 'f')"
    same 6 -c 'SELECT count(*) FROM q_item'
    same '3|c' -c 'SELECT id, name FROM q_item WHERE id = 3'
    same 'c!' -c "UPDATE q_item SET name = name || '!' WHERE id = 3 RETURNING name"
    same '' -c 'DELETE FROM q_item WHERE id = 6'
    same 5 -c 'SELECT count(*) FROM q_item'
}

script() {
    same "$(printf '20\nc!')" -f - <<'SQL'
BEGIN;
UPDATE q_item SET price = 10 WHERE id IN (1, 2);
SAVEPOINT here;
UPDATE q_item SET price = 99 WHERE id = 2;
ROLLBACK TO here;
COMMIT;
SELECT price * 2 AS twice FROM q_item WHERE id = 2 \gset
\echo :twice
PREPARE by_id AS SELECT name FROM q_item WHERE id = $1;
EXECUTE by_id(3);
SQL
}

copies() {
    local file
    file=$(mktemp)
    seq 1000 1999 | sed 's/$/\tcopied/' >"$file"
    same '' -c "\\copy q_item (id, name) FROM '$file'"
    same 1000 -c "SELECT count(*) FROM q_item WHERE name = 'copied'"
    same '' -c "\\copy q_item (id) TO '$file' CSV"
    [ "$(grep -c '^1[0-9][0-9][0-9]$' "$file")" = 1000 ] || problem 'wrong: not all rows'
    rm -f "$file"
}

describes() {
    local said
    for command in '\d' '\dt' '\d q_item' '\di+ q_item*' '\l' '\dn' '\du' '\df length' '\dT int*' '\dp q_item' '\d+ q_item' '\conninfo'; do
        said=$(ask -c "$command") || problem "$said"
    done
    same 'public|q_item|table|postgres' -c '\dt q_item'
}

errors() {
    fails 42601 -c 'SELEC 1'
    fails 23505 -c "INSERT INTO q_item (id, name) VALUES (1, 'again')"
    fails 22P02 -c "INSERT INTO q_item (id, name) VALUES ('x', 'again')"
    fails 42P01 -c 'SELECT * FROM q_nosuch'
}

chunked() {
    same 1005 -f - <<'SQL'
\set FETCH_COUNT 100
SELECT id FROM q_item WHERE name IS NOT NULL \g | wc -l
SQL
}

cancelled() {
    local said
    # psql passes an interrupt on as a cancel request.
    said=$(timeout --foreground -s INT 1 psql -X -v VERBOSITY=verbose -c 'SELECT pg_sleep(20)' 2>&1)
    case $said in *57014*) ;; *) problem "wrong: $said" ;; esac
}

timeouts() {
    fails 57014 -c "SET statement_timeout = '200ms'" -c 'SELECT pg_sleep(20)'
}

reports() {
    same "$(printf '5\n4')" -c 'SELECT id FROM q_item WHERE id < 10 ORDER BY id DESC LIMIT 2'
}

sums() {
    same 15 -c 'SELECT sum(id) FROM q_item WHERE id < 10'
}

temporary() {
    same '' -c 'CREATE TEMPORARY TABLE q_temporary (id bigint)'
}

views() {
    same '' -c 'DROP VIEW IF EXISTS q_view' >/dev/null
    outcome=
    same '' -c 'CREATE VIEW q_view AS SELECT id, name FROM q_item'
    same 1 -c 'SELECT id FROM q_view WHERE id = 1'
    ask -c 'DROP VIEW IF EXISTS q_view' >/dev/null
}

functions() {
    same '' -c 'DROP FUNCTION IF EXISTS q_twice' >/dev/null
    outcome=
    same '' -c 'CREATE FUNCTION q_twice(n bigint) RETURNS bigint LANGUAGE sql AS $$ SELECT n * 2 $$'
    same 42 -c 'SELECT q_twice(21)'
}

check connect connect
check schema schema
check migrations migrations
check crud crud
check 'a script with \gset and PREPARE' script
check '\copy' copies
check '\d and its kin' describes
check errors errors
check 'FETCH_COUNT and a pipe' chunked
check cancel cancelled
check statement_timeout timeouts
check 'ORDER BY and LIMIT over all rows' reports
check 'sum over all rows' sums
check 'temporary tables' temporary
check views views
check functions functions
