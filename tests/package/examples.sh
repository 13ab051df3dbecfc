#!/bin/sh
# Builds tools/examples outside the tree against an installed moba and runs them.
#   examples.sh cmake|pkg-config shared|static PREFIX LIBDIR SOURCE_DIR WORK_DIR
set -eu
method=$1
linkage=$2
prefix=$3
libdir=$4
source=$5
work=$6

fail() {
  echo "examples.sh: $*" >&2
  exit 1
}

rm -rf "$work"
mkdir -p "$work/source"
cp "$source"/tools/examples/* "$work/source"
cd "$work"

case "$method" in
  cmake)
    "$CMAKE" -S source -B build -DCMAKE_PREFIX_PATH="$prefix" -DCMAKE_BUILD_TYPE=Release \
      -DMOBA_LINKAGE="$linkage"
    "$CMAKE" --build build
    ;;
  pkg-config)
    mkdir build
    export PKG_CONFIG_PATH="$libdir/pkgconfig"
    module=moba
    [ "$linkage" = shared ] || module=moba-static
    # shellcheck disable=SC2046 # lists of words
    "$CXX" -std=c++20 -O1 source/serve_many.cpp -o build/serve_many \
      $("$PKG_CONFIG" --cflags --libs $module)
    # shellcheck disable=SC2046
    "$CC" -std=c11 -O1 source/generate.c -o build/generate $("$PKG_CONFIG" --cflags --libs $module)
    export LD_LIBRARY_PATH="$libdir"
    [ "$("$PKG_CONFIG" --modversion moba)" = "$("$PKG_CONFIG" --modversion $module)" ] ||
      fail "the versions of moba.pc and $module.pc differ"
    ;;
  *) fail "unknown method $method" ;;
esac

for program in serve_many generate; do
  if ldd "build/$program" | grep -q "libmoba\.so.*=> $libdir"; then found=shared; else found=static; fi
  [ "$found" = "$linkage" ] || fail "$program is linked $found, not $linkage"
done

model=$source/configs/models/moba-books-19m
build/generate "$model" "The captain" >out 2>err || fail "generate failed: $(cat err)"
grep -q "^The captain." out || fail "generate wrote: $(cat out)"
grep -q "^[1-9][0-9]* tokens in" err || fail "generate logged: $(cat err)"
build/serve_many "$model" "The captain" "My dear" >out 2>err || fail "serve_many failed: $(cat err)"
grep -q "^The captain." out || fail "serve_many wrote: $(cat out)"
grep -q "^My dear." out || fail "serve_many wrote: $(cat out)"
grep -q "^[1-9][0-9]* tokens in" err || fail "serve_many logged: $(cat err)"
build/generate "$model/no-such" >out 2>err && fail "generate took a model that is not there"
grep -q "no-such" err || fail "generate did not say what is wrong: $(cat err)"
