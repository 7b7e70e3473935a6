#!/bin/bash
# Builds what is shipped and runs it: the static binary in an empty root, the image's worker inside
# the image's root. For CI and for hand; needs no container engine.
#
#   docker/check.sh static [BINARY]           builds it, unless one is given
#   docker/check.sh image BINARY [LIBS]       an image around BINARY, a worker built with `--no-default-features
#                                             --features onnx,openvino`, and LIBS, OpenVINO's folder (target/openvino/libs)
#   docker/check.sh torch BINARY [LIBS]       the same with libtorch, around a worker built with `--no-default-features
#                                             --features onnx,openvino,pytorch`, beside which is libproplet_torch.so
#   docker/check.sh run IMAGE                 an image that `buildah` has built in target/ship/storage
#   docker/check.sh run IMAGE torch           the same of one with libtorch
#
# All but the compiling needs root, for chroot, port 53 and a network of its own, and is run with sudo by
# anybody else. Needs mosquitto, mosquitto-clients, openssl and python3; for images buildah, debootstrap
# and iproute2 too, and the fixtures of fixtures/setup.py. What it makes stays in target/ship and is used
# again.
set -euo pipefail
cd -P "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
ship=$(realpath -m "$target/ship")
mkdir -p "$ship"
# Debian puts mosquitto and debootstrap where only root's PATH looks.
PATH=$PATH:/usr/sbin:/usr/local/sbin

fail() { echo "check.sh: $*" >&2; exit 1; }
need() { for tool; do command -v "$tool" >/dev/null || fail "$tool is missing (.ci/run tells its package)"; done; }

# Goes on as root, with these arguments.
root() {
    [ "$(id -u)" = 0 ] && return
    command -v sudo >/dev/null || fail "\`check.sh $*\` needs root (chroot, port 53), and there is no sudo"
    # Nothing is left to the trap, which this process will not see.
    finish
    exec sudo env "CARGO_TARGET_DIR=$target" docker/check.sh "$@"
}

# Goes on in a network of its own, with these arguments: there the ports are free that Propeller's
# compose file names.
alone() {
    [ -z "${CHECK_IS_ALONE:-}" ] || return 0
    need unshare ip
    finish
    CHECK_IS_ALONE=1 exec unshare --net sh -c 'ip link set lo up && exec "$@"' sh docker/check.sh "$@"
}

# Everything that was started ends with this script, and nothing else does.
started=()
container=
finish() {
    for pid in "${started[@]}"; do kill "$pid" 2>/dev/null || true; done
    wait 2>/dev/null || true
    [ -z "$container" ] || build rm "$container" >/dev/null || true
    rm -rf "$work"
}
work=$(mktemp -d)
trap finish EXIT

port=$((20000 + RANDOM % 10000))
export PROPLET_DOMAIN_ID=d PROPLET_CHANNEL_ID=c PROPLET_CLIENT_ID=w PROPLET_CLIENT_KEY=s3cret-key
export PROPLET_METRICS_PORT=$((port + 2)) PROPLET_STATE_DIR=/var/lib/proplet
topic=m/d/c/c/control

# Certificates of an authority and of a broker named broker.test.
certificates() {
    need openssl
    local key=(-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes)
    openssl req -x509 "${key[@]}" -keyout "$work/ca.key" -out "$work/ca.pem" -subj "/CN=check" -days 2
    openssl req "${key[@]}" -keyout "$work/server.key" -out "$work/server.csr" -subj "/CN=broker.test"
    openssl x509 -req -in "$work/server.csr" -CA "$work/ca.pem" -CAkey "$work/ca.key" -CAcreateserial \
        -out "$work/server.pem" -days 2 \
        -extfile <(printf 'basicConstraints=CA:FALSE\nsubjectAltName=DNS:broker.test\n')
} 2>/dev/null

# A broker with and without TLS, on the two ports from $port; what workers answer goes to a file.
broker() {
    need mosquitto mosquitto_pub
    certificates || fail "openssl made no certificates"
    touch "$work/passwords"
    mosquitto_passwd -b "$work/passwords" "$PROPLET_CLIENT_ID" "$PROPLET_CLIENT_KEY"
    mosquitto_passwd -b "$work/passwords" manager manager-key
    chmod 755 "$work"
    chmod 644 "$work"/{passwords,server.key}
    cat > "$work/mosquitto.conf" <<END
allow_anonymous false
password_file $work/passwords
set_tcp_nodelay true
listener $port 127.0.0.1
listener $((port + 1)) 127.0.0.1
certfile $work/server.pem
keyfile $work/server.key
END
    mosquitto -c "$work/mosquitto.conf" 2> "$work/mosquitto.log" &
    started+=($!)
    until mosquitto_pub -p "$port" -u manager -P manager-key -t ready -n 2>/dev/null; do
        kill -0 "${started[-1]}" 2>/dev/null || { cat "$work/mosquitto.log" >&2; fail "mosquitto ended"; }
        sleep 0.1
    done
    mosquitto_sub -p "$port" -u manager -P manager-key -q 1 -t "$topic/proplet/results" > "$work/results" &
    started+=($!)
}

# start ID GUEST [CLI_ARG...]; its inputs, a JSON list, are in $inputs.
start() {
    local id=$1 guest=$2 args=null inputs=${inputs:-null}; shift 2
    if [ $# != 0 ]; then
        args=$(printf ',"%s"' "$@")
        args="[${args#,}]"
    fi
    printf '{"id":"%s","name":"%s","file":"%s","cli_args":%s,"inputs":%s,"proplet_id":"w"}' \
        "$id" "$id" "$(base64 -w 0 "$guest")" "$args" "$inputs" \
        | mosquitto_pub -p "$port" -u manager -P manager-key -q 1 -t "$topic/manager/start" -s
}

# result ID PATTERN: waits for it, and compares.
result() {
    for _ in $(seq 600); do
        if line=$(grep -F "\"task_id\":\"$1\"" "$work/results"); then
            grep -qE "$2" <<< "$line" || fail "task $1 ended with $line"
            echo "ok: task $1: $(cut -c1-230 <<< "$line")"
            return
        fi
        sleep 0.1
    done
    tail -5 "$work/worker.log" >&2
    fail "task $1 has no result after a minute"
}

ready() {
    if soon "$@" health --ready; then echo "ok: ready"; return; fi
    cat "$work/worker.log" >&2
    fail "the worker is not ready after half a minute"
}

# Whether the command succeeds within half a minute.
soon() {
    for _ in $(seq 300); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    return 1
}

# Tells the worker to end as an engine would, and expects an orderly end.
stop() {
    kill -TERM "$1"
    for _ in $(seq 100); do
        if grep -q stopped "$work/worker.log"; then echo "ok: ended in order"; return; fi
        sleep 0.1
    done
    fail "the worker did not end in order"
}

# With the flags of Dockerfile.static, for this folder in place of its /src. Unoptimised, because it is
# only to be seen working; a folder of its own, because builds with other flags are not kept apart.
compile() {
    local triple flags home=${CARGO_HOME:-$HOME/.cargo}
    triple=$(rustc -vV | sed -n 's/^host: //p')
    flags=$(sed -n 's/^ENV RUSTFLAGS="\(.*\)" \\$/\1/p' docker/Dockerfile.static | sed 's/\\"/"/g')
    [ -n "$flags" ] || fail "docker/Dockerfile.static has no line ENV RUSTFLAGS=\"…\""
    flags=${flags/=\/src=/=$PWD=}
    flags=${flags/=\/usr\/local\/cargo=/=$home=}
    CARGO_TARGET_DIR="$ship/static" CARGO_INCREMENTAL=0 RUSTFLAGS=$flags \
        cargo build --locked --no-default-features --features onnx --target "$triple" --config 'profile.dev.package."*".opt-level=0' \
            --config profile.dev.opt-level=0 --config profile.dev.debug=0
    binary=$ship/static/$triple/debug/proplet
    # What tells where it was compiled would make it another file elsewhere.
    ! grep -qF -e "$PWD" -e "$home" "$binary" || fail "$binary names folders of this machine"
    echo "ok: sha256 $(sha256sum < "$binary" | cut -c1-64)"
}

# What is shipped has neither the demo nor its broker.
no_demo() {
    ! "$1" demo --help >/dev/null 2>&1 || fail "$1 has the demo: build it with \`--no-default-features\`"
}

static() {
    local binary=${1:-}
    [ -n "$binary" ] || compile
    root static "$binary"
    # ldd answers a static file with its exit code, too.
    local ldd; ldd=$(ldd "$binary" 2>&1 || true)
    grep -qE 'statically linked|not a dynamic executable' <<< "$ldd" || fail "$binary is not static: $ldd"
    no_demo "$binary"
    echo "ok: ldd: $(xargs <<< "$ldd"); $(stat -c %s "$binary") bytes"

    # An empty root but for the file, its state, the authority's certificate, and where names are
    # looked up: at a name server that knows the broker alone, on a loopback address that no other has.
    local root=$work/root server=127.53.53.53
    mkdir -p "$root"/{etc,var/lib/proplet,certs}
    install -m 755 "$binary" "$root/proplet"
    echo "nameserver $server" > "$root/etc/resolv.conf"
    chown 10001:10001 "$root/var/lib/proplet"
    local inside=(chroot --userspec=10001:10001 "$root" /proplet)
    "${inside[@]}" --version
    broker
    install -m 644 "$work/ca.pem" "$root/certs/ca.pem"
    need python3
    python3 docker/name-server.py "$server" broker.test > "$work/names" &
    started+=($!)
    # Over TLS, to a name.
    PROPLET_MQTT_ADDRESS=ssl://broker.test:$((port + 1)) PROPLET_MQTT_TLS_CA_CERT=/certs/ca.pem \
        "${inside[@]}" worker 2> "$work/worker.log" &
    local worker=$!
    started+=("$worker")
    ready "${inside[@]}"
    grep -q '^broker.test A$' "$work/names" || fail "the name server was not asked: $(cat "$work/names")"
    echo "ok: $server was asked for: $(sort -u "$work/names" | paste -sd,)"
    start plain src/doctor/hello.wasm
    start infer src/doctor/self-test.wasm -S nn
    start onnx src/doctor/self-test-onnx.wasm -S nn
    result plain '"error":null'
    result infer 'the encoding openvino is not served here: this build has onnx'
    result onnx '"results":"2\\n0\\n6\\n4\\n","error":null.*"backends":\["rten"\]'
    stop "$worker"
    ! grep -q "$PROPLET_CLIENT_KEY" "$work/worker.log" || fail "the log shows the key"
}

build() { buildah --root "$ship/storage" --runroot "$ship/run" --storage-driver vfs "$@"; }

# The worker among a process's descendants.
below() {
    local child
    for child in $(pgrep -P "$1"); do
        if [[ $(readlink "/proc/$child/exe") == */proplet ]]; then echo "$child"; return; fi
        below "$child" && return
    done
    return 1
}

# In place of the base image that a registry would serve.
base() {
    build inspect --type image localhost/base:check >/dev/null 2>&1 && return
    need debootstrap
    rm -rf "$ship/base"
    debootstrap --variant=minbase --include=ca-certificates,libstdc++6,wget bookworm "$ship/base" \
        > "$ship/debootstrap.log" || { tail -5 "$ship/debootstrap.log" >&2; fail "debootstrap failed"; }
    rm -rf "$ship/base"/var/cache/apt/* "$ship/base"/var/lib/apt/lists/*
    container=$(build from scratch)
    build copy -q "$container" "$ship/base" / >/dev/null
    build commit -q --rm "$container" localhost/base:check >/dev/null
    container=
    rm -rf "$ship/base"
}

image() {
    local binary=${1:?which worker? docker/check.sh image target/debug/proplet} libs=${2:-$target/openvino/libs}
    root image "$binary" "$libs"
    around "$binary" "$libs" localhost/proplet:check
    run localhost/proplet:check
}

torch() {
    local binary=${1:?which worker? docker/check.sh torch target/debug/proplet} libs=${2:-$target/openvino/libs}
    root torch "$binary" "$libs"
    "$binary" --version | grep -q "torch, openvino" || fail "$binary was built without \`--features pytorch\`"
    around "$binary" "$libs" localhost/proplet:check-torch "$(dirname "$binary")/libproplet_torch.so"
    run localhost/proplet:check-torch torch
}

# around BINARY LIBS IMAGE [LIBRARY]: an image around them, with libtorch if the worker's library for it is given.
around() {
    local binary=$1 libs=$2 image=$3 library=${4:-}
    need buildah strip
    "$binary" --version | grep -q "openvino, rten" || fail "$binary was built without \`--features onnx,openvino\`"
    no_demo "$binary"
    [ -e "$libs" ] || fail "$libs is not there: fixtures/setup.py makes it"
    base
    local context=$work/context
    mkdir -p "$context/prebuilt/openvino" "$context/prebuilt/torch"
    [ -z "$library" ] || cp "$library" "$context/prebuilt/torch"
    strip -o "$context/prebuilt/proplet" "$binary"
    cp -rL "$libs" "$context/prebuilt/openvino/libs"
    build build --isolation chroot --format docker --build-arg RUNTIME_IMAGE=localhost/base:check \
        --build-arg WORKER=prebuilt --build-arg OPENVINO=prebuilt --build-arg TORCH="$([ -z "$library" ] && echo 0 || echo 1)" \
        -f docker/Dockerfile -t "$image" "$context" > "$work/build.log" 2>&1 \
        || { tail -30 "$work/build.log" >&2; fail "the image was not built"; }
    echo "ok: the image is built"
}

run() {
    root run "${1:?which image?}" "${@:2}"
    alone run "$@"
    # The image has less than 300 MB, of which a release build of the worker is 45. CI brings a debug
    # build, so the rest is what is checked. With Debian's libtorch comes what that needs.
    local most=255000000 torch=${2:-}
    [ -z "$torch" ] || most=1255000000
    need buildah pgrep
    container=$(build from "$1")
    local root; root=$(build mount "$container")
    local bytes worker
    for part in "$root"/opt/openvino/libs/* "$root/opt/openvino" "$root/usr/local/bin/proplet" "$root"; do
        bytes=$(du -s --apparent-size --block-size=1 "$part" | cut -f1)
        printf '%6d.%d MB image:%s\n' $((bytes / 1000000)) $((bytes / 100000 % 10)) "${part#"$root"}"
    done
    worker=$(stat -c %s "$root/usr/local/bin/proplet")
    [ $((bytes - worker)) -lt "$most" ] \
        || fail "the image has $((bytes - worker)) bytes without the worker, and $((most / 1000000)) MB is all it may have"

    broker
    local environment=()
    for name in $(compgen -e | grep ^PROPLET_ | grep -v STATE_DIR); do environment+=(--env "$name=${!name}"); done
    local inside=(build run --isolation chroot "${environment[@]}" --env "PROPLET_MQTT_ADDRESS=localhost:$port"
        --volume "$(realpath "$target/fixtures/mobilenet"):/fixture:ro"
        ${torch:+--volume "$(realpath "$target/fixtures/resnet"):/models/resnet:ro"} "$container" --)
    "${inside[@]}" sh -c 'echo "user $(id -u), in $(pwd), $PROPLET_DIRS"'
    "${inside[@]}" proplet worker 2> "$work/worker.log" &
    local runner=$!
    started+=("$runner")
    ready "${inside[@]}" proplet
    "${inside[@]}" proplet doctor --watch 1s || fail "the doctor found something"
    start classify fixtures/guests/bin/classification.wasm -S nn --dir=fixture
    result classify 'InferenceResult'
    start onnx src/doctor/self-test-onnx.wasm -S nn
    result onnx '"results":"2\\n0\\n6\\n4\\n","error":null.*"backends":\["openvino"\]'
    if [ -n "$torch" ]; then
        inputs='["name","resnet"]' start torch fixtures/guests/bin/classification-component.wasm \
            -S nn-graph=pytorch::/models/resnet --dir=fixture --env INPUT=x
        result torch 'InferenceResult.*"error":null.*"backends":\["torch"\]'
    fi
    stop_in_container "$runner"
    compose "$1"
}

# buildah hands on no signals: the worker itself is told.
stop_in_container() {
    local worker; worker=$(below "$1") || fail "where is the worker?"
    stop "$worker"
    wait "$1" || true
}

# In the container as Propeller's compose file has it, without the fixture, whose mount is a comment
# there, and with it; then the guide's task, of whose `cli_args` the manager leaves null.
compose() {
    fact() { sed -n "s/^$1=//p" docker/propeller-compose.env; }
    # As propeller-cli provision writes it.
    cat > "$work/config.toml" <<END
[$(fact PROPLET_CONFIG_SECTION)]
domain_id = "$PROPLET_DOMAIN_ID"
channel_id = "$PROPLET_CHANNEL_ID"
client_id = "$PROPLET_CLIENT_ID"
client_key = "$PROPLET_CLIENT_KEY"
END
    chmod 644 "$work/config.toml"
    local same=(--env "PROPLET_MQTT_ADDRESS=tcp://localhost:$port" --volume "$work/config.toml:$(fact CONFIG)") line
    while read -r line; do same+=(--env "$line"); done < <(grep ^PROPLET_ docker/propeller-compose.env)
    local health; read -ra health <<< "$(fact HEALTH_CHECK)"
    # The compose file has no command, so it is the image's.
    local command; read -ra command <<< "$(build inspect --type image \
        --format '{{.OCIv1.Config.Entrypoint}} {{.OCIv1.Config.Cmd}}' "$1" | tr -d '[]')"
    local fixture inside runner
    for fixture in "" "--volume=$(realpath "$target/fixtures/mobilenet"):$(fact FIXTURE)"; do
        inside=(build run --isolation chroot "${same[@]}" ${fixture:+"$fixture"} "$container" --)
        [ "$("${inside[@]}" pwd)" = "$(fact WORKING_DIR)" ] || fail "the image's working directory is not $(fact WORKING_DIR)"
        "${inside[@]}" "${command[@]}" 2> "$work/worker.log" &
        runner=$!
        started+=("$runner")
        soon "${inside[@]}" "${health[@]}" || { cat "$work/worker.log" >&2; fail "\`${health[*]}\` fails in the container"; }
        echo "ok: as Propeller's compose file has it${fixture:+, with the fixture}: ${command[*]}; ${health[*]}"
        ready "${inside[@]}" proplet
        if [ -n "$fixture" ]; then
            start guide fixtures/guests/bin/classification.wasm
            result guide 'InferenceResult.*"error":null'
        fi
        stop_in_container "$runner"
    done
}

case ${1:-} in
    static | image | torch | run) "$@" ;;
    *) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2 ;;
esac
