# List the recipes.
default:
    @just --list

# Start a server on this machine, ping it 100 times, and stop it.
demo: build
    ./target/release/ping-client --demo

# Host the actor, for clients on this machine and others.
server *ARGUMENTS: build
    ./target/release/ping-server {{ARGUMENTS}}

# Ping the actor on the server at ADDRESS.
client ADDRESS *ARGUMENTS: build
    ./target/release/ping-client --server {{ADDRESS}} {{ARGUMENTS}}

# Build what is shipped.
build:
    cargo build --release

# Run all tests that any user may run.
test:
    cargo test --workspace

# Run the tests that make network namespaces; they need Linux, root and iproute2.
test-net:
    cargo test -p ping-lab --test net -- --ignored

# Check formatting, lints and documentation.
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Measure against a stock Kameo program and raw TCP, on this machine.
bench:
    cargo bench -p ping-lab

# Random faults under load, and whether every ping was counted once; needs Linux, root, iproute2 and nft.
chaos MINUTES="2" SEED="1":
    cargo run --release -p ping-lab --bin chaos -- {{MINUTES}} {{SEED}}

# Full rate for minutes, then clients that come and go, and whether anything grows; needs Linux.
soak MINUTES="10" CLIENTS="10000":
    cargo run --release -p ping-lab --bin soak -- {{MINUTES}} {{CLIENTS}}

# Feed the decoder random input for five minutes; needs cargo-fuzz and a nightly compiler.
fuzz TARGET="stream":
    cargo +nightly fuzz run {{TARGET}} -- -max_total_time=300
