#!/usr/bin/env bash
# Adds what rustup's minimal profile leaves out: the formatter, the linter, and the wasm32 standard
# library, which proves that the pure half stays pure.
set -euo pipefail

add() { # add COMMAND...: the rustup command that brings the part
    command -v rustup >/dev/null || {
        echo "The static checks need what this command adds: rustup $*. Install Rust from https://rustup.rs" >&2
        exit 1
    }
    rustup "$@"
}

cargo fmt --version >/dev/null 2>&1 || add component add rustfmt
cargo clippy --version >/dev/null 2>&1 || add component add clippy
[ -d "$(rustc --print sysroot)/lib/rustlib/wasm32-unknown-unknown" ] || add target add wasm32-unknown-unknown
