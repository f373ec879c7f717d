#!/usr/bin/env bash
# What the tests need beside Python: every runtime that edgeprune validates on can then be had here.
# For Debian 12 and its kin, as root (or with sudo); run it again at will.
#
#   chromium            headless browser, and SwiftShader, a Vulkan adapter in software
#   libvulkan1          how the WebGPU provider finds that adapter
#   openssh-*           a real sshd on the loopback
#   qemu-user-static    runs ARM programs
#   postgresql          a storage for searches; the tests start a server of their own
#   onnxruntime-web     for the browser, by npm, into ${XDG_CACHE_HOME:-~/.cache}/edgeprune
#   arm64               a real ARM onnxruntime, into the same folder (scripts/arm64-rootfs.sh)
set -euo pipefail

ONNXRUNTIME_WEB=1.30.0
CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/edgeprune"
here="$(cd "$(dirname "$0")" && pwd)"
as_root=()
[ "$(id -u)" = 0 ] || as_root=(sudo)

packages=()
need() { # need PROGRAM_OR_FILE PACKAGE
    if ! command -v "$1" >/dev/null && ! [ -e "$1" ]; then packages+=("$2"); fi
}
need chromium chromium
need /usr/lib/chromium/vk_swiftshader_icd.json chromium
need ssh openssh-client
need /usr/sbin/sshd openssh-server
need qemu-aarch64-static qemu-user-static
compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null || packages+=(postgresql)
ldconfig -p | grep -q 'libvulkan\.so\.1' || packages+=(libvulkan1)
if [ ! -d "$CACHE/node_modules/onnxruntime-web" ] && ! command -v npm >/dev/null; then packages+=(npm); fi
if [ "${#packages[@]}" -gt 0 ]; then
    "${as_root[@]}" apt-get -qq update
    # RUNLEVEL=1: the system's own ssh server is installed, not started
    "${as_root[@]}" env RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "${packages[@]}"
fi

installed="$CACHE/node_modules/onnxruntime-web/package.json"
if ! grep -qs "\"version\": \"$ONNXRUNTIME_WEB\"" "$installed"; then
    mkdir -p "$CACHE"
    npm install --silent --ignore-scripts --no-audit --no-fund --prefix "$CACHE" "onnxruntime-web@$ONNXRUNTIME_WEB"
fi
"$here/arm64-rootfs.sh"
