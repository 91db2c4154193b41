#!/bin/sh
# Installs what is missing, builds, and runs the tests.
set -eu
cd "$(dirname "$0")/.."
usage="scripts/test.sh [--yes] [--no-install] [ctest options]
  --yes         install missing packages without asking
  --no-install  never touch the system"
. scripts/setup.sh
echo "== Test"
eval "set -- $rest"
exec ctest --test-dir "$build" --output-on-failure --parallel 2 "$@"
