#!/bin/bash
# `make setup`: brings a bare Debian 12 to where everything else can run. It only installs: system
# packages (infra/system-packages.txt, the one list), packages unpacked below .cache/packages/, the
# virtual environment .venv from requirements-dev.lock, the guest agent. It starts nothing, and
# does nothing when nothing is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PYTHON=${PYTHON:-python3}
PACKAGES_DIR=.cache/packages
VENV_STAMP=.venv/.installed-from

say() { printf 'setup: %s\n' "$*" >&2; }
fail() {
    say "$*"
    exit 1
}

mkdir -p "$PACKAGES_DIR"
exec 9>.cache/setup.lock
flock 9 # a second `make setup` beside this one waits, then finds nothing to do

list() { sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' infra/system-packages.txt; }
mapfile -t INSTALL < <(list | grep -v '^unpack ')
mapfile -t UNPACK < <(list | sed -n 's/^unpack //p')

missing_installs() {
    local installed
    installed=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${INSTALL[@]}" 2>/dev/null |
        sed -n 's/^installed //p') || true
    printf '%s\n' "${INSTALL[@]}" | grep -vxF "$installed" || true
}

missing_unpacks() {
    local name
    for name in "${UNPACK[@]}"; do
        [[ -e $PACKAGES_DIR/$name/.version ]] || printf '%s\n' "$name"
    done
}

install_system_packages() {
    local installs=("$@") unpacks=() as_root=()
    local name
    for name in "${to_unpack[@]}"; do
        apt-cache show -- "$name" >/dev/null 2>&1 || unpacks+=("unpack:$name")
    done
    if ((${#installs[@]} + ${#unpacks[@]} == 0)); then
        return
    fi
    if [[ $(id -u) != 0 ]]; then
        if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
            as_root=(sudo)
        else
            say "system packages are missing and this is not root. Run this as root, then repeat:"
            printf '  apt-get update && apt-get install --yes --no-install-recommends %s\n' \
                "${installs[*]}" >&2
            exit 1
        fi
    fi
    say "installing system packages: ${installs[*]:-none, only the package lists}"
    "${as_root[@]}" bash infra/setup/install-packages.sh "${installs[@]}" "${unpacks[@]}"
}

# fetch NAME DIRECTORY: download the package and unpack it there; print `name version`.
fetch() {
    local name=$1 directory=$2 deb
    (cd "$directory" && apt-get -q -o APT::Sandbox::User=root download "$name" >&2) || return 1
    deb=$(echo "$directory"/*.deb)
    dpkg-deb -x "$deb" "$directory/tree" || return 1
    dpkg-deb -f "$deb" Package Version Depends >"$directory/control" || return 1
    rm -f "$deb"
}

# A meta package holds nothing but documentation: then its first dependency is what is meant.
unpack() {
    local name=$1 wanted=$1 work control
    work=$(mktemp -d "$PACKAGES_DIR/.unpack-XXXXXX")
    trap 'rm -rf "$work"' RETURN
    say "downloading and unpacking $wanted"
    fetch "$wanted" "$work" || fail "cannot download $wanted (is the mirror reachable?)"
    if [[ -z $(find "$work/tree" -type f -not -path '*/usr/share/*' -print -quit) ]]; then
        wanted=$(sed -n 's/^Depends: *\([^ ,|]*\).*/\1/p' "$work/control")
        [[ -n $wanted ]] || fail "$name is empty and depends on nothing"
        say "$name stands for $wanted"
        rm -rf "$work/tree"
        fetch "$wanted" "$work" || fail "cannot download $wanted"
    fi
    control=$(sed -n -e 's/^Package: //p' -e 's/^Version: //p' "$work/control" | paste -sd ' ')
    printf '%s\n' "$control" >"$work/tree/.version"
    rm -rf "${PACKAGES_DIR:?}/$name"
    mv -T "$work/tree" "$PACKAGES_DIR/$name"
}

# What the environment was made from; anything else means that it must be brought up to date.
venv_origin() {
    printf '%s\n' "$PWD"
    "$PYTHON" -c 'import sys; print(sys.version)'
    sha256sum requirements-dev.lock pyproject.toml
}

install_python_packages() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$PYTHON is older than 3.11; name a newer one: make setup PYTHON=..."
    if [[ -e $VENV_STAMP && "$(<"$VENV_STAMP")" == "$(venv_origin)" ]]; then
        return
    fi
    # An environment that was moved here, or whose Python is gone, cannot be mended by pip.
    if [[ ! -x .venv/bin/python || "$(.venv/bin/python -c 'import sys; print(sys.prefix)' 2>/dev/null)" != "$PWD/.venv" ]]; then
        say "creating .venv"
        rm -rf .venv
        "$PYTHON" -m venv .venv
    fi
    local pip=(.venv/bin/python -m pip --disable-pip-version-check --no-input install)
    say "installing Python packages from requirements-dev.lock (a minute or two the first time)"
    "${pip[@]}" --progress-bar off --require-hashes -r requirements-dev.lock
    "${pip[@]}" --quiet --no-deps --no-build-isolation -e .
    venv_origin >"$VENV_STAMP"
}

mapfile -t to_install < <(missing_installs)
mapfile -t to_unpack < <(missing_unpacks)
# libvirt's own user is made by install-packages.sh; without it the embedded driver does not open.
getent passwd libvirt-qemu >/dev/null || to_install+=(libvirt-daemon)
if ((${#to_install[@]} + ${#to_unpack[@]})); then
    install_system_packages "${to_install[@]}"
    for name in "${to_unpack[@]}"; do
        unpack "$name"
    done
fi
install_python_packages
make --no-print-directory -s -C guest
