#!/usr/bin/env bash
# Usage: bootstrap.sh PYTHON VENV
# Checks what the machine must have, makes the virtual environment and installs the pinned tools.
set -euo pipefail
python=$1
venv=$2
here=$(cd "$(dirname "$0")" && pwd)

stop() {
    printf '\nturnwise cannot be built yet: %s\n' "$1" >&2
    exit 1
}

command -v cargo >/dev/null || stop "cargo is missing. Install Rust from https://rustup.rs, then run make again."
needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$here/../Cargo.toml")
found=$(rustc --version | cut -d' ' -f2 | cut -d- -f1)
[ "$(printf '%s\n%s\n' "$needed" "$found" | sort -V | head -n 1)" = "$needed" ] ||
    stop "Rust $needed or newer is needed, this is $found. Run: rustup update stable"
command -v cc >/dev/null || stop "a C compiler is missing. Run: apt-get install gcc libc6-dev"
command -v "$python" >/dev/null || stop "$python is missing. Run: apt-get install python3 python3-venv"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    stop "Python 3.10 or newer is needed, $python is $("$python" -V). Name another one: make PYTHON=python3.12"

# Debian splits ensurepip off into a package of its own, named after the exact Python version.
if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
    package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    advice="$python cannot make virtual environments. Run as root: apt-get update && apt-get install $package"
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "Installing $package, without which $python cannot make virtual environments"
        { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$package"; } ||
            stop "$advice"
    else
        stop "$advice"
    fi
fi

echo "Making $venv with $("$python" -V)"
"$python" -m venv "$venv"
echo "Installing the tools pinned in tools/dev-requirements.txt (once, about half a minute)"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$here/dev-requirements.txt"
