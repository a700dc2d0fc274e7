#!/usr/bin/env bash
# The guard of the hot path counts instructions with valgrind. Its test says so when it is missing.
set -euo pipefail

command -v valgrind >/dev/null && exit
if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "Installing valgrind, with which the tests count instructions"
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq valgrind && exit
fi
echo "valgrind is missing, and the tests of the hot path will fail. Run as root: apt-get install valgrind" >&2
