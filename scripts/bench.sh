#!/bin/sh
# Installs what is missing, builds, and measures this machine: the quick profile, or what the options say. Then makes the
# report and the figures.
set -eu
caller=$PWD
cd "$(dirname "$0")/.."
root=$PWD
usage="scripts/bench.sh [--yes] [--no-install] [options of bench_mla run]
  --yes         install missing packages without asking
  --no-install  never touch the system"
. scripts/setup.sh
eval "set -- $rest"

file=
next_is_file=no
for argument; do
  [ "$next_is_file" = no ] || file=$argument
  next_is_file=no
  case $argument in
    --out) next_is_file=yes ;;
    --out=*) file=${argument#--out=} ;;
  esac
done
if [ -z "$file" ]; then
  folder=results
  [ "$caller" = "$root" ] || folder=$root/results
  file=$folder/$(date -u +%Y%m%dT%H%M%SZ).json
  set -- "$@" --out "$file"
fi

echo "== Measure"
status=0
cd "$caller"  # where the options' files are
"$root/$build/bench_mla" run "$@" || status=$?
[ "$status" -le 1 ] || exit "$status"  # 1: a row's result was wrong, which the report says too

echo "== Report"
echo "results  $file"
if [ -n "$python" ]; then
  "$root/$python" "$root/scripts/report.py" "$file"
else
  echo "No report and no figures: build/venv could not be made (build/venv.log says why)."
fi
exit "$status"
