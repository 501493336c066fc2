#!/usr/bin/env bash
# Looks for what the build needs from the system, installs what apt can give, and names the rest.
set -u

missing=()
# What bindgen loads: libclang.so, libclang-14.so, libclang.so.14. Not libclang-cpp.so, which packages of LLVM bring alone.
find_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] && return 0
    local root=${SYSTEM_ROOT:-} folder
    for folder in '/usr/lib/llvm-*/lib' '/usr/lib/*' '/usr/lib64' '/usr/local/lib'; do
        compgen -G "$root$folder/libclang.so*" >/dev/null || compgen -G "$root$folder/libclang-[0-9]*.so*" >/dev/null && return 0
    done
    return 1
}
if [ "${1:-}" = --has-libclang ]; then find_libclang; exit; fi
# `python -m venv` needs modules that Debian has in packages of their own.
python=${PYTHON:-python3}
has_venv() { $python -c 'import ensurepip, venv' 2>/dev/null; }
venv_package() {
    case $python in python3.*) echo "$python-venv" && return ;; esac
    case $(command -v "${python%% *}") in
        '' | /usr/bin/python3 | /bin/python3) echo python3-venv ;;
        *) $python -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])' || echo python3-venv ;;
    esac
}
needed_rust=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$(dirname "$0")/../Cargo.toml")
get_rust="install it with rustup (where it is there: rustup update stable) and run make again"
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo -n)
has_apt() { command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null; }
install() {
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >&2 2>&1 \
        || { "${as_root[@]}" apt-get update -qq >&2 && "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "$@" >&2; }
}
# What the integration tests start of their own. Without them these tests are skipped, each with its reason.
if [ "${1:-}" = --servers ]; then
    command -v postgres >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || missing+=(postgresql)
    command -v nats-server >/dev/null || missing+=(nats-server)
    command -v mosquitto >/dev/null || [ -x /usr/sbin/mosquitto ] || missing+=(mosquitto)
    [ ${#missing[@]} -eq 0 ] && exit
    echo "setup: the integration tests want ${missing[*]} from the system" >&2
    { has_apt && install "${missing[@]}"; } || echo "setup: without ${missing[*]} (Debian's package names) some are skipped" >&2
    exit 0
fi
# What needs no engine asks for Python alone.
if [ "${1:-}" != --python ]; then
    command -v c++ >/dev/null || missing+=(g++)
    find_libclang || missing+=(libclang-dev)
    # OpenSSL and librdkafka are built from source: the one by Perl with its usual modules, both by make.
    perl -MFindBin -MIPC::Cmd -MData::Dumper -e 1 2>/dev/null || missing+=(perl)
    command -v make >/dev/null || missing+=(make)
fi
has_venv || missing+=("$(venv_package)")
[ "${1:-}" = --lint ] && ! command -v valgrind >/dev/null && missing+=(valgrind)

if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: the build needs ${missing[*]} from the system" >&2
    if has_apt; then
        echo "setup: installing ${missing[*]} with apt (a minute)" >&2
        install "${missing[@]}" \
            || { echo "setup: apt could not install ${missing[*]}; install them and run make again" >&2; exit 1; }
    else
        echo "setup: please install ${missing[*]} (Debian's package names) and run make again" >&2
        exit 1
    fi
fi
if ! has_venv; then
    echo "setup: $python has not the modules venv and ensurepip; name another Python, 3.11 or newer: make PYTHON=python3.12" >&2
    exit 1
fi
[ "${1:-}" = --python ] && exit
if ! command -v cargo >/dev/null; then
    echo "setup: there is no Rust toolchain (cargo), $needed_rust or newer is needed; $get_rust" >&2
    exit 1
fi
rust=$(rustc --version 2>/dev/null | sed 's/^rustc \([0-9.]*\).*/\1/')
if ! printf '%s\n' "$needed_rust" "${rust:-0}" | sort --version-sort --check=quiet; then
    echo "setup: Rust $needed_rust or newer is needed, this is ${rust:-a cargo without rustc}; $get_rust" >&2
    exit 1
fi
