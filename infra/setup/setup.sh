#!/bin/bash
# setup.sh [dev]: brings a bare Debian 12 to where the service can run; with `dev` also demo, tests
# and benches. It only installs: system packages (infra/system-packages.txt, the one list), packages
# unpacked below .cache/packages/, the guest agent, and the virtual environment .venv from
# requirements.lock, or from requirements-dev.lock, which has the same versions and more; with `dev`
# also .venv-next from requirements-next.lock. It starts nothing, and does nothing when nothing is
# missing. What programs say goes to .cache/setup.log, whose end is shown when one fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

PYTHON=${PYTHON:-python3}
PACKAGES_DIR=.cache/packages
LOG=.cache/setup.log
STAMP=.installed-from # in an environment, with the lock's name behind it: what it was made from
FOR_DEV=$([[ ${1:-} == dev ]] && echo yes || true)
PIP_INSTALL=(-m pip --disable-pip-version-check --no-input install)

mkdir -p "$PACKAGES_DIR"
exec 9>.cache/setup.lock
flock 9 # a second `make setup` beside this one waits, then finds nothing to do

exec 3>&2 # what is said to whoever started us
said=''
say() {
    [[ $said ]] || printf 'setup: details are in %s\n' "$LOG" >&3
    said=yes
    printf 'setup: %s\n' "$*" >&3
    printf 'setup: %s\n' "$*" # and into the log
}
fail() {
    say "$*"
    trap - EXIT
    exit 1
}
show_end() {
    local status=$?
    if ((status)); then
        printf 'setup: failed with status %s; the end of %s:\n' "$status" "$LOG" >&3
        tail -n 30 "$LOG" >&3
    fi
}
exec >"$LOG" 2>&1
trap show_end EXIT

list() {
    sed -e 's/#.*//' -e 's/[[:space:]]*$//' -e '/^$/d' infra/system-packages.txt |
        if [[ $FOR_DEV ]]; then sed 's/^dev //'; else grep -v '^dev '; fi
}
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
            fail "  apt-get update && apt-get install --yes --no-install-recommends ${installs[*]}"
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

# is_made DIRECTORY LOCK: whether it has what LOCK lists now.
is_made() { [[ -e $1/$STAMP-$2 && "$(<"$1/$STAMP-$2")" == "$(origin "$2" pyproject.toml)" ]]; }
mark_made() { origin "$2" pyproject.toml >"$1/$STAMP-$2"; }

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
    local lock=requirements.lock
    [[ ! $FOR_DEV ]] || lock=requirements-dev.lock
    if ! is_made .venv "$lock"; then
        environment .venv "$lock"
        .venv/bin/python "${PIP_INSTALL[@]}" --quiet --no-deps --no-build-isolation -e .
        mark_made .venv "$lock"
        mark_made .venv requirements.lock # of which the other is an extension
    fi
    # Clients that are to come: they cannot be beside the present ones.
    if [[ $FOR_DEV ]] && ! is_made .venv-next requirements-next.lock; then
        environment .venv-next requirements-next.lock
        mark_made .venv-next requirements-next.lock
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
