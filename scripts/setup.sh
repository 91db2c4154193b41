# Sourced by bench.sh and test.sh with the user's arguments: installs what is missing, configures and builds $build.
# Leaves in $rest the arguments that are not --yes or --no-install, quoted for eval, and in $python the interpreter of
# build/venv, which has the libraries of scripts/*.py; empty where they could not be had.

build=build/release

# What a build needs. A program is missing when PATH has none, a library when its package is not installed.
# program  apt                 dnf                     brew; - for none
packages="
  python3  python3             python3                 python3
  -        python3-venv        -                       -
  cmake    cmake               cmake                   cmake
  ninja    ninja-build         ninja-build             ninja
  c++      g++                 gcc-c++                 gcc
  -        libeigen3-dev       eigen3-devel            eigen
  -        nlohmann-json3-dev  json-devel              nlohmann-json
  -        libcli11-dev        cli11-devel             cli11
  -        libbenchmark-dev    google-benchmark-devel  google-benchmark
  -        libgtest-dev        gtest-devel             googletest
  -        libopenblas-openmp-dev  openblas-devel      openblas
  -        libdnnl-dev         onednn-devel            onednn
"

installed() {
  case $manager in
    apt) dpkg-query -W -f '${Status}' "$1" 2>/dev/null | grep -q 'ok installed' ;;
    dnf) rpm -q "$1" >/dev/null 2>&1 ;;
    brew) brew list --versions "$1" >/dev/null 2>&1 ;;
  esac
}

# The packages of $manager that are missing, one a line.
missing() {
  echo "$packages" | while read -r program apt dnf brew; do
    case $manager in
      apt) package=$apt ;;
      dnf) package=$dnf ;;
      brew) package=$brew ;;
    esac
    case $program/$package in
      / | */-) ;;
      -/*) installed "$package" || echo "$package" ;;
      *) command -v "$program" >/dev/null || echo "$package" ;;
    esac
  done
}

install_packages() {
  manager=none
  if command -v apt-get >/dev/null; then manager=apt
  elif command -v dnf >/dev/null; then manager=dnf
  elif command -v brew >/dev/null; then manager=brew
  else
    echo "No apt, dnf or brew here. Install what Debian calls:$(echo "$packages" | awk '{ printf " %s", $2 }')"
    echo "then run this again with --no-install."
    exit 1
  fi
  list=$(missing | tr '\n' ' ')
  [ -n "$list" ] || return 0

  sudo=
  [ "$manager" = brew ] || [ "$(id -u)" = 0 ] || sudo='sudo '
  case $manager in
    apt) command="${sudo}apt-get update && ${sudo}apt-get install -y --no-install-recommends $list" ;;
    dnf) command="${sudo}dnf install $list" ;;
    brew) command="brew install $list" ;;
  esac
  echo "Missing: $list"
  echo "  $command"
  if [ "$manager" != apt ]; then
    echo "Run this command, then this script again; with --no-install, missing libraries are downloaded into $build."
    exit 1
  fi
  if [ "$yes" = no ]; then
    printf 'Run it now? [Y/n] '
    read -r answer
    case $answer in
      [nN]*) echo "Nothing was installed."; exit 1 ;;
    esac
  fi
  export DEBIAN_FRONTEND=noninteractive
  eval "$command"
}

# Again only where requirements.txt has changed, or the system's python3 has. The report and the tests of the scripts need
# them; the run does not.
python_libraries() {
  python=build/venv/bin/python
  ! cmp -s scripts/requirements.txt build/venv/requirements.txt || ! "$python" -c '' 2>/dev/null || return 0
  echo "== Python libraries, into build/venv"
  mkdir -p build
  if { python3 -m venv --clear build/venv &&
    $python -m pip install -q --disable-pip-version-check -r scripts/requirements.txt; } >build/venv.log 2>&1; then
    cp scripts/requirements.txt build/venv/
  else
    tail -n 3 build/venv.log
    echo "Not installed (build/venv.log says why): without them there are no report, figures, comparison and tests of these."
    python=
  fi
}

quote() { printf "'%s' " "$(printf %s "$1" | sed "s/'/'\\\\''/g")"; }

yes=no
[ -t 0 ] && [ "${CI:-}" != true ] || yes=yes
install=yes
rest=
for argument; do
  case $argument in
    --yes) yes=yes ;;
    --no-install) install=no ;;
    --help | -h) echo "${usage:?}"; exit 0 ;;
    *) rest="$rest$(quote "$argument")" ;;
  esac
done

[ "$install" = no ] || install_packages
python_libraries
echo "== Configure $build"
! command -v ninja >/dev/null || export CMAKE_GENERATOR="${CMAKE_GENERATOR:-Ninja}"  # of a new build folder
cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release
echo "== Build"
cmake --build "$build" --parallel "$(getconf _NPROCESSORS_ONLN)"
