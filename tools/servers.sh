#!/usr/bin/env bash
# The tests of the SQLAlchemy layer start private PostgreSQL, MariaDB and Redis servers, and compile two drivers.
# Usage: servers.sh PYTHON
set -euo pipefail
python=${1:-python3}

missing=()
has() { command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ]; }
has postgres || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
{ has mariadbd && has mariadb-install-db; } || missing+=(mariadb-server-core)
# Redis' server is the program that checks its files, by another name; its own package starts a service.
{ has redis-server || has redis-check-rdb; } || missing+=(redis-tools)
has my_print_defaults || missing+=(mariadb-client-core)
has mariadb_config || missing+=(libmariadb-dev)
has pkg-config || missing+=(pkg-config)
headers=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
[ -e "$headers/Python.h" ] || missing+=("$("$python" -c 'import sys; print("python%d.%d-dev" % sys.version_info[:2])')")

[ ${#missing[@]} -eq 0 ] && exit
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "Installing ${missing[*]}, on which the tests of the SQLAlchemy layer run"
    # Else PostgreSQL's package makes a database of its own and starts a server for it; the MariaDB
    # packages named here hold the programs alone.
    settings=/etc/postgresql-common/createcluster.d/turnwise-tests.conf
    trap 'rm -f "$settings"' EXIT
    mkdir -p "${settings%/*}"
    echo "create_main_cluster = false" >"$settings"
    apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" && exit
fi
echo "The tests of the SQLAlchemy layer cannot run without ${missing[*]}." \
    "Run as root: apt-get install --no-install-recommends ${missing[*]}" >&2
exit 1
