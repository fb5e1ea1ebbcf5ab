#!/bin/bash
# `make setup`: brings a bare Debian 12 to where everything else can run. It only installs: system
# packages (infra/system-packages.txt, the one list), packages unpacked below .cache/packages/, the
# virtual environments .venv and .venv-next from requirements-{dev,next}.lock, the guest agent. It
# starts nothing, and does nothing when nothing is missing.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PYTHON=${PYTHON:-python3}
PACKAGES_DIR=.cache/packages
STAMP=.installed-from # in an environment: what it was made from
PIP_INSTALL=(-m pip --disable-pip-version-check --no-input install)

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

# What an environment was made from; anything else means that it must be brought up to date.
origin() {
    printf '%s\n' "$PWD"
    "$PYTHON" -c 'import sys; print(sys.version)'
    sha256sum "$@"
}

# environment DIRECTORY LOCK: bring it to what LOCK lists. That is all there is to install: pip must not
# resolve again, since it would look past the lock for the newest version of what has extras.
environment() {
    local directory=$1 lock=$2 python=$1/bin/python
    # An environment that was moved here, or whose Python is gone, cannot be mended by pip.
    if [[ ! -x $python || "$("$python" -c 'import sys; print(sys.prefix)' 2>/dev/null)" != "$PWD/$directory" ]]; then
        say "creating $directory"
        rm -rf "$directory"
        "$PYTHON" -m venv "$directory"
    fi
    say "installing Python packages from $lock (a minute or two the first time)"
    "$python" "${PIP_INSTALL[@]}" --progress-bar off --no-deps --require-hashes -r "$lock"
}

install_python_packages() {
    "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$PYTHON is older than 3.11; name a newer one: make setup PYTHON=..."
    local wanted
    wanted=$(origin requirements-dev.lock pyproject.toml)
    if [[ ! -e .venv/$STAMP || "$(<".venv/$STAMP")" != "$wanted" ]]; then
        environment .venv requirements-dev.lock
        .venv/bin/python "${PIP_INSTALL[@]}" --quiet --no-deps --no-build-isolation -e .
        printf '%s\n' "$wanted" >".venv/$STAMP"
    fi
    # Clients that are to come: they cannot be beside the present ones.
    wanted=$(origin requirements-next.lock)
    if [[ ! -e .venv-next/$STAMP || "$(<".venv-next/$STAMP")" != "$wanted" ]]; then
        environment .venv-next requirements-next.lock
        printf '%s\n' "$wanted" >".venv-next/$STAMP"
    fi
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
