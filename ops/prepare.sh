# What ops/demo, ops/test and ops/bench share: it installs what is missing. Sourced, not run.

say() { printf '%s\n' "$*" >&2; }

fail() {
    say "$(basename "$0"): $*"
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "needs root to install packages: run it as root, or install sudo"
    fi
}

# apt_install PACKAGE...: installs Debian packages, with the package lists brought up to date once.
apt_install() {
    command -v apt-get >/dev/null || fail "please install: $* (no apt-get here)"
    say "installing $*"
    if [ -z "${apt_updated:-}" ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q >&2
        apt_updated=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >&2
}

has_postgres() {
    local program
    for program in /usr/lib/postgresql/*/bin/postgres /usr/pgsql-*/bin/postgres /usr/local/pgsql/bin/postgres; do
        [ -x "$program" ] && return 0
    done
    command -v postgres >/dev/null
}

# PostgreSQL's servers, without the cluster that Debian would make and start beside them.
install_postgres() {
    local conf=/etc/postgresql-common/createcluster.conf line='create_main_cluster = false # ops/prepare.sh'
    if ! has_postgres; then
        apt_install postgresql-common
        # The last line wins; it goes away again, so that later installs by the machine's owner behave as ever.
        as_root sh -c "printf '%s\n' '$line' >>$conf"
        if ! (apt_install postgresql postgresql-client); then
            as_root sed -i '/# ops\/prepare.sh$/d' "$conf"
            fail "PostgreSQL could not be installed"
        fi
        as_root sed -i '/# ops\/prepare.sh$/d' "$conf"
    fi
    command -v psql >/dev/null || apt_install postgresql-client
}

install_compiler() {
    command -v cc >/dev/null || apt_install gcc libc6-dev
    if ! command -v cargo >/dev/null && [ -f "$HOME/.cargo/env" ]; then
        . "$HOME/.cargo/env"
    fi
    command -v cargo >/dev/null || fail "needs a Rust toolchain: see https://rustup.rs"
}

target_dir() { printf '%s' "${CARGO_TARGET_DIR:-target}"; }
