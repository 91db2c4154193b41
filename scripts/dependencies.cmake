# What mmb is built from: the system's packages, or, where they are missing, downloads of pinned versions. A build under
# CI never downloads: what it tests is what the distribution ships.
if(DEFINED ENV{CI})
  set(fetch_default OFF)
else()
  set(fetch_default ON)
endif()
option(MMB_FETCH "Download the libraries that find_package does not find" ${fetch_default})
include(FetchContent)

# find_package(package version), else the archive at url; `target` is what it must define, and `debian` who else brings it.
set(libraries)
macro(mmb_need package version target debian url sha256)
  find_package(${package} ${version} QUIET)
  if(TARGET ${target})
    list(APPEND libraries "${package} ${${package}_VERSION} (${${package}_DIR})")
  elseif(MMB_FETCH)
    message(STATUS "${package} ${version} not found (Debian: ${debian}): downloading ${url}")
    FetchContent_Declare(${package} URL ${url} URL_HASH SHA256=${sha256})
    FetchContent_MakeAvailable(${package})
    get_target_property(real ${target} ALIASED_TARGET)
    get_target_property(directories ${real} INTERFACE_INCLUDE_DIRECTORIES)
    set_target_properties(${real} PROPERTIES INTERFACE_SYSTEM_INCLUDE_DIRECTORIES "${directories}")
    list(APPEND libraries "${package} (${url})")
  else()
    message(FATAL_ERROR "${package} ${version} not found: install ${debian}, or configure with -DMMB_FETCH=ON to download it")
  endif()
endmacro()

# Libraries that linear is timed against, found or left out. They and the program must share one OpenMP, which is GCC's.
if(CMAKE_CXX_COMPILER_ID STREQUAL GNU)
  set(peers_default ON)
else()
  set(peers_default OFF)
endif()
option(MMB_PEERS "Time Eigen, OpenBLAS and oneDNN too, those that are installed" ${peers_default})
if(MMB_PEERS)
  find_package(OpenBLAS QUIET)
  find_path(DNNL_INCLUDE dnnl.hpp)  # Debian's package configuration asks for OpenCL, which its CPU engine does not need
  find_library(DNNL_LIBRARY dnnl)
endif()

find_package(OpenMP COMPONENTS CXX)
if(NOT OpenMP_CXX_FOUND)
  message(FATAL_ERROR "OpenMP not found: install libgomp1 for GCC, libomp-dev for clang")
endif()
list(APPEND libraries "OpenMP ${OpenMP_CXX_VERSION}")

# The fetched projects' own tests, examples and install rules.
set(BUILD_TESTING OFF)
set(INSTALL_GTEST OFF)
set(BUILD_GMOCK OFF)
set(BENCHMARK_ENABLE_TESTING OFF)
set(BENCHMARK_ENABLE_INSTALL OFF)
set(CLI11_SINGLE_FILE OFF)
mmb_need(Eigen3 3.4 Eigen3::Eigen libeigen3-dev
  https://gitlab.com/libeigen/eigen/-/archive/3.4.0/eigen-3.4.0.tar.gz
  8586084f71f9bde545ee7fa6d00288b264a2b7ac3607b974e54d13e7162c1c72)
mmb_need(nlohmann_json 3.11 nlohmann_json::nlohmann_json nlohmann-json3-dev
  https://github.com/nlohmann/json/releases/download/v3.11.2/json.tar.xz
  8c4b26bf4b422252e13f332bc5e388ec0ab5c3443d24399acb675e68278d341f)
mmb_need(CLI11 2.1 CLI11::CLI11 libcli11-dev
  https://github.com/CLIUtils/CLI11/archive/v2.1.2.tar.gz
  26291377e892ba0e5b4972cdfd4a2ab3bf53af8dac1f4ea8fe0d1376b625c8cb)
mmb_need(benchmark 1.7.1 benchmark::benchmark libbenchmark-dev
  https://github.com/google/benchmark/archive/v1.7.1.tar.gz
  6430e4092653380d9dc4ccb45a1e2dc9259d581f4866dc0759713126056bc1d7)
mmb_need(GTest 1.12 GTest::gtest_main libgtest-dev
  https://github.com/google/googletest/archive/release-1.12.1.tar.gz
  81964fe578e9bd7c94dfdb09c8e4d6e6759e19967e397dbea48d1c10e45d0df2)
