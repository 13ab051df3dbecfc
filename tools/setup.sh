#!/bin/sh
# Installs what building needs and this machine lacks, from Debian's or Ubuntu's packages.
#
#   tools/setup.sh           what the `moba` program needs
#   tools/setup.sh --tests   that, and what the tests and the format check need
#
# Runs as root or through sudo; when nothing is missing it needs neither and returns at once.
set -eu

# CLI11, Boost, spdlog, nlohmann/json, SentencePiece and PCRE2 are the libraries of CMakeLists.txt.
packages="g++ cmake ninja-build libboost-dev libcli11-dev libedit-dev libpcre2-dev"
packages="$packages libsentencepiece-dev libspdlog-dev libutf8proc-dev"
packages="$packages nlohmann-json3-dev"
# Version 14 of clang-format, since another one lays code out differently.
# Chromium is for the chat page's test, which is skipped without it: install it for that.
test_packages="catch2 clang-format-14 ccache pkg-config python3 xz-utils"

fail() {
  echo "setup: $*" >&2
  exit 1
}

case "${1:-}" in
  "") ;;
  --tests) packages="$packages $test_packages" ;;
  *) fail "unknown option '$1'; usage: tools/setup.sh [--tests]" ;;
esac

if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
  fail "no apt here; install with your own package manager what Debian calls: $packages" \
    "(then go on with --no-setup)"
fi

missing=""
for package in $packages; do
  state=$(dpkg-query -W -f='${db:Status-Abbrev}' "$package" 2>/dev/null || true)
  case "$state" in
    ?i*) ;;
    *) missing="$missing $package" ;;
  esac
done
[ -n "$missing" ] || exit 0

as_root=""
if [ "$(id -u)" != 0 ]; then
  command -v sudo >/dev/null || fail "not root and no sudo; have these installed:$missing"
  as_root="sudo"
fi

echo "setup: installing$missing" >&2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
  $as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=120 "$@" >"$log" 2>&1
}
apt update || { sleep 3 && apt update; } || {
  cat "$log" >&2
  fail "apt-get update failed"
}
# shellcheck disable=SC2086 # a list of words
apt install -y --no-install-recommends $missing || {
  cat "$log" >&2
  fail "could not install:$missing"
}
