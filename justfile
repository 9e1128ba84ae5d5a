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
    ./target/release/ping-client {{ADDRESS}} {{ARGUMENTS}}

# One side of a rally on this machine: serves the ball, three times round. Start it before or after the other side.
demo-alpha: build
    ./target/release/ping-server --node alpha --ephemeral --port 9001 --join 127.0.0.1:9002 --rally --rounds 3

# The other side.
demo-beta: build
    ./target/release/ping-server --node beta --ephemeral --port 9002 --join 127.0.0.1:9001 --rally

# Both sides of a rally.
rally ROUNDS="3": build
    #!/bin/sh
    ./target/release/ping-server --node beta --ephemeral --port 9002 --rally &
    trap "kill $!" EXIT
    ./target/release/ping-server --node alpha --ephemeral --port 9001 --join 127.0.0.1:9002 --rally --rounds {{ROUNDS}}

# Build the two programs.
build:
    cargo build --release

# Build the archive of a release, with manual pages and completions, for TARGET.
package TARGET="x86_64-unknown-linux-musl":
    packaging/archive {{TARGET}}

# Run the tests that need no root.
test:
    cargo test --workspace

# Run the tests that make network namespaces; they need Linux, root, iproute2 and nftables.
test-net:
    .ci/run net

# Check formatting, lints and documentation, and that everything compiles for Windows.
check:
    .ci/run check

# Measure against a stock Kameo program and raw TCP, on this machine.
bench:
    cargo bench -p ping-lab

# Inject random faults under load, and check that every ping is counted once; needs Linux, root, iproute2 and nft.
chaos MINUTES="2" SEED="1":
    cargo run --release -p ping-lab --bin chaos -- {{MINUTES}} {{SEED}}

# Ping at full rate beside hostile peers, then connect many clients, and check that nothing grows; needs Linux.
soak MINUTES="10" CLIENTS="10000":
    cargo run --release -p ping-lab --bin soak -- {{MINUTES}} {{CLIENTS}}

# Fuzz a target for five minutes; needs cargo-fuzz. `cargo fuzz list` names the targets.
fuzz TARGET="node" SECONDS="300":
    cargo fuzz run --sanitizer none {{TARGET}} -- -max_total_time={{SECONDS}} -max_len=4096 -rss_limit_mb=700
