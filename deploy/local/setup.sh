#!/usr/bin/env bash
# Makes a machine able to run `make demo` and `make test`: Python 3.11-3.13 with venv, Java 17+, Maven,
# redis-server, PostgreSQL. With `--tests` also what only tests need: Prometheus (promtool), Chromium, curl.
# Does nothing when all is there. Installs what is missing with apt-get when root; else prints the command and exits 2.
# `--dry-run` prints what it would run, and runs nothing.
set -euo pipefail

readonly PYTHON="${PYTHON:-python3}" JARS="${BASH_SOURCE[0]%/*}/target/dependency"
readonly POSTGRES_HOME="${POSTGRES_HOME:-/usr/lib/postgresql}"  # Debian keeps its servers there, off PATH
dry_run=no for_tests=no
for option in "$@"; do
    case "$option" in
        --dry-run) dry_run=yes ;;
        --tests) for_tests=yes ;;
        *) echo "setup: unknown option $option; there are --tests and --dry-run" >&2; exit 2 ;;
    esac
done

fail() { echo "setup: $*" >&2; exit 2; }

java_major() {  # prints 0 when there is none
    local java="${JAVA_HOME:+$JAVA_HOME/bin/}java" banner=""
    banner="$("$java" -version 2>&1)" || true
    [[ "$banner" =~ version\ \"(1\.)?([0-9]+) ]] && echo "${BASH_REMATCH[2]}" || echo 0
}

jars_present() { compgen -G "$JARS/kafka_*.jar" >/dev/null; }

postgres_present() { command -v postgres >/dev/null || compgen -G "$POSTGRES_HOME/*/bin/postgres" >/dev/null; }

require_python() {
    command -v "$PYTHON" >/dev/null || fail "no $PYTHON on PATH: install Python 3.11, 3.12 or 3.13, or name one: make PYTHON=python3.12"
    "$PYTHON" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
        fail "$PYTHON is $("$PYTHON" -V 2>&1); Veltrix needs Python 3.11, 3.12 or 3.13: make PYTHON=python3.12"
}

missing_packages() {
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || echo python3-venv
    [[ "$(java_major)" -ge 17 ]] || java_package
    command -v mvn >/dev/null || jars_present || echo maven
    command -v redis-server >/dev/null || echo redis-server
    postgres_present || echo postgresql
    [[ $for_tests == no ]] || missing_for_tests
}

missing_for_tests() {
    command -v curl >/dev/null || echo curl
    command -v promtool >/dev/null || echo prometheus
    command -v chromium >/dev/null || command -v chromium-browser >/dev/null || echo chromium
}

java_package() {  # the default JRE of a release may be older than 17, or newer than its openjdk-17
    if apt-cache show openjdk-17-jre-headless >/dev/null 2>&1; then echo openjdk-17-jre-headless; else echo default-jre-headless; fi
}

install() {
    local -r command=(apt-get install -y --no-install-recommends "$@")
    if ! command -v apt-get >/dev/null; then
        fail "missing: $*. This is no Debian or Ubuntu: install their equivalents, then run make again"
    elif [[ "$(id -u)" != 0 ]]; then
        fail "missing: $*. Run: sudo ${command[*]}"
    elif [[ $dry_run == yes ]]; then
        echo "would run: ${command[*]}"
    else
        echo "setup: installing $*" >&2
        apt-get update -qq </dev/null
        DEBIAN_FRONTEND=noninteractive "${command[@]}" </dev/null >&2
    fi
}

require_python
mapfile -t packages < <(missing_packages)
if [[ ${#packages[@]} -gt 0 ]]; then
    if [[ -n "${JAVA_HOME:-}" && "${packages[*]}" == *jre* ]]; then
        fail "JAVA_HOME=$JAVA_HOME is not Java 17 or newer: set it to one that is, or unset it"
    fi
    install "${packages[@]}"
    [[ $dry_run == yes ]] && exit 0
    mapfile -t packages < <(missing_packages)
    [[ ${#packages[@]} -eq 0 ]] || fail "still missing after the installation: ${packages[*]}"
fi
