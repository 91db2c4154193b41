#!/bin/sh
# Installs what is missing, builds, and measures this machine: the quick profile, or what the options say.
set -eu
cd "$(dirname "$0")/.."
usage="scripts/bench.sh [--yes] [--no-install] [options of bench_mla run]
  --yes         install missing packages without asking
  --no-install  never touch the system"
. scripts/setup.sh
echo "== Measure"
eval "set -- $rest"
exec "$build/bench_mla" run "$@"
