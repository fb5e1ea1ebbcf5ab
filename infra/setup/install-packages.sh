#!/bin/bash
# Installs the Debian packages named as arguments. Must run as root; setup.sh calls it, through sudo
# when there is need. It installs and nothing else: while it works, policy-rc.d keeps services of
# the packages from being started.
set -euo pipefail

export DEBIAN_FRONTEND=noninteractive
APT=(apt-get -q -o DPkg::Lock::Timeout=300)
INSTALL=(install --yes --no-install-recommends)

if [[ "$(id -u)" != 0 ]]; then
    echo "install-packages.sh: must run as root" >&2
    exit 1
fi

# The administrator's own policy wins; ours is there only while we install.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    trap 'rm -f "$policy"' EXIT
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 0755 "$policy"
fi

# `unpack` packages are downloaded later without root, so their lists must be there as well.
known() { apt-cache show -- "$@" >/dev/null 2>&1; }
resolvable() { [[ $# == 0 ]] || "${APT[@]}" --simulate "${INSTALL[@]}" "$@" >/dev/null 2>&1; }

install_names=() list_names=()
for argument in "$@"; do
    case $argument in
    unpack:*) list_names+=("${argument#unpack:}") ;;
    *) install_names+=("$argument") ;;
    esac
done

if ! resolvable "${install_names[@]}" || { ((${#list_names[@]})) && ! known "${list_names[@]}"; }; then
    "${APT[@]}" update
fi
if ((${#install_names[@]})); then
    # Lists that name files the mirror has dropped since are told apart only by trying.
    "${APT[@]}" "${INSTALL[@]}" "${install_names[@]}" || {
        "${APT[@]}" update
        "${APT[@]}" "${INSTALL[@]}" "${install_names[@]}"
    }
fi

# libvirt refuses to start as root without the user it was built with. Debian creates it with the
# package of libvirt's system services, which we do not want.
getent passwd libvirt-qemu >/dev/null ||
    useradd --system --user-group --no-create-home --home-dir /nonexistent \
        --shell /usr/sbin/nologin libvirt-qemu
