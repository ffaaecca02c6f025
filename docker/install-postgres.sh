#!/bin/sh
# Installs PostgreSQL's server programs (15 or newer) with this system's package manager.
#
# Towpath runs a server of its own on them; nothing is started here. Does nothing when they are
# there already. Asks for root by sudo where that is needed.
set -eu

oldest=15

say() { printf 'install-postgres: %s\n' "$*"; }
fail() { say "$*" >&2; exit 1; }

# Prints the folder of the first installation that is new enough, and its version.
find_server() {
    for bin in \
        "$(dirname "$(command -v postgres || echo /nowhere/postgres)")" \
        /usr/lib/postgresql/*/bin /usr/pgsql-*/bin /usr/libexec/postgresql* \
        /opt/homebrew/opt/postgresql@*/bin /usr/local/opt/postgresql@*/bin \
        /home/linuxbrew/.linuxbrew/opt/postgresql@*/bin \
        /Applications/Postgres.app/Contents/Versions/*/bin
    do
        [ -x "$bin/postgres" ] && [ -x "$bin/initdb" ] || continue
        version=$("$bin/postgres" --version | sed 's/.*(PostgreSQL) \([0-9]*\).*/\1/')
        if [ "${version:-0}" -ge "$oldest" ] 2>/dev/null; then
            echo "PostgreSQL $version in $bin"
            return
        fi
    done
    return 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "this needs root: run as root: $*"
    fi
}

apt() { as_root env DEBIAN_FRONTEND=noninteractive apt-get -q "$@"; }

# Debian's packages make and start a cluster `main` unless told otherwise before. What the file said
# comes back, also after an interrupt.
install_debian() {
    clusters=/etc/postgresql-common/createcluster.conf
    before=$clusters.before-towpath
    apt update
    [ -e "$clusters" ] || apt install -y --no-install-recommends postgresql-common
    as_root touch "$clusters"
    # One that is there is from a run that was killed.
    [ -e "$before" ] || as_root cp -p "$clusters" "$before"
    trap 'as_root mv "$before" "$clusters"' EXIT
    trap 'exit 130' INT TERM HUP
    # The last line that says it counts.
    echo 'create_main_cluster = false' | as_root tee -a "$clusters" >/dev/null
    apt install -y --no-install-recommends postgresql
}

# Where the default is an older version, newer ones are modules.
install_fedora() {
    if dnf -q module list postgresql:16 >/dev/null 2>&1; then
        as_root dnf -y module enable postgresql:16
    fi
    as_root dnf install -y postgresql-server
}

if found=$(find_server); then
    say "nothing to do: $found"
    exit 0
fi

if command -v apt-get >/dev/null; then
    say "installing package postgresql with apt-get"
    install_debian
elif command -v dnf >/dev/null; then
    say "installing package postgresql-server with dnf"
    install_fedora
elif command -v apk >/dev/null; then
    say "installing package postgresql with apk"
    as_root apk add postgresql
elif command -v pacman >/dev/null; then
    say "installing package postgresql with pacman"
    as_root pacman -S --noconfirm --needed postgresql
elif command -v brew >/dev/null; then
    say "installing formula postgresql@18 with brew"
    brew install postgresql@18
else
    fail "no package manager known here: install PostgreSQL >= $oldest, or set DATABASE_URL"
fi

found=$(find_server) ||
    fail "this system's package is older than PostgreSQL $oldest: see postgresql.org/download, or set DATABASE_URL"
say "done: $found"
